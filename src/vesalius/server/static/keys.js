// All keys, in one table: it makes them work, and it is what the help shows.

import * as actions from "./actions.js";
import { $, announce } from "./dom.js";
import { changed, objects, state } from "./state.js";
import * as tools from "./tools.js";
import * as viewer from "./viewer.js";

/** Names of keys -> what they do. `page` has what concerns the page rather than the image. */
export function keyTable(page) {
  const redraw = (change) => () => {
    change();
    changed("view");
  };
  const tool = (name, text) => () => {
    state.tool = name;
    tools.cursorShape();
    announce(text);
    changed();
  };
  const selectNext = (step) => () => {
    const all = objects();
    const at = all.findIndex((one) => one.id === state.selected);
    const from = at < 0 && step < 0 ? 0 : at;
    if (all.length) actions.select(all[(from + step + all.length) % all.length].id);
  };
  const selectNumber = (event) => {
    const one = objects()[Number(event.key) - 1];
    if (one) actions.select(one.id);
    else announce(`There is no object ${event.key}`);
  };
  const toggle = (name) => () => {
    const one = objects().find((each) => each.id === state.selected);
    if (one) actions.update(one.id, { [name]: !one[name] });
    else announce("No object is selected");
  };
  const arrows = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  };
  const walk = (step) => (event) => {
    if (state.proposals && step === 1 && walkProposals(event.key)) return;
    tools.moveCursor(...arrows[event.key], step);
  };
  const shown = { filled: "outlines", outlines: "nothing", nothing: "filled" };

  return [
    ["Prompts", [
      [["click", "Enter"], "Add: this belongs to the object", () => tools.press(true)],
      [["right click", "Alt+click", "Alt+Enter"], "Remove: this does not belong to it", () => tools.press(false)],
      [["drag", "D"], "Box; with the key, first and second corner at the cursor", () => tools.corner()],
      [["T"], "Text, where the model takes words", () => {
        if (state.info.model.takes_text) $("text").focus();
        else announce("This model takes no words");
      }],
      [["C"], "Next candidate", () => actions.choose(1)],
      [["Shift+C"], "Previous candidate", () => actions.choose(-1)],
      [["Delete"], "Delete the prompt below the cursor", () => tools.deletePrompt(false)],
      [["Backspace"], "Delete the last prompt of the slice", () => tools.deletePrompt(true)],
      [["Shift+Backspace"], "Empty the slice of the object", () => actions.clearSlice()],
      [["Escape"], "Give up a box; leave proposals", page.escape],
    ]],
    ["History", [
      [["Ctrl+Z"], "Undo", () => actions.history("undo", page.show)],
      [["Ctrl+Shift+Z", "Ctrl+Y"], "Redo", () => actions.history("redo", page.show)],
      [["Ctrl+S"], "Nothing to do: every step is saved at once", () => announce("Every step is saved at once")],
    ]],
    ["Objects", [
      [["N"], "New object", () => actions.select(null)],
      [["R", "F2"], "Name the object", page.rename],
      [["1 … 9"], "Select an object", selectNumber],
      [["J"], "Next object", selectNext(1)],
      [["K"], "Previous object", selectNext(-1)],
      [["Ctrl+click", "S"], "Select what is below the cursor", () => tools.pickHere()],
      [["L"], "Lock or unlock", toggle("locked")],
      [["H"], "Hide or show", toggle("hidden")],
      [["Shift+Delete"], "Delete the object", () => actions.remove(state.selected)],
    ]],
    ["Tools", [
      [["P"], "Prompts", tool("prompt", "Prompts: click or drag a box")],
      [["B"], "Brush (right button erases)", tool("brush", "Brush: drag to draw")],
      [["E"], "Eraser", tool("eraser", "Eraser: drag to erase")],
      [["["], "Smaller brush", () => tools.resizeBrush(-1)],
      [["]", "Shift+wheel"], "Larger brush", () => tools.resizeBrush(1)],
      [["A"], "Everything on this slice, as proposals", () => actions.propose()],
      [["Ctrl+Enter"], "Accept all proposals", page.acceptAll],
      [["V"], "Carry the object through the volume", page.propagate],
    ]],
    ["Picture", [
      [["Arrows"], "Move the cursor", walk(1)],
      [["Shift+Arrows"], "Move it by ten pixels", walk(10)],
      [["wheel", ",", "PageUp"], "Previous slice", () => page.step(-1)],
      [["wheel", ".", "PageDown"], "Next slice", () => page.step(1)],
      [["Shift+PageUp"], "Previous slice with something of the object", () => page.stepOutlined(-1)],
      [["Shift+PageDown"], "Next slice with something of the object", () => page.stepOutlined(1)],
      [["Home"], "First slice", () => page.show(state.axis, 0)],
      [["End"], "Last slice", () => page.show(state.axis, Infinity)],
      [["Z"], "Slices along z", () => page.turn("z")],
      [["Y"], "Slices along y", () => page.turn("y")],
      [["X"], "Slices along x", () => page.turn("x")],
      [["Ctrl+wheel", "+"], "Closer", redraw(() => viewer.zoomAt(1.25))],
      [["Ctrl+wheel", "-"], "Further away", redraw(() => viewer.zoomAt(0.8))],
      [["0"], "The whole slice", redraw(() => viewer.fit())],
      [["Space+drag", "middle drag"], "Move the picture", null],
      [["F"], "Mirror top and bottom", () => page.flip(1)],
      [["Shift+F"], "Mirror left and right", () => page.flip(0)],
      [["right drag", "W"], "Window and level; with the key, by dragging", () => {
        if (state.image.colour) announce("Colours are shown as they are");
        else tool("window", "Window and level: drag")();
      }],
      [["Shift+W"], "Next window of the list", page.nextWindow],
      [["O"], "Outlines: filled, lines, none", () => {
        state.show = shown[state.show];
        announce(`Outlines: ${state.show}`);
        changed();
      }],
    ]],
    ["Images", [
      [["Ctrl+ArrowRight"], "Next image", () => page.neighbour("next")],
      [["Ctrl+ArrowLeft"], "Previous image", () => page.neighbour("previous")],
      [["Shift+Enter"], "Done with this image; to the next", page.doneAndNext],
      [["G"], "Go to an image", page.chooseImage],
      [["Ctrl+E"], "Export", page.export],
      [["?"], "These keys", page.help],
    ]],
  ];
}

function walkProposals(key) {
  const { list, at } = state.proposals;
  if (!list.length) return false;
  const step = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
  const next = at === null ? (step > 0 ? 0 : list.length - 1) : (list.indexOf(at) + step + list.length) % list.length;
  state.proposals.at = list[next];
  announce(`Proposal ${next + 1} of ${list.length}, ${list[next].area} pixels`);
  changed();
  return true;
}

const PLACES = { BracketLeft: "[", BracketRight: "]", Comma: ",", Period: "." };

/** The key of an event; where a layout has letters of another script, what a Latin one has in its place. */
function keyOf({ key, code }) {
  if (key.length > 1 || !/\p{L}/u.test(key) || /\p{Script=Latin}/u.test(key)) return key;
  return PLACES[code] ?? /^Key([A-Z])$/.exec(code)?.[1] ?? key;
}

/** How the table names the key of an event. */
export function nameOf(event) {
  const key = keyOf(event);
  if (/^[1-9]$/.test(key) && !event.ctrlKey && !event.altKey && !event.metaKey) return "1 … 9";
  const alone = event.getModifierState("AltGraph"); // how some keyboards write [ and ]
  const parts = [];
  if ((event.ctrlKey || event.metaKey) && !alone) parts.push("Ctrl");
  if (event.altKey && !alone) parts.push("Alt");
  if (event.shiftKey && (key.length > 1 || /\p{L}/u.test(key))) parts.push("Shift");
  if (key.startsWith("Arrow") && !parts.includes("Ctrl")) parts.push("Arrows");
  else parts.push(key.length === 1 ? key.toUpperCase() : key);
  return parts.join("+");
}

/** Makes the keys work. */
export function listen(table) {
  const byName = new Map();
  for (const [names, , run] of table.flatMap(([, rows]) => rows)) {
    for (const name of names) if (run) byName.set(name, run);
  }
  document.addEventListener("keydown", (event) => {
    const { target } = event;
    const writes = target.matches("input:not([type=range]):not([type=color]), select, textarea");
    if (document.querySelector("dialog[open]") || event.isComposing || writes) return;
    if (event.key === " " && !target.matches("button, input, summary, a")) {
      tools.holdSpace(true);
      event.preventDefault();
      return;
    }
    const name = nameOf(event);
    // Buttons and sliders keep the keys that they know.
    const own = target.matches("input") ? /^(Arrows|Home|End|Page)/ : target.matches("button, a") ? /^Enter$/ : null;
    const run = byName.get(name);
    if (!run || own?.test(name)) return;
    event.preventDefault();
    if (state.image || ["?", "G", "Ctrl+ArrowRight", "Ctrl+ArrowLeft"].includes(name)) run(event);
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") tools.holdSpace(false);
  });
  window.addEventListener("blur", () => tools.holdSpace(false));
}
