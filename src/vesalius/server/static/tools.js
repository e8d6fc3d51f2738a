// The mouse, and what the keys do at the place of the cursor.

import * as actions from "./actions.js";
import { $, announce } from "./dom.js";
import { stroke } from "./rle.js";
import { axisNow, changed, isOnScreen, keyOf, place, planeNow, state } from "./state.js";
import * as viewer from "./viewer.js";
import { dragged, number } from "./window.js";

const canvas = $("canvas");
const CLICK = 4; // screen pixels that a hand may move during a click
let drag = null; // {kind, x, y, moved, …}
let spaceHeld = false;
let stepSlice = () => {};

/** Begins to listen to the mouse; `scroll` is called with +1 or -1 for the wheel on a volume. */
export function listen(scroll) {
  stepSlice = scroll;
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", cancel);
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("wheel", wheel, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("auxclick", (event) => event.preventDefault());
}

/** Holding Space makes the mouse pan. */
export function holdSpace(held) {
  spaceHeld = held;
  cursorShape();
}

export function cursorShape() {
  const shapes = { prompt: "crosshair", brush: "none", eraser: "none", window: "ns-resize" };
  const own = state.proposals ? "pointer" : shapes[state.tool];
  canvas.style.cursor = drag?.kind === "pan" ? "grabbing" : spaceHeld ? "grab" : own;
}

function down(event) {
  if (!state.slice) return;
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  event.preventDefault();
  if (drag) return;
  const [x, y] = viewer.pointed(event);
  const kind = kindOf(event);
  if (kind !== "pan" && kind !== "window" && isTooEarly()) return;
  drag = { kind, button: event.button, fromX: event.clientX, fromY: event.clientY, x, y, moved: false };
  drag.slice = state.slice;
  drag.lastX = event.clientX;
  drag.lastY = event.clientY;
  if (drag.kind === "stroke") {
    const erases = (state.tool === "eraser") !== (event.button === 2 || event.altKey);
    if (!beginStroke(erases)) drag = null;
    else paintTo(x, y);
  }
  cursorShape();
}

/** Whether another slice is still on screen, which was not meant; says so. */
function isTooEarly() {
  if (isOnScreen()) return false;
  announce("One moment: the slice is not there yet");
  return true;
}

function kindOf(event) {
  if (event.button === 1 || (event.button === 0 && spaceHeld)) return "pan";
  if (state.proposals) return "proposal";
  if (event.button === 0 && (event.ctrlKey || event.metaKey)) return "pick";
  if (state.tool === "brush" || state.tool === "eraser") return "stroke";
  if (event.button === 2) return "remove"; // or, when dragged, window and level
  if (state.tool === "window") return "window";
  return event.altKey ? "remove" : "add"; // or, when dragged, a box
}

function move(event) {
  const [x, y] = viewer.pointed(event);
  state.cursor = { x, y };
  state.byKeys = false;
  if (!drag) {
    if (state.proposals) state.proposals.at = viewer.proposalAt(x, y);
    changed("view");
    return;
  }
  const [across, below] = [event.clientX - drag.lastX, event.clientY - drag.lastY];
  drag.moved ||= Math.hypot(event.clientX - drag.fromX, event.clientY - drag.fromY) > CLICK;
  drag.lastX = event.clientX;
  drag.lastY = event.clientY;
  if (drag.kind === "pan") viewer.pan(across, below);
  if (drag.kind === "stroke") {
    for (const one of event.getCoalescedEvents?.() ?? [event]) paintTo(...viewer.pointed(one));
  }
  const windows = drag.kind === "window" || (drag.kind === "remove" && drag.button === 2);
  if (windows && drag.moved && !state.image.colour) {
    state.window = dragged(state.window, state.image.range, across, below);
    state.preset = "own";
  }
  if (drag.kind === "add" && drag.moved) state.corner = { x: drag.x, y: drag.y };
  changed("view");
}

function up(event) {
  if (!drag || event.button !== drag.button) return;
  const ended = drag;
  const [x, y] = viewer.pointed(event);
  drag = null;
  cursorShape();
  if (ended.kind === "stroke") endStroke();
  else if (ended.kind !== "pan" && !(isOnScreen() && state.slice === ended.slice)) cancel(); // aimed at another slice
  else if (ended.kind === "add" && ended.moved) addBox(ended, { x, y });
  else if (ended.moved) changed();
  else if (ended.kind === "add") addPoint(x, y, true);
  else if (ended.kind === "remove") addPoint(x, y, false);
  else if (ended.kind === "pick") pick(x, y);
  else if (ended.kind === "proposal") {
    const one = viewer.proposalAt(x, y);
    if (one && ended.button === 0) actions.accept([one]);
    if (one && ended.button === 2) actions.reject([one]);
  }
}

function cancel() {
  drag = null;
  state.corner = null;
  state.stroke = null;
  cursorShape();
  changed("view");
}

function leave() {
  if (drag) return;
  state.cursor = null;
  changed("view");
}

let turned = 0;

function wheel(event) {
  event.preventDefault();
  if (!state.slice) return;
  const box = canvas.getBoundingClientRect();
  const pixels = event.deltaMode === 0 ? event.deltaY || event.deltaX : 40 * (event.deltaY || event.deltaX);
  if (event.shiftKey) {
    resizeBrush(pixels < 0 ? 1 : -1);
  } else if (event.ctrlKey || event.metaKey || axisNow().count === 1) {
    viewer.zoomAt(Math.exp(-pixels / 400), event.clientX - box.left, event.clientY - box.top);
    changed("view");
  } else {
    // A touchpad sends many small steps.
    turned += pixels;
    const steps = Math.trunc(turned / 40);
    turned -= 40 * steps;
    if (steps && drag?.kind !== "stroke") stepSlice(Math.sign(steps));
  }
}

/** Escape: gives up a box that was begun. */
export function giveUp() {
  if (!state.corner && !drag) return false;
  cancel();
  return true;
}

// Prompts

/** Adds a point at a place in pixel edges. */
export function addPoint(x, y, positive) {
  if (!viewer.isInside([x, y])) return;
  if (!positive && !planeNow() && !state.pending.length) {
    announce("There is nothing to take away from on this slice: click on the object first");
    return;
  }
  actions.addPrompt({ kind: "point", x: Math.floor(x), y: Math.floor(y), positive });
}

function addBox(from, to) {
  state.corner = null;
  const { width, height } = axisNow();
  const within = (value, length) => Math.min(Math.max(Math.round(value), 0), length);
  const xs = [within(from.x, width), within(to.x, width)].sort((one, other) => one - other);
  const ys = [within(from.y, height), within(to.y, height)].sort((one, other) => one - other);
  if (xs[0] === xs[1] || ys[0] === ys[1]) changed("view");
  else actions.addPrompt({ kind: "box", box: [xs[0], ys[0], xs[1], ys[1]] });
}

function pick(x, y) {
  const one = viewer.objectAt(x, y);
  if (one) actions.select(one.id);
  else announce("No object is here");
}

// The brush

function beginStroke(erases) {
  if (actions.refusesChanges()) return false;
  if (actions.isMaking()) {
    announce("One moment: the new object is being made");
    return false;
  }
  const plane = planeNow();
  const isKnown = state.slices.has(keyOf(state.axis, state.index)) && !state.unsaved;
  if (erases && isKnown && !plane?.mask) {
    announce("There is nothing to erase on this slice");
    return false;
  }
  const mask = actions.maskNow();
  if (plane?.mask) mask.data.set(viewer.maskOf(plane.mask).data);
  const tool = erases ? "eraser" : "brush";
  state.stroke = { mask, image: state.image.id, object: state.selected, ...place(), tool, erases, last: null, path: [] };
  return true;
}

function paintTo(x, y) {
  const { stroke: begun } = state;
  if (!begun || keyOf(begun.axis, begun.index) !== keyOf(state.axis, state.index)) return;
  const step = [begun.last ?? [x, y], [x, y], ...viewer.brushRadius()];
  stroke(begun.mask, ...step, begun.erases ? 0 : 1);
  begun.path.push(step);
  begun.last = [x, y];
  viewer.reshape(begun.mask);
  changed("view");
}

function endStroke() {
  const { stroke: ended } = state;
  state.stroke = null;
  if (!ended) return;
  if (ended.object === null && !ended.mask.data.includes(1)) changed("view");
  else actions.draw(ended);
}

export function resizeBrush(direction) {
  const step = Math.max(1, Math.round(state.brush / 8));
  state.brush = Math.min(Math.max(state.brush + direction * step, 1), 200);
  announce(`Brush ${state.brush} pixels wide`);
  changed();
}

// Keys

/** Moves the cursor by whole pixels as they are seen, and puts it on a pixel's centre. */
export function moveCursor(across, down, step) {
  const { width, height } = axisNow();
  const begun = state.cursor ?? { x: width / 2, y: height / 2 };
  const x = Math.floor(begun.x) + step * across * Math.sign(viewer.view.scaleX);
  const y = Math.floor(begun.y) + step * down * Math.sign(viewer.view.scaleY);
  state.cursor = {
    x: Math.min(Math.max(x, 0), width - 1) + 0.5,
    y: Math.min(Math.max(y, 0), height - 1) + 0.5,
  };
  state.byKeys = true;
  viewer.reveal(state.cursor.x, state.cursor.y);
  if (state.proposals) state.proposals.at = viewer.proposalAt(state.cursor.x, state.cursor.y);
  changed("view");
  tellCursor();
}

let telling = null;

function tellCursor() {
  // Only when the hand rests: a screen reader would never come to an end.
  clearTimeout(telling);
  telling = setTimeout(() => announce(cursorText(true)), 600);
}

/** Where the cursor is, and the value there. */
export function cursorText(long = false) {
  const { cursor, slice } = state;
  if (!cursor || !slice || !viewer.isInside([cursor.x, cursor.y])) return "";
  const [x, y] = [Math.floor(cursor.x), Math.floor(cursor.y)];
  const from = (y * slice.width + x) * slice.channels;
  const value = [...slice.values.subarray(from, from + slice.channels)].map(number).join(" ");
  return long ? `Column ${x}, row ${y}, value ${value}` : `${x}, ${y}: ${value}`;
}

/** What a click would do, at the cursor. */
export function press(positive) {
  if (isTooEarly()) return;
  if (state.proposals) {
    const one = state.proposals.at; // which the arrow keys go to, wherever the cursor is
    if (!one) announce("The arrow keys go from proposal to proposal");
    else if (positive) actions.accept([one]);
    else actions.reject([one]);
    return;
  }
  if (!state.cursor) {
    moveCursor(0, 0, 0);
    return;
  }
  const { x, y } = state.cursor;
  if (state.corner) corner();
  else if (state.tool === "brush" || state.tool === "eraser") {
    if (beginStroke((state.tool === "eraser") === positive)) {
      paintTo(x, y);
      endStroke();
    }
  } else addPoint(x, y, positive);
}

/** First and second corner of a box, at the cursor. */
export function corner() {
  if (isTooEarly()) return;
  if (!state.cursor) moveCursor(0, 0, 0);
  const { x, y } = state.cursor;
  if (!state.corner) {
    state.corner = { x: Math.floor(x), y: Math.floor(y) };
    announce("First corner of a box: move the cursor, then D or Enter");
    changed("view");
    return;
  }
  const from = state.corner;
  // The pixel below the cursor belongs to the box.
  addBox(
    { x: Math.min(from.x, Math.floor(x)), y: Math.min(from.y, Math.floor(y)) },
    { x: Math.max(from.x, Math.floor(x)) + 1, y: Math.max(from.y, Math.floor(y)) + 1 },
  );
}

/** Selects what is below the cursor. */
export function pickHere() {
  if (state.cursor) pick(state.cursor.x, state.cursor.y);
}

/** Deletes the prompt below the cursor, or else the last one of the slice. */
export function deletePrompt(onlyLast) {
  const prompts = planeNow()?.prompts ?? [];
  const here = !onlyLast && state.cursor ? viewer.promptAt(state.cursor.x, state.cursor.y) : null;
  const one = here ?? (onlyLast ? prompts.at(-1) : prompts.find((each) => each.id === state.pointed) ?? null);
  if (one) actions.removePrompt(one.id);
  else announce(prompts.length ? "No prompt is here; Backspace deletes the last one" : "There is no prompt to delete");
}
