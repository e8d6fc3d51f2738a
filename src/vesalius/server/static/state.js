// What the page knows, and who is told when it changes.

export const state = {
  info: null, // of the server
  images: [],
  image: null, // what there is to know about the image on screen
  document: null,
  axis: "z",
  index: 0,
  slice: null, // values of the slice on screen; null until they are there
  window: { low: 0, high: 255 },
  preset: "default", // name of the window, or "own"
  slices: new Map(), // "z:17" -> {revision, planes: object -> plane}
  selected: null, // object; null: the next prompt makes a new one
  lost: null, // object that was selected when it went; undo may bring it back
  tool: "prompt", // prompt, brush, eraser or window
  brush: 12, // diameter, in pixels of the finer direction
  show: "filled", // filled, outlines or nothing
  pending: [], // prompts without an answer
  proposals: null, // of everything mode
  looking: false, // for proposals
  job: null,
  unsaved: 0, // actions without an answer
  cursor: null, // {x, y} in pixel edges, by mouse or keys
  byKeys: false, // whether the cursor was moved by keys last
  corner: null, // of a box that is drawn
  pointed: null, // id of the prompt that the list points at
  preview: null, // candidate that the list points at
  stroke: null, // {mask, object} while the brush is down
};

const listeners = { page: [], view: [] };
const due = new Set();

/** Calls a function after changes: of anything ("page"), or only of what the canvas shows ("view"). */
export function on(topic, listener) {
  listeners[topic].push(listener);
}

/** Says that something has changed; the listeners are called once, before the next picture. */
export function changed(topic = "page") {
  if (!due.size) requestAnimationFrame(tell);
  due.add(topic);
}

function tell() {
  const topics = due.has("page") ? ["page", "view"] : ["view"];
  due.clear();
  for (const topic of topics) for (const listener of listeners[topic]) listener();
}

export const keyOf = (axis, index) => `${axis}:${index}`;
export const place = () => ({ axis: state.axis, index: state.index });
/** Whether the slice that is meant is the one on screen: its values may not have come. */
export const isOnScreen = () => state.slice !== null && state.slice.key === keyOf(state.axis, state.index);
export const axisNow = () => state.image.axes[state.axis];
export const objects = () => state.document?.objects ?? [];
export const objectOf = (number) => objects().find((one) => one.id === number) ?? null;
export const selected = () => objectOf(state.selected);
export const planesNow = () => state.slices.get(keyOf(state.axis, state.index))?.planes ?? new Map();
export const planeNow = () => planesNow().get(state.selected) ?? null;
export const titleOf = (one) => one.name || `Object ${objects().indexOf(one) + 1}`;

/** Length of a pixel (across, down) relative to the finer of the two directions. */
export function aspect() {
  const [down, across] = axisNow().pixel_mm ?? [1, 1];
  const finer = Math.min(down, across);
  return [across / finer, down / finer];
}
