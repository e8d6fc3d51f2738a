// The panel: the list of objects, and what was said about the selected one on this slice.

import * as actions from "./actions.js";
import { $, icon, make, percent, refill } from "./dom.js";
import { nameField } from "./names.js";
import { changed, objects, planeNow, planesNow, selected, state, titleOf } from "./state.js";
import { promptsNow } from "./viewer.js";

let renaming = null; // object
let shown = null; // object that was selected last

/** Puts a field in the place of an object's name. */
export function rename(number) {
  renaming = number;
  renderObjects();
  const input = $("objects").querySelector(".name-field");
  input?.focus();
  input?.select();
}

function named(one, name) {
  renaming = null;
  changed();
  $("canvas").focus({ preventScroll: true });
  if (name !== null && name !== one.name) actions.update(one.id, { name });
}

export function render() {
  // The field for a name lives on while the annotator writes.
  if (renaming === null || !objects().some((one) => one.id === renaming)) {
    renaming = null;
    renderObjects();
  }
  renderProposals();
  renderSlice();
}

function renderObjects() {
  const planes = planesNow();
  const rows = objects().map((one, place) => objectRow(one, place, planes.get(one.id)));
  const fresh = state.selected === null && !state.proposals;
  if (fresh) {
    const badge = make("span", { class: "badge", "aria-hidden": "true" }, "N");
    rows.push(make("li", { class: "object fresh selected" }, badge, make("span", {}, "New object: click on it")));
  }
  refill($("objects"), rows);
  if (shown !== state.selected) $("objects").querySelector(".selected")?.scrollIntoView({ block: "nearest" });
  shown = state.selected;
  $("object-count").textContent = objects().length || "";
}

function objectRow(one, place, plane) {
  const title = titleOf(one);
  const isSelected = one.id === state.selected;
  const slices = one.planes.length;
  const toggle = (what, names, icons) =>
    make(
      "button",
      {
        class: `plain ${one[what] ? "on" : ""}`,
        "data-key": `${what} ${one.id}`,
        "aria-label": `${one[what] ? names[1] : names[0]} ${title}`,
        title: one[what] ? names[1] : names[0],
        onclick: () => actions.update(one.id, { [what]: !one[what] }),
      },
      icon(icons[Number(one[what])]),
    );
  const name =
    renaming === one.id
      ? nameField(one.name, (text) => named(one, text))
      : make(
          "button",
          {
            class: "pick",
            "data-key": `pick ${one.id}`,
            "aria-pressed": String(isSelected),
            title: isSelected ? "Name it (R)" : `Select${place < 9 ? ` (${place + 1})` : ""}`,
            onclick: () => (isSelected ? rename(one.id) : actions.select(one.id)),
            ondblclick: () => rename(one.id),
          },
          make("span", { class: `name ${one.name ? "" : "unnamed"}` }, title),
          make("small", {}, plane?.mask ? "here" : slices ? `${slices} slice${slices > 1 ? "s" : ""}` : "empty"),
        );
  return make(
    "li",
    { class: `object ${isSelected ? "selected" : ""} ${one.hidden ? "hidden-object" : ""}`, "data-object": one.id },
    make("span", { class: "badge", "aria-hidden": "true" }, place < 9 ? String(place + 1) : ""),
    make("input", {
      type: "color",
      value: one.colour,
      "data-key": `colour ${one.id}`,
      "aria-label": `Colour of ${title}`,
      title: "Colour",
      onchange: (event) => actions.update(one.id, { colour: event.target.value }),
    }),
    name,
    toggle("hidden", ["Hide", "Show"], ["eye", "eye-off"]),
    toggle("locked", ["Lock", "Unlock"], ["unlock", "lock"]),
    make(
      "button",
      {
        class: "plain",
        "data-key": `delete ${one.id}`,
        "aria-label": `Delete ${title}`,
        title: "Delete",
        onclick: () => actions.remove(one.id),
      },
      icon("trash"),
    ),
  );
}

function renderProposals() {
  const { proposals } = state;
  $("proposals-part").hidden = !proposals;
  $("slice-part").hidden = Boolean(proposals);
  if (!proposals) return;
  $("proposal-count").textContent = proposals.list.length;
  refill(
    $("proposals"),
    proposals.list.map((one, place) => {
      const point = (to) => () => {
        if (!state.proposals) return; // the row has been left because it is gone
        state.proposals.at = to;
        changed("view");
      };
      const button = (title, drawing, run) =>
        make(
          "button",
          {
            class: "plain",
            "data-key": `${title} ${place}`,
            "aria-label": `${title} Proposal ${place + 1}`,
            title,
            onfocus: point(one),
            onclick: run,
          },
          icon(drawing),
        );
      return make(
        "li",
        { class: "prompt", onpointerenter: point(one), onpointerleave: point(null) },
        make("span", { class: "what" }, `${place + 1}  ·  ${one.area} px`),
        make("span", { class: "quality" }, percent(one.quality)),
        button("Accept", "check", () => actions.accept([one])),
        button("Reject", "cross", () => actions.reject([one])),
      );
    }),
  );
}

const MADE = {
  prompts: "by prompts",
  drawn: "drawn",
  propagated: "carried here",
  proposal: "a proposal",
  file: "from a file",
};

function renderSlice() {
  const one = selected();
  const plane = planeNow();
  $("slice-title").textContent = one ? titleOf(one) : "New object";
  const facts = [];
  if (plane?.mask) facts.push(`${plane.area} px`, plane.by ? MADE[plane.by] : "crossing slices");
  $("facts").textContent = facts.join("  ·  ");
  renderCandidates(plane);
  refill($("prompts"), promptsNow().map(promptRow));
  $("no-prompts").hidden = promptsNow().length > 0;
  $("no-prompts").textContent = plane?.mask
    ? "Click to correct: add, or remove with the right button."
    : "Click on the structure, or drag a box around it. The right button removes.";
}

function renderCandidates(plane) {
  const list = plane?.candidates ?? [];
  $("candidates").hidden = list.length < 1;
  refill(
    $("candidates"),
    list.map((one, place) => {
      const preview = (to) => () => {
        state.preview = to;
        changed("view");
      };
      return make(
        "button",
        {
          class: "candidate",
          "data-key": `candidate ${place}`,
          "aria-pressed": String(place === plane.chosen),
          "aria-label": `Candidate ${place + 1}, predicted quality ${percent(one.quality)}, ${one.area} pixels`,
          title: "C takes the next one",
          onpointerenter: preview(place),
          onpointerleave: preview(null),
          onclick: () => actions.choose(place, true),
        },
        make("b", {}, percent(one.quality)),
        make("small", {}, `${one.area} px`),
      );
    }),
  );
}

function promptText(one) {
  if (one.kind === "point") return `${one.positive ? "Add" : "Remove"} at ${one.x}, ${one.y}`;
  if (one.kind === "box") {
    const [x0, y0, x1, y1] = one.box.map(Math.round);
    return `Box ${x0}, ${y0} to ${x1}, ${y1}`;
  }
  if (one.kind === "text") return `“${one.text}”`;
  return "Outline that was there";
}

function promptRow(one) {
  const icons = { point: one.positive ? "plus" : "minus", box: "box", text: "text", mask: "brush" };
  const point = (to) => () => {
    state.pointed = to;
    changed("view");
  };
  const text = promptText(one);
  const sign = one.kind === "point" ? (one.positive ? "add" : "remove") : "";
  return make(
    "li",
    { class: `prompt ${one.waits ? "waits" : ""}`, onpointerenter: point(one.id), onpointerleave: point(null) },
    make("span", { class: `mark ${sign}` }, icon(icons[one.kind])),
    make("span", { class: "what" }, text),
    one.waits
      ? null
      : make(
          "button",
          {
            class: "plain",
            "data-key": `prompt ${one.id}`,
            "aria-label": `Delete prompt: ${text}`,
            title: "Delete this prompt",
            onfocus: point(one.id),
            onblur: point(null),
            onclick: () => actions.removePrompt(one.id),
            onkeydown: (event) => {
              if (event.key !== "Delete" && event.key !== "Backspace") return;
              event.preventDefault();
              event.stopPropagation();
              actions.removePrompt(one.id);
            },
          },
          icon("cross"),
        ),
  );
}
