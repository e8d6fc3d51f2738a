// The canvas: the slice, what was outlined on it, and the prompts.

import { $ } from "./dom.js";
import { decode, outline } from "./rle.js";
import { aspect, axisNow, keyOf, objects, planeNow, planesNow, selected, state } from "./state.js";
import { paint } from "./window.js";

const canvas = $("canvas");
const context = canvas.getContext("2d");
const picture = document.createElement("canvas"); // the slice at its own size
const layer = document.createElement("canvas"); // the slice as it is on screen
const scaled = { slice: null, seen: [] }; // what is on both
const outlines = new WeakMap(); // RLE, or mask under the brush -> path
const masks = new WeakMap(); // RLE -> mask

/** Screen = image * scale + offset, in CSS pixels and pixel edges; a negative scale mirrors. */
export const view = { scaleX: 1, scaleY: 1, left: 0, top: 0, flips: {} };

export function toScreen(x, y) {
  return [x * view.scaleX + view.left, y * view.scaleY + view.top];
}

export function toImage(x, y) {
  return [(x - view.left) / view.scaleX, (y - view.top) / view.scaleY];
}

/** Where a pointer is, in pixel edges. */
export function pointed(event) {
  const box = canvas.getBoundingClientRect();
  return toImage(event.clientX - box.left, event.clientY - box.top);
}

export function isInside([x, y]) {
  const { height, width } = axisNow();
  return x >= 0 && y >= 0 && x < width && y < height;
}

/** How many screen pixels a pixel of the finer direction has. */
export const zoomNow = () => Math.min(Math.abs(view.scaleX), Math.abs(view.scaleY));

/** Shows the whole slice. */
export function fit() {
  const { height, width } = axisNow();
  const [across, down] = aspect();
  const zoom = Math.min((canvas.clientWidth - 24) / (width * across), (canvas.clientHeight - 24) / (height * down));
  const [flipX, flipY] = view.flips[state.axis];
  view.scaleX = zoom * across * (flipX ? -1 : 1);
  view.scaleY = zoom * down * (flipY ? -1 : 1);
  centre(width / 2, height / 2);
}

function centre(x, y) {
  view.left = canvas.clientWidth / 2 - x * view.scaleX;
  view.top = canvas.clientHeight / 2 - y * view.scaleY;
}

/** Zooms so that one place of the screen stays. */
export function zoomAt(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const limited = Math.min(Math.max(zoomNow() * factor, 0.05), 64) / zoomNow();
  const [atX, atY] = toImage(x, y);
  view.scaleX *= limited;
  view.scaleY *= limited;
  view.left = x - atX * view.scaleX;
  view.top = y - atY * view.scaleY;
}

export function pan(across, down) {
  view.left += across;
  view.top += down;
}

/** Moves the picture so that a place is on screen. */
export function reveal(x, y) {
  const [left, top] = toScreen(x, y);
  const isNear = (value, length) => value < 24 || value > length - 24;
  if (isNear(left, canvas.clientWidth) || isNear(top, canvas.clientHeight)) centre(x, y);
}

/** Fits the canvas to its place on the page. */
export function resize() {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
}

export function render() {
  const ratio = window.devicePixelRatio || 1;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (!state.image || !state.slice) return;
  drawSlice(ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (state.slice.key === keyOf(state.axis, state.index)) {
    drawObjects();
    drawProposals();
    drawPrompts();
  }
  drawCursor();
  // Programs that drive the page find a pixel by this, and know what is on screen.
  canvas.dataset.view = [view.scaleX, view.scaleY, view.left, view.top].join(" ");
  canvas.dataset.slice = state.slice.key;
}

/** Draws the slice, which is scaled only when something about it has changed. */
function drawSlice(ratio) {
  const { slice } = state;
  const { low, high } = state.window;
  const seen = [low, high, view.scaleX, view.scaleY, view.left, view.top, canvas.width, canvas.height];
  if (scaled.slice !== slice || seen.some((value, place) => value !== scaled.seen[place])) {
    const isNew = scaled.slice !== slice || low !== scaled.seen[0] || high !== scaled.seen[1];
    if (isNew) paint(slice, state.window, picture);
    Object.assign(layer, { width: canvas.width, height: canvas.height }); // which also empties it
    const under = layer.getContext("2d");
    under.setTransform(ratio * view.scaleX, 0, 0, ratio * view.scaleY, ratio * view.left, ratio * view.top);
    under.imageSmoothingEnabled = zoomNow() < 8; // then the pixels themselves are to be seen
    under.imageSmoothingQuality = "high";
    under.drawImage(picture, 0, 0);
    Object.assign(scaled, { slice, seen });
  }
  context.drawImage(layer, 0, 0);
}

function outlineOf(shape) {
  if (!outlines.has(shape)) outlines.set(shape, outline(shape));
  return outlines.get(shape);
}

/** The mask of an RLE, which is decoded once. */
export function maskOf(rle) {
  if (!masks.has(rle)) masks.set(rle, decode(rle));
  return masks.get(rle);
}

/** Says that a mask under the brush has other pixels now. */
export const reshape = (mask) => outlines.delete(mask);

function drawShape(shape, colour, { filled = 0, width = 1.5, dash = [] }) {
  const own = outlineOf(shape);
  if (own === null) return;
  const path = new Path2D();
  path.addPath(own, new DOMMatrix([view.scaleX, 0, 0, view.scaleY, view.left, view.top]));
  context.save();
  if (filled) {
    context.globalAlpha = filled;
    context.fillStyle = colour;
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
  }
  context.strokeStyle = "rgb(0 0 0 / 55%)";
  context.lineWidth = width + 2;
  context.stroke(path);
  context.setLineDash(dash);
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
  context.restore();
}

function drawObjects() {
  if (state.show === "nothing") return;
  const planes = planesNow();
  const filled = state.show === "filled";
  const { stroke } = state;
  const isHere = stroke?.axis === state.axis && stroke?.index === state.index;
  const drawn = [...objects()].sort((one, other) => (one.id === state.selected) - (other.id === state.selected));
  for (const one of drawn) {
    const under = isHere && stroke.object === one.id ? stroke.mask : null;
    const plane = planes.get(one.id);
    const isSelected = one.id === state.selected;
    const mask = under ?? (isSelected && state.preview !== null ? plane?.candidates[state.preview]?.mask : plane?.mask);
    if (one.hidden || !mask) continue;
    const preview = isSelected && state.preview !== null && !under;
    drawShape(mask, one.colour, {
      filled: filled ? (isSelected ? 0.28 : 0.18) : 0,
      width: isSelected ? 2 : 1.25,
      dash: preview ? [6, 4] : [],
    });
  }
  if (isHere && stroke.object === null) drawShape(stroke.mask, "#ffffff", { filled: 0.3, width: 2 });
}

function drawProposals() {
  const { proposals } = state;
  if (!proposals || proposals.axis !== state.axis || proposals.index !== state.index) return;
  proposals.list.forEach((one) => {
    if (one !== proposals.at) drawShape(one.mask, "#e8ecf3", { width: 1, dash: [3, 3] });
  });
  if (proposals.at) drawShape(proposals.at.mask, "#ffffff", { filled: 0.35, width: 2 });
}

/** The prompts that are shown: those of the selected object, and those without an answer. */
export function promptsNow() {
  const answered = planeNow()?.prompts ?? [];
  const isHere = (one) => one.axis === state.axis && one.index === state.index && one.image === state.image.id;
  return [...answered, ...state.pending.filter(isHere).map((one) => ({ ...one, waits: true }))];
}

function drawPrompts() {
  if (state.show === "nothing" || selected()?.hidden) return;
  for (const one of promptsNow()) {
    if (one.kind === "box") drawBox(one.box, one.id === state.pointed, one.waits);
    if (one.kind === "point") drawPoint(one, one.id === state.pointed);
  }
  const corner = state.corner;
  if (corner) {
    const end = state.cursor ?? corner;
    drawBox([corner.x, corner.y, end.x, end.y], false, true);
  }
}

function drawBox([x0, y0, x1, y1], isPointed, waits) {
  const [left, top] = toScreen(x0, y0);
  const [right, bottom] = toScreen(x1, y1);
  context.save();
  context.strokeStyle = "rgb(0 0 0 / 60%)";
  context.lineWidth = 3;
  context.strokeRect(left, top, right - left, bottom - top);
  context.strokeStyle = isPointed ? "#ffffff" : "#7cc4ff";
  context.lineWidth = isPointed ? 2.5 : 1.5;
  context.setLineDash(waits ? [5, 4] : []);
  context.strokeRect(left, top, right - left, bottom - top);
  context.restore();
}

function drawPoint({ x, y, positive, waits }, isPointed) {
  const [left, top] = toScreen(x + 0.5, y + 0.5);
  const radius = isPointed ? 9 : 7;
  context.save();
  context.globalAlpha = waits ? 0.75 : 1;
  context.beginPath();
  context.arc(left, top, radius, 0, 2 * Math.PI);
  context.fillStyle = positive ? "#1d8f4e" : "#c4303a";
  context.fill();
  context.lineWidth = isPointed ? 2.5 : 1.5;
  context.strokeStyle = "#fff";
  context.stroke();
  // A sign as well, for those who do not see the colours.
  context.beginPath();
  context.moveTo(left - 3.5, top);
  context.lineTo(left + 3.5, top);
  if (positive) {
    context.moveTo(left, top - 3.5);
    context.lineTo(left, top + 3.5);
  }
  context.lineWidth = 2;
  context.stroke();
  context.restore();
}

/** Radius of the brush across and down, in pixels. */
export function brushRadius() {
  const [across, down] = aspect();
  return [state.brush / 2 / across, state.brush / 2 / down];
}

function drawCursor() {
  const { cursor } = state;
  if (!cursor) return;
  const [left, top] = toScreen(cursor.x, cursor.y);
  context.save();
  const brushes = state.tool === "brush" || state.tool === "eraser";
  if (brushes && !state.proposals) {
    const [radiusX, radiusY] = brushRadius();
    context.beginPath();
    context.ellipse(left, top, radiusX * Math.abs(view.scaleX), radiusY * Math.abs(view.scaleY), 0, 0, 2 * Math.PI);
    context.strokeStyle = "rgb(0 0 0 / 70%)";
    context.lineWidth = 3;
    context.stroke();
    context.strokeStyle = state.tool === "eraser" ? "#ff9aa2" : "#ffffff";
    context.lineWidth = 1.25;
    context.stroke();
  }
  if (state.byKeys) {
    const [x, y] = [Math.round(left) + 0.5, Math.round(top) + 0.5];
    for (const [colour, width] of [["rgb(0 0 0 / 60%)", 3], ["#ffe45c", 1]]) {
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 5 * dx, y + 5 * dy);
        context.lineTo(x + 22 * dx, y + 22 * dy);
      }
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.stroke();
    }
  }
  context.restore();
}

/** The prompt below a place of the image, or null. */
export function promptAt(x, y) {
  const [left, top] = toScreen(x, y);
  const near = (planeNow()?.prompts ?? []).filter((one) => {
    if (one.kind === "point") {
      const [pointX, pointY] = toScreen(one.x + 0.5, one.y + 0.5);
      return Math.hypot(pointX - left, pointY - top) <= 10;
    }
    if (one.kind !== "box") return false;
    const [x0, y0] = toScreen(one.box[0], one.box[1]);
    const [x1, y1] = toScreen(one.box[2], one.box[3]);
    // How far it is from one of the edges, and from what lies between them.
    const away = (value, one, other) => Math.max(Math.min(one, other) - value, value - Math.max(one, other), 0);
    const onEdge = [Math.abs(left - x0), Math.abs(left - x1), Math.abs(top - y0), Math.abs(top - y1)];
    return Math.max(away(left, x0, x1), away(top, y0, y1)) <= 6 && Math.min(...onEdge) <= 6;
  });
  return near.find((one) => one.kind === "point") ?? near[0] ?? null;
}

const covers = (rle, x, y) => maskOf(rle).data[Math.floor(y) * axisNow().width + Math.floor(x)] === 1;

/** The smallest object whose outline covers a place, or null. */
export function objectAt(x, y) {
  if (!isInside([x, y])) return null;
  const planes = planesNow();
  const isHere = ({ id, hidden }) => !hidden && planes.get(id)?.mask && covers(planes.get(id).mask, x, y);
  return objects().filter(isHere).sort((one, other) => planes.get(one.id).area - planes.get(other.id).area)[0] ?? null;
}

/** The smallest proposal that covers a place, or null. */
export function proposalAt(x, y) {
  if (!isInside([x, y])) return null;
  const found = state.proposals.list.filter((one) => covers(one.mask, x, y));
  return found.sort((one, other) => one.area - other.area)[0] ?? null;
}
