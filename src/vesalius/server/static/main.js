// The page: opens images and slices, and keeps what is shown up to date.

import * as actions from "./actions.js";
import * as api from "./api.js";
import { $, announce, complain, make, percent } from "./dom.js";
import * as dialogs from "./dialogs.js";
import * as keys from "./keys.js";
import * as panel from "./objects.js";
import { axisNow, changed, keyOf, on, place, planeNow, selected, state } from "./state.js";
import * as tools from "./tools.js";
import * as viewer from "./viewer.js";
import { levelOf, number, windowName, windowOf } from "./window.js";

const MEMORY = 2 ** 27; // bytes of slices that are kept
const pixels = new Map(); // "image z:17" -> {promise of the slice, done, controller: AbortController}
let wanted = null; // key of the slice that is to be shown
let fetching = null; // AbortController of what is wanted no longer
let listening = null; // AbortController of the wait for other tabs
let opened = 0;
let asked = null; // image that is to be shown, whether it can be read or not

const memory = {
  get: (key) => JSON.parse(localStorage.getItem(`vesalius ${key}`) ?? "null"),
  set: (key, value) => localStorage.setItem(`vesalius ${key}`, JSON.stringify(value)),
};

// Images

async function openImage(image) {
  opened += 1;
  const mine = opened;
  asked = image;
  announce("Opening…");
  const found = await actions.attempt(() => Promise.all([api.about(image), api.document(image)]));
  if (mine !== opened) return;
  if (!found) {
    announce("The image cannot be opened");
    changed();
    return;
  }
  listening?.abort();
  const [about, document_] = found;
  actions.forget();
  const before = memory.get(image) ?? {};
  if (about.colour && state.tool === "window") state.tool = "prompt";
  Object.assign(state, { image: about, document: null, slice: null, window: about.window, preset: "default" });
  state.slices = new Map();
  leavePixels();
  pixels.clear();
  actions.adopt(document_);
  const objects = state.document.objects;
  state.selected = objects.some((one) => one.id === before.selected) ? before.selected : (objects.at(-1)?.id ?? null);
  state.axis = about.axes[before.axis] ? before.axis : "z";
  state.index = Math.min(before.index ?? Math.floor(axisNow().count / 2), axisNow().count - 1);
  viewer.view.flips = { ...usualFlips(about), ...before.flips };
  memory.set("image", image);
  history.replaceState(null, "", `/#${image}`);
  document.title = `${about.name} – Vesalius`;
  complain(document_.warnings[0] ?? null);
  $("prop-progress").hidden = true;
  await showSlice(true);
  if (mine !== opened) return;
  if (!document_.warnings.length) {
    announce(`${about.name}: ${objects.length || "no"} object${objects.length === 1 ? "" : "s"}`);
  }
  followOthers();
}

/** The image before or after the one that was asked for, so that one which cannot be read is no end. */
function neighbour(which) {
  if (asked === state.image?.id) return state.image?.[which] ?? null;
  const at = state.images.findIndex((one) => one.id === asked);
  return state.images[at + (which === "next" ? 1 : -1)]?.id ?? null;
}

/** Which slices are mirrored (across, down), so that they are seen as on a light box: from the feet, and head up. */
function usualFlips({ axes, directions, spacing_mm }) {
  // Where it is not said how the patient lies, z is taken to go up, as it does in most files.
  const towards = directions ?? (spacing_mm ? { x: "L", y: "P", z: "S" } : { x: "L", y: "P", z: "I" });
  const mirrored = (name) => "RAS".includes(towards[name]);
  return Object.fromEntries(
    Object.entries(axes).map(([axis, { rows, columns }]) => [axis, [mirrored(columns), mirrored(rows)]]),
  );
}

/** Waits for what other tabs and programs do with the image; a hidden tab does not, as browsers keep few lines. */
async function followOthers() {
  listening?.abort();
  if (!state.image || document.visibilityState !== "visible") return;
  listening = new AbortController();
  const { signal } = listening;
  const image = state.image.id;
  while (!signal.aborted) {
    try {
      const document_ = await api.newer(image, state.document.revision, signal);
      // What this tab does comes with its own answers.
      if (document_ && !state.unsaved && document_.revision > state.document.revision) actions.adopt(document_);
      if (document_ && state.unsaved) await new Promise((resolve) => setTimeout(resolve, 200));
    } catch (error) {
      if (error.name === "AbortError") return;
      await new Promise((resolve) => setTimeout(resolve, 3000));
    }
  }
}

function remember() {
  const { axis, index, selected: object } = state;
  memory.set(state.image.id, { axis, index, selected: object, flips: viewer.view.flips });
}

// Slices

function pixelsOf(axis, index) {
  const { id } = state.image;
  const key = `${id} ${keyOf(axis, index)}`;
  if (!pixels.has(key)) {
    const one = { controller: new AbortController(), done: false };
    one.promise = api.pixels(id, axis, index, one.controller.signal).then((slice) => {
      one.done = true;
      return { ...slice, key: keyOf(axis, index) };
    });
    one.promise.catch(() => pixels.get(key) === one && pixels.delete(key));
    pixels.set(key, one);
    const kept = Math.max(6, MEMORY / (state.slice?.values.byteLength ?? 2 ** 20));
    if (pixels.size > kept) pixels.delete(pixels.keys().next().value);
  }
  return pixels.get(key).promise;
}

/** Gives up the slices that are on their way, but for one. */
function leavePixels(but = null) {
  for (const [key, one] of pixels) {
    if (key === but || one.done) continue;
    one.controller.abort();
    pixels.delete(key);
  }
}

async function showSlice(refit = false) {
  const { axis, index } = state;
  const key = `${state.image.id} ${keyOf(axis, index)}`;
  wanted = key;
  leavePixels(key);
  state.corner = null;
  state.preview = null;
  state.pointed = null;
  const { proposals } = state;
  if (proposals && keyOf(proposals.axis, proposals.index) !== keyOf(axis, index)) state.proposals = null;
  remember();
  const slice = await actions.attempt(() => pixelsOf(axis, index));
  if (!slice || wanted !== key) return;
  state.slice = slice;
  if (refit) viewer.fit();
  changed();
  afterRest(() => {
    if (wanted !== key) return;
    prepare();
    for (const near of [index + 1, index - 1, index + 2]) {
      if (near >= 0 && near < axisNow().count) pixelsOf(axis, near).catch(() => {});
    }
  });
}

let rest = null;

function afterRest(task) {
  clearTimeout(rest);
  rest = setTimeout(task, 120);
}

/** Makes the server ready for a click on what is on screen. */
function prepare() {
  const { low, high } = state.window;
  api.prepare(state.image.id, { ...place(), window: state.image.colour ? null : { low, high } }).catch(() => {});
}

function show(axis, index) {
  const turned = axis !== state.axis;
  state.axis = axis;
  state.index = Math.min(Math.max(index, 0), axisNow().count - 1);
  if (turned) state.cursor = null;
  actions.stopLooking();
  showSlice(turned);
  changed();
}

function step(by) {
  if (axisNow().count === 1) return;
  show(state.axis, state.index + by);
  announce(`Slice ${state.index} of 0 to ${axisNow().count - 1}`);
}

function turn(axis) {
  const { axes } = state.image;
  if (axis === state.axis) return;
  if (!axes[axis]) {
    announce("This image has one slice");
    return;
  }
  const begun = memory.get(`${state.image.id} ${axis}`);
  memory.set(`${state.image.id} ${state.axis}`, state.index);
  // What the cursor points at stays in sight.
  const { cursor } = state;
  const now = axisNow();
  let index = begun ?? Math.floor(axes[axis].count / 2);
  if (cursor && axis === now.columns) index = Math.floor(cursor.x);
  if (cursor && axis === now.rows) index = Math.floor(cursor.y);
  show(axis, index);
  announce(`Slices along ${axis}: ${state.index} of 0 to ${axisNow().count - 1}`);
}

function stepOutlined(direction) {
  const planes = selected()?.planes ?? state.document.objects.flatMap((one) => one.planes);
  const others = planes
    .filter((one) => one.axis === state.axis && direction * (one.index - state.index) > 0)
    .map((one) => one.index);
  if (others.length) show(state.axis, direction > 0 ? Math.min(...others) : Math.max(...others));
  else announce("There is nothing further in this direction");
}

/** Fetches what is outlined on the slice on screen, unless it is known. */
async function refreshPlanes() {
  if (!state.image || !state.document) return;
  const { axis, index } = state;
  const image = state.image.id;
  const { revision } = state.document;
  const key = keyOf(axis, index);
  const known = state.slices.get(key);
  if (known && known.revision >= revision) return;
  const wish = `${image} ${key} ${revision}`;
  if (fetching?.wish === wish) return;
  fetching?.abort();
  fetching = Object.assign(new AbortController(), { wish });
  const mine = fetching;
  try {
    const found = await api.planes(image, axis, index, mine.signal);
    if (state.image.id !== image) return;
    const now = state.slices.get(key);
    // What came on its way here is newer; then it is fetched again.
    if (!now || found.revision >= Math.max(now.revision, state.document.revision)) {
      const planes = new Map(found.planes.map((one) => [one.object, one]));
      state.slices.set(key, { revision: found.revision, planes });
    }
    if (state.slices.size > 256) state.slices.delete(state.slices.keys().next().value);
    changed();
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message, error.remedy);
  } finally {
    if (fetching === mine) fetching = null;
  }
}

// What is around the canvas

function renderFrame() {
  const { image, document: document_ } = state;
  $("previous").disabled = !neighbour("previous");
  $("next").disabled = !neighbour("next");
  const needed = "#tools button, #below :is(button, input, select), #done, #export, #new";
  for (const one of document.querySelectorAll(needed)) one.disabled = !image;
  if (!image || !document_) return;
  const axis = axisNow();
  $("image-name").textContent = image.name;
  $("undo").disabled = !document_.can_undo;
  $("redo").disabled = !document_.can_redo;
  $("done").setAttribute("aria-pressed", String(document_.state === "done"));
  $("done-text").textContent = document_.state === "done" ? "Done" : "Mark done";
  renderSaved();
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
  }
  $("everything").disabled = state.looking;
  $("everything").classList.toggle("busy", state.looking);
  $("through").disabled = axis.count === 1 || Boolean(state.job);
  $("brush-options").hidden = state.tool !== "brush" && state.tool !== "eraser";
  $("brush-size").value = state.brush;
  $("brush-number").textContent = `${state.brush} px`;
  $("text-options").hidden = !state.info.model.takes_text;
  $("proposal-banner").hidden = !state.proposals;
  if (state.proposals) {
    $("least").value = Math.round(100 * state.proposals.least);
    $("least-number").textContent = percent(state.proposals.least);
  }
  renderSlices(axis);
  renderJob();
  $("hint").hidden = document_.objects.length > 0 || state.pending.length > 0 || Boolean(state.proposals);
  tools.cursorShape();
}

function renderSaved() {
  const texts = { offline: ["Server does not answer…", "bad"], busy: ["Server is busy, trying again…", "waits"] };
  const [text, kind] = texts[api.link.state] ?? (state.unsaved ? ["Saving…", "waits"] : ["Saved", "good"]);
  $("saved").className = kind;
  if ($("saved-text").textContent !== text) $("saved-text").textContent = text;
}

function renderSlices(axis) {
  const flat = axis.count === 1;
  $("slices").hidden = flat;
  $("axes").hidden = flat;
  if (flat) return;
  for (const button of document.querySelectorAll("[data-axis]")) {
    button.setAttribute("aria-pressed", String(button.dataset.axis === state.axis));
  }
  $("slice").max = axis.count - 1;
  $("slice").value = state.index;
  $("slice").setAttribute("aria-valuetext", `slice ${state.index} of 0 to ${axis.count - 1} along ${state.axis}`);
  $("slice-number").max = axis.count - 1;
  if (document.activeElement !== $("slice-number")) $("slice-number").value = state.index;
  $("slice-last").textContent = `/ ${axis.count - 1}`;
  const one = selected();
  const planes = (one?.planes ?? []).filter((plane) => plane.axis === state.axis);
  $("ticks").replaceChildren(
    ...planes.map((plane) => {
      const tick = make("i", { class: plane.by === "propagated" ? "carried" : "" });
      tick.style.left = `${(100 * plane.index) / Math.max(axis.count - 1, 1)}%`;
      tick.style.background = one.colour;
      return tick;
    }),
  );
}

function renderWindows() {
  $("windows").hidden = state.image.colour;
  document.querySelector('[data-tool="window"]').disabled = state.image.colour;
  const names = Object.keys(state.image.windows);
  if ($("preset").dataset.names !== names.join()) {
    $("preset").dataset.names = names.join();
    $("preset").replaceChildren(
      ...names.map((name) => make("option", { value: name }, windowName(name))),
      make("option", { value: "own" }, "By hand"),
    );
  }
  $("preset").value = state.preset;
  const { level, width } = levelOf(state.window);
  for (const [id, value] of [["level", level], ["width", width]]) {
    if (document.activeElement !== $(id)) $(id).value = number(value);
  }
}

function renderJob() {
  const { job } = state;
  $("prop-progress").hidden = !job;
  if (!job) return;
  $("prop-bar").max = Math.max(job.total, 1);
  $("prop-bar").value = job.done;
  $("prop-text").textContent = job.job ? `${job.done} of ${job.total} slices` : "Waiting…";
}

function renderReadouts() {
  if (!state.image) return;
  renderWindows();
  renderSides();
  const axis = axisNow();
  const spacing = state.image.spacing_mm?.[state.axis];
  const depth = spacing ? `  ·  ${(state.index * spacing).toFixed(1)} mm` : "";
  $("readout-place").textContent = axis.count > 1 ? `${state.axis} ${state.index}${depth}` : "";
  $("readout-cursor").textContent = tools.cursorText();
  $("readout-zoom").textContent = `${Math.round(100 * viewer.zoomNow())} %`;
  const plane = planeNow();
  const count = plane?.candidates.length;
  const shown = state.preview !== null ? plane?.candidates[state.preview] : plane;
  const which = count > 1 ? `  ·  ${(state.preview ?? plane.chosen) + 1} of ${count}` : "";
  const hasQuality = shown?.quality !== null && shown?.quality !== undefined;
  $("readout-quality").hidden = !hasQuality;
  $("readout-quality").textContent = hasQuality ? `Quality ${percent(shown.quality)}${which}` : "";
}

const OPPOSITE = { L: "R", R: "L", A: "P", P: "A", S: "I", I: "S" };

/** Letters for the sides of the patient, where the server knows them. */
function renderSides() {
  const { directions } = state.image;
  const { rows, columns } = axisNow();
  const [flipX, flipY] = viewer.view.flips[state.axis];
  const ends = (name, flip) => {
    const towards = directions?.[name] ?? "";
    return flip ? [towards, OPPOSITE[towards] ?? ""] : [OPPOSITE[towards] ?? "", towards];
  };
  const [left, right] = ends(columns, flipX);
  const [up, down] = ends(rows, flipY);
  for (const [side, letter] of Object.entries({ left, right, up, down })) $(`side-${side}`).textContent = letter;
}

function setWindow(name) {
  state.preset = name;
  state.window = state.image.windows[name];
  changed();
  afterRest(prepare);
}

function nextWindow() {
  const names = Object.keys(state.image.windows);
  if (state.image.colour) return;
  setWindow(names[(names.indexOf(state.preset) + 1) % names.length]);
  announce(`Window: ${windowName(state.preset)}`);
}

function ownWindow() {
  const [level, width] = [Number($("level").value), Number($("width").value)];
  if (!Number.isFinite(level) || !(width > 0)) return;
  state.window = windowOf(level, width);
  state.preset = "own";
  changed();
  afterRest(prepare);
}

const page = {
  show,
  step,
  stepOutlined,
  turn,
  nextWindow,
  rename: () => (selected() ? panel.rename(state.selected) : announce("No object is selected")),
  escape: () => {
    if (tools.giveUp()) return;
    if (state.proposals) actions.endProposals();
    else if (state.looking) actions.stopLooking();
    else complain(null);
  },
  acceptAll: () => {
    if (state.proposals?.list.length) actions.accept([...state.proposals.list]);
    else announce("There are no proposals");
  },
  propagate: dialogs.propagateMenu,
  neighbour: (which) => (neighbour(which) ? openImage(neighbour(which)) : announce(`There is no ${which} image`)),
  doneAndNext: async () => {
    const image = state.image.id;
    if (state.document.state !== "done") await actions.markDone(true);
    if (asked === image) page.neighbour("next");
  },
  flip: (which) => {
    const flips = viewer.view.flips[state.axis];
    flips[which] = !flips[which];
    viewer.fit();
    remember();
    announce(which ? "Mirrored top and bottom" : "Mirrored left and right");
    changed("view");
  },
  chooseImage: () => dialogs.chooseImage(openImage),
  export: dialogs.exportMenu,
  help: () => dialogs.help(table),
};
const table = keys.keyTable(page);

function listen() {
  const click = (id, run) => $(id).addEventListener("click", run);
  click("previous", () => page.neighbour("previous"));
  click("next", () => page.neighbour("next"));
  click("images", page.chooseImage);
  click("done", () => actions.markDone(state.document.state !== "done"));
  click("undo", () => actions.history("undo", show));
  click("redo", () => actions.history("redo", show));
  click("export", page.export);
  click("help", page.help);
  click("new", () => {
    actions.select(null);
    $("canvas").focus({ preventScroll: true });
  });
  click("everything", () => actions.propose());
  click("through", page.propagate);
  click("accept-all", page.acceptAll);
  click("end-proposals", page.escape);
  click("stop", () => actions.stopPropagation());
  click("fit", () => (viewer.fit(), changed("view")));
  click("closer", () => (viewer.zoomAt(1.25), changed("view")));
  click("further", () => (viewer.zoomAt(0.8), changed("view")));
  click("error-close", () => complain(null));
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.addEventListener("click", () => {
      state.tool = button.dataset.tool;
      changed();
    });
  }
  for (const button of document.querySelectorAll("[data-axis]")) {
    button.addEventListener("click", () => turn(button.dataset.axis));
  }
  $("slice").addEventListener("input", () => show(state.axis, Number($("slice").value)));
  $("slice-number").addEventListener("change", () => show(state.axis, Math.round(Number($("slice-number").value))));
  $("preset").addEventListener("change", () => $("preset").value !== "own" && setWindow($("preset").value));
  $("level").addEventListener("change", ownWindow);
  $("width").addEventListener("change", ownWindow);
  $("brush-size").addEventListener("input", () => {
    state.brush = Number($("brush-size").value);
    changed();
  });
  $("least").addEventListener("input", () => actions.demand(Number($("least").value) / 100));
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Escape") $("canvas").focus();
    const text = $("text").value.trim();
    if (event.key !== "Enter" || !text) return;
    actions.addPrompt({ kind: "text", text });
    $("text").value = "";
    $("canvas").focus();
  });
  // The keys are the picture's again when the mouse has done its work elsewhere.
  const toPicture = () => $("canvas").focus({ preventScroll: true });
  const back = (event) => {
    const { activeElement } = document;
    const writes = activeElement?.matches(".name-field, #text, #slice-number, #level, #width, select");
    if (event.detail > 0 && !writes && !document.querySelector("dialog[open]")) toPicture();
  };
  document.querySelector("main").addEventListener("click", back);
  document.querySelector("header").addEventListener("click", back);
  for (const id of ["preset", "slice-number", "level", "width"]) $(id).addEventListener("change", toPicture);
  // After a hand has chosen a window, the model is shown the same.
  $("canvas").addEventListener("pointerup", () => state.preset === "own" && afterRest(prepare));
  let size = "";
  new ResizeObserver(() => {
    viewer.resize();
    const now = `${$("canvas").clientWidth} ${$("canvas").clientHeight}`;
    if (state.image && state.slice && size !== now) viewer.fit();
    size = now;
    viewer.render();
  }).observe($("canvas"));
  document.addEventListener("visibilitychange", followOthers);
  window.addEventListener("beforeunload", (event) => state.unsaved && event.preventDefault());
  window.addEventListener("hashchange", () => {
    const image = location.hash.slice(1);
    if (image && image !== state.image?.id) openImage(image);
  });
}

async function begin() {
  listen();
  tools.listen(step);
  dialogs.listen();
  keys.listen(table);
  on("page", renderFrame);
  on("page", panel.render);
  on("page", refreshPlanes);
  on("page", () => state.image && remember());
  on("view", viewer.render);
  on("view", renderReadouts);
  changed();
  api.link.tell = () => {
    renderSaved();
    if (api.link.state) announce($("saved-text").textContent);
  };
  const found = await actions.attempt(() => Promise.all([api.info(), api.images()]));
  if (!found) return;
  state.info = found[0];
  state.images = found[1].images;
  $("model").textContent = state.info.model.name;
  $("model").title = `The model at work, run by ${state.info.model.runs_by}`;
  const isThere = (image) => state.images.some((one) => one.id === image);
  const first = ["begun", "todo", "done"].map((kind) => state.images.find((one) => one.state === kind)?.id);
  const image = [location.hash.slice(1), memory.get("image"), ...first].find(isThere);
  if (image) await openImage(image);
  else complain("there are no images", "put some into the folder and load the page again");
}

begin();
