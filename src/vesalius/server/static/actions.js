// What the annotator does: every change is an action that the server logs before it answers.

import * as api from "./api.js";
import { announce, complain, percent } from "./dom.js";
import { area, decode, emptyMask, encode, stroke } from "./rle.js";
import { axisNow, changed, keyOf, objectOf, objects, place, planeNow, planesNow } from "./state.js";
import { selected, state, titleOf } from "./state.js";

// Actions go one after the other, but for prompts about one object and slice: the server joins those, so that the
// annotator need not wait between clicks.
let sent = Promise.resolve();
let group = null; // {topic, after}
let prompts = 0;
let making = null; // promise of the object that the first click makes

function inOrder(topic, task) {
  if (topic === null || group?.topic !== topic) group = { topic, after: sent };
  const run = group.after.then(task);
  sent = Promise.all([sent, run.catch(() => {})]);
  return run;
}

/** Takes a document as the newest one. */
export function adopt(document) {
  if (document.image !== state.image.id || (state.document && document.revision < state.document.revision)) return;
  state.document = document;
  if (state.selected !== null && !objectOf(state.selected)) {
    state.lost = state.selected;
    state.selected = null;
  }
  changed();
}

function adoptAnswer(answer) {
  if (answer.document.image !== state.image.id || !state.document) return;
  const known = state.document.revision;
  adopt(answer.document);
  const { view } = answer;
  if (!view) return;
  const key = keyOf(view.axis, view.index);
  const slice = state.slices.get(key);
  if (slice && slice.revision > answer.revision) return; // overtaken by a later answer
  const planes = new Map(view.all ? [] : slice?.planes);
  for (const plane of view.planes) {
    if (plane.mask === null && !plane.prompts.length) planes.delete(plane.object);
    else planes.set(plane.object, plane);
  }
  // Where another tab has changed something in between, the slice has to be fetched.
  const whole = view.all || (slice && slice.revision >= known && answer.revision <= known + 1);
  state.slices.set(key, { revision: whole ? answer.revision : -1, planes });
}

/** Sends something in its turn and takes the answer; null where it was found done after the line was cut. */
async function perform(send, topic = null) {
  state.unsaved += 1;
  changed();
  try {
    const answer = await inOrder(topic, send);
    if (answer) {
      adoptAnswer(answer);
      complain(null);
    }
    return answer;
  } finally {
    state.unsaved -= 1;
    changed();
  }
}

async function sendOnce(image, action) {
  const before = state.document?.image === image ? state.document.revision : null;
  for (;;) {
    try {
      return await api.act(image, action);
    } catch (error) {
      if (error.code !== "offline") throw error;
      const found = await api.document(image); // waits until the server is back
      if (before === null || found.revision > before) {
        // It may have been done before the line was cut; doing it twice would be worse than asking.
        adopt(found);
        complain("the connection was lost for a moment", "look whether your last step is there");
        return null;
      }
    }
  }
}

/** Runs something that may fail, and says so. */
export async function attempt(task) {
  try {
    return await task();
  } catch (error) {
    if (error.name === "AbortError" || error.code === "superseded") return null;
    complain(error.message, error.remedy);
    if (error.code === "conflict" || error.code === "no_object") await reload();
    return null;
  }
}

/** Fetches the document again. */
export async function reload() {
  adopt(await api.document(state.image.id));
}

function act(action, image = state.image.id) {
  const whole = { view: place(), ...action };
  return attempt(() => perform(() => sendOnce(image, whole)));
}

/** Whether the selected object may not be changed; says so. */
export function refusesChanges() {
  const one = selected();
  if (one?.locked) complain(`${titleOf(one)} is locked`, "unlock it first (L)");
  if (one?.hidden) complain(`${titleOf(one)} is hidden`, "show it first (H)");
  return one?.locked || one?.hidden;
}

function grey() {
  return state.image.colour ? null : { low: state.window.low, high: state.window.high };
}

/** Says something about the selected object, or about a new one, on the slice on screen. */
export async function addPrompt(prompt) {
  if (refusesChanges()) return;
  prompts += 1;
  const item = { ...prompt, number: prompts, image: state.image.id, object: state.selected, ...place() };
  state.pending.push(item);
  changed();
  const action = { kind: "prompt", axis: item.axis, index: item.index, add: [prompt], window: grey() };
  if (item.object === null && making === null) {
    const first = attempt(() => perform(() => sendOnce(item.image, { ...action, object: null })));
    making = first;
    const answer = await first;
    const isWanted = making === first; // and not yet another new object
    if (isWanted) making = null;
    settle((one) => one === item);
    if (answer && state.image.id === item.image) {
      if (isWanted && state.selected === null) state.selected = answer.object;
      tellOutline(answer.object);
      changed();
    }
    return;
  }
  if (item.object === null) {
    // The object is being made by a click before this one.
    item.object = (await making)?.object ?? null;
    if (item.object === null || state.image.id !== item.image) {
      settle((one) => one === item);
      return;
    }
  }
  const topic = `${item.image} ${item.object} ${keyOf(item.axis, item.index)}`;
  item.topic = topic;
  try {
    await perform(() => sendOnce(item.image, { ...action, object: item.object }), topic);
    settle((one) => one.topic === topic && one.number <= item.number);
    tellOutline(item.object);
  } catch (error) {
    if (error.code === "superseded") return; // the later request has this prompt too
    settle((one) => one.topic === topic && one.number <= item.number);
    await attempt(() => Promise.reject(error));
  }
}

function settle(isDone) {
  state.pending = state.pending.filter((one) => !isDone(one));
  changed();
}

function tellOutline(number) {
  const one = objectOf(number);
  const plane = planesNow().get(number);
  if (one === null) return;
  const quality = plane && plane.quality !== null ? `, quality ${percent(plane.quality)}` : "";
  announce(`${titleOf(one)}: ${plane?.mask ? `${plane.area} pixels${quality}` : "nothing found here"}`);
}

/** Takes a prompt of the selected object back. */
export async function removePrompt(id) {
  if (refusesChanges()) return;
  const done = await act({ kind: "prompt", object: state.selected, ...place(), remove: [id], add: [], window: grey() });
  if (done) {
    state.pointed = null;
    announce("Prompt deleted");
  }
}

/** Takes the next of the candidates, or the one of a number. */
export async function choose(which, isNumber = false) {
  const plane = planeNow();
  const count = plane?.candidates.length ?? 0;
  if (!count) {
    announce("There are no candidates to choose from here");
    return;
  }
  if (refusesChanges()) return;
  const candidate = isNumber ? which : (plane.chosen + which + count) % count;
  // It is known what this one looks like, so it is shown before the answer.
  const taken = plane.candidates[candidate];
  const { area: size, quality } = taken;
  Object.assign(plane, { chosen: candidate, mask: size ? taken.mask : null, area: size, quality });
  state.preview = null;
  announce(`Candidate ${candidate + 1} of ${count}, quality ${percent(taken.quality)}`);
  changed();
  const done = await act({ kind: "choose", object: state.selected, ...place(), candidate });
  if (!done) stale();
}

/** Whether the server is making the object that was begun. */
export const isMaking = () => state.selected === null && making !== null;

/**
 * Draws a stroke on what is outlined of its object, or makes a new object of it. What the stroke was begun on may be
 * older than what the server has once all before it is done, so it is drawn on that.
 */
export async function draw(drawn) {
  const { image, axis, index } = drawn;
  const isShown = () => state.image.id === image;
  let number = drawn.object;
  if (number === null) {
    const first = act({ kind: "create", name: "" }, image);
    making = first;
    number = (await first)?.object ?? null;
    const isWanted = making === first;
    if (isWanted) making = null;
    if (number === null) return;
    if (isWanted && isShown() && state.selected === null) state.selected = number;
  }
  const shown = { object: number, mask: encode(drawn.mask), area: area(drawn.mask), by: "drawn", quality: null };
  if (isShown()) {
    const key = keyOf(axis, index);
    if (!state.slices.has(key)) state.slices.set(key, { revision: -1, planes: new Map() });
    state.slices.get(key).planes.set(number, { ...shown, prompts: [], candidates: [], chosen: null });
    changed();
  }
  const done = await attempt(() => perform(() => sendStroke(drawn, number)));
  if (!isShown()) return;
  if (!done) stale();
  else if (keyOf(axis, index) === keyOf(state.axis, state.index)) tellOutline(number);
}

async function sendStroke({ image, axis, index, tool, erases, mask, path }, number) {
  let conflict = null; // revision
  for (;;) {
    const found = await api.planes(image, axis, index);
    const before = found.planes.find((one) => one.object === number)?.mask;
    if (erases && !before) return null;
    const drawn = before ? decode(before) : emptyMask(mask.height, mask.width);
    for (const step of path) stroke(drawn, ...step, erases ? 0 : 1);
    const action = { kind: "mask", object: number, axis, index, mask: encode(drawn), tool, revision: found.revision };
    try {
      return await sendOnce(image, { view: { axis, index }, ...action });
    } catch (error) {
      // Another tab was quicker. Where nothing has changed, it is refused for another reason.
      if (error.code !== "conflict" || conflict === found.revision) throw error;
      conflict = found.revision;
    }
  }
}

/** Empties the slice on screen of the selected object. */
export async function clearSlice() {
  if (!planeNow() || refusesChanges()) return;
  if (await act({ kind: "clear", object: state.selected, ...place() })) announce("The slice is empty");
}

function stale() {
  for (const slice of state.slices.values()) slice.revision = -1;
  changed();
}

/** Undo or redo; shows the slice that changed if it is another one. */
export async function history(kind, show) {
  if (!(kind === "undo" ? state.document.can_undo : state.document.can_redo) && !state.unsaved) {
    announce(kind === "undo" ? "There is nothing to undo" : "There is nothing to redo");
    return;
  }
  const image = state.image.id;
  const before = places();
  const step = state.document[kind];
  const answer = await act({ kind });
  if (!answer || state.image.id !== image) return;
  if (state.selected === null && objectOf(state.lost)) state.selected = state.lost;
  announce(`${kind === "undo" ? "Undone" : "Done again"}${step ? `: ${STEPS[step] ?? step}` : ""}`);
  const after = places();
  const differs = [...new Set([...before.keys(), ...after.keys()])].filter((key) => before.get(key) !== after.get(key));
  const here = keyOf(state.axis, state.index);
  if (differs.length && !differs.includes(here)) {
    const [axis, index] = differs[0].split(":");
    show(axis, Number(index));
  }
}

const STEPS = {
  create: "new object",
  update: "change of an object",
  delete: "deletion of an object",
  prompt: "prompt",
  choose: "choice of a candidate",
  mask: "drawing",
  clear: "emptying of a slice",
  accept: "accepted proposals",
  propagate: "carrying through the volume",
  state: "done mark",
  replace: "objects from another program",
};

/** Slice -> what stands there, to see which has changed. */
function places() {
  const found = new Map();
  for (const one of objects()) {
    for (const { axis, index, by, quality } of one.planes) {
      const key = keyOf(axis, index);
      found.set(key, `${found.get(key) ?? ""} ${one.id} ${by} ${quality}`);
    }
  }
  return found;
}

export async function update(number, values) {
  const done = await act({ kind: "update", object: number, ...values });
  if (done && "name" in values) announce(`Named ${values.name || "nothing"}`);
  return done;
}

export async function remove(number) {
  const one = objectOf(number);
  if (!one) return;
  if (await act({ kind: "delete", object: number })) announce(`${titleOf(one)} deleted; Ctrl+Z brings it back`);
}

export function select(number) {
  state.selected = number;
  state.lost = null;
  making = null;
  state.corner = null;
  state.preview = null;
  state.pointed = null;
  announce(number === null ? "New object: click on it" : `${titleOf(selected())} selected`);
  changed();
}

/** Forgets what concerned the last image. */
export function forget() {
  making = null;
  stopLooking();
  Object.assign(state, { pending: [], proposals: null, corner: null, pointed: null, preview: null, stroke: null });
}

export async function markDone(done) {
  const image = state.image.id;
  const answer = await act({ kind: "state", done });
  if (answer && state.image.id === image) announce(done ? "The image is done" : "The image is not done");
}

// Everything mode

const LEAST = 0.3; // quality of proposals that are asked for

let search = null; // AbortController of the proposals that are looked for

export async function propose() {
  if (state.looking) return;
  const where = place();
  const mine = new AbortController();
  search = mine;
  state.looking = true;
  announce("Looking for everything on this slice…");
  changed();
  const wish = { ...where, window: grey(), quality: LEAST, stability: 0.8 };
  const found = await attempt(() => api.everything(state.image.id, wish, mine.signal));
  if (search !== mine) return; // the slice was left
  stopLooking();
  if (!found) return;
  if (!found.proposals.length) {
    announce("Nothing was found on this slice");
    return;
  }
  complain(null);
  // Networks differ in what they call good: begin with the best few.
  const isEnough = (quality) => found.proposals.filter((one) => one.quality >= quality).length > 2;
  const least = [0.8, 0.7, 0.6, 0.5].find(isEnough);
  state.proposals = { ...where, all: found.proposals, list: [], at: null };
  demand(least ?? LEAST);
}

/** Looks for proposals no longer. */
export function stopLooking() {
  search?.abort();
  search = null;
  state.looking = false;
  changed();
}

/** Shows the proposals of at least a quality. */
export function demand(quality) {
  const { proposals } = state;
  proposals.least = quality;
  proposals.list = proposals.all.filter((one) => one.quality >= quality);
  proposals.at = null;
  announce(`${proposals.list.length} proposals: click those that you want, Ctrl+Enter takes all, Esc ends`);
  changed();
}

export async function accept(chosen) {
  const { axis, index } = state.proposals;
  const image = state.image.id;
  leave(chosen);
  const proposals = chosen.map(({ mask, quality }) => ({ mask, quality }));
  const answer = await act({ kind: "accept", axis, index, proposals });
  if (!answer || state.image.id !== image) return;
  state.selected = answer.objects.at(-1);
  announce(chosen.length === 1 ? "Accepted; R names it" : `${chosen.length} accepted`);
  changed();
}

export function reject(chosen) {
  leave(chosen);
  announce(state.proposals ? `Rejected; ${state.proposals.list.length} left` : "No proposals are left");
}

function leave(chosen) {
  const { proposals } = state;
  for (const which of ["all", "list"]) proposals[which] = proposals[which].filter((one) => !chosen.includes(one));
  proposals.at = null;
  if (!proposals.list.length) state.proposals = null;
  changed();
}

export function endProposals() {
  state.proposals = null;
  announce("Proposals left");
  changed();
}

// Through the volume

let begin = null; // AbortController of a job that the server has not taken yet

/** Carries the selected object from one slice to another; what `rules` leaves out is as the server has it. */
export async function propagate(first, last, rules) {
  const image = state.image.id;
  const wish = { object: state.selected, axis: state.axis, first, last, window: grey(), rules };
  begin = new AbortController();
  state.job = { job: null, state: "running", done: 0, total: 0 };
  announce("Carrying the object through the volume…");
  changed();
  const before = sent;
  // Not in its turn: a server with many jobs takes it later, and clicks do not wait for that.
  const job = await attempt(() => before.then(() => api.propagate(image, wish, begin.signal)));
  state.job = job;
  if (job) complain(null);
  else if (begin.signal.aborted) announce("Stopped; nothing was changed");
  changed();
  if (!job) return;
  while (state.job?.state === "running") {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const found = await attempt(() => api.job(job.job));
    if (!found) break;
    state.job = found;
    changed();
  }
  const end = state.job;
  if (state.image.id === image) await attempt(reload);
  state.job = null;
  changed();
  if (end?.state === "failed") complain(end.error.message, end.error.remedy);
  else announce(end?.state === "done" ? `Carried through ${end.total} slices` : "Stopped; nothing was changed");
}

export async function stopPropagation() {
  if (state.job?.job) await attempt(() => api.cancelJob(state.job.job));
  else begin?.abort();
}

export function maskNow() {
  const { height, width } = axisNow();
  return emptyMask(height, width);
}
