// Windows on top of the page: keys, images, export, carrying through a volume.

import * as actions from "./actions.js";
import * as api from "./api.js";
import { $, announce, complain, icon, make } from "./dom.js";
import { axisNow, objects, place, selected, state, titleOf } from "./state.js";

function open(id) {
  $(id).showModal();
}

/** Dialogs end by their button, by Escape, and by a click beside them. */
export function listen() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      const { left, right, top, bottom } = dialog.getBoundingClientRect();
      const { clientX: x, clientY: y } = event;
      const beside = event.target === dialog && (x < left || x > right || y < top || y > bottom);
      if (beside || event.target.closest("[data-close]")) dialog.close();
    });
    dialog.addEventListener("close", () => $("canvas").focus({ preventScroll: true }));
  }
  $("propagate-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const [first, last] = [Number($("first").value), Number($("last").value)].sort((one, other) => one - other);
    const said = Object.entries({ least_quality: 100, most_change: 1, least_grey: 100 }).filter(([id]) => $(id).value);
    $("propagate-dialog").close();
    actions.propagate(first, last, Object.fromEntries(said.map(([id, unit]) => [id, Number($(id).value) / unit])));
  });
  $("image-filter").addEventListener("input", renderImages);
  $("image-filter").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") $("image-list").querySelector("button")?.focus();
    else if (event.key === "Enter") $("image-list").querySelector("button")?.click();
    else return;
    event.preventDefault();
  });
  $("image-list").addEventListener("keydown", (event) => {
    const row = event.target.closest("li");
    const other = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling }[event.key];
    if (!other) return;
    other.querySelector("button").focus();
    event.preventDefault();
  });
}

export function help(table) {
  const group = ([title, rows]) =>
    make(
      "section",
      {},
      make("h3", {}, title),
      make(
        "dl",
        {},
        ...rows.flatMap(([keys, what]) => [
          make("dt", {}, ...keys.map((key) => make("kbd", {}, key.replace(/Arrow(?=[A-Z])/, "")))),
          make("dd", {}, what),
        ]),
      ),
    );
  $("help-keys").replaceChildren(...table.map(group));
  open("help-dialog");
}

// Images

const STATES = { todo: "to do", begun: "begun", done: "done", damaged: "damaged" };
let go = () => {};

export async function chooseImage(show) {
  go = show;
  const found = await actions.attempt(() => api.images());
  if (!found) return;
  state.images = found.images;
  $("image-filter").value = "";
  renderImages();
  open("image-dialog");
  $("image-list").querySelector("[aria-current]")?.scrollIntoView({ block: "center" });
  $("image-filter").focus();
}

function renderImages() {
  const words = $("image-filter").value.toLowerCase().split(/\s+/);
  const found = state.images.filter((one) => words.every((word) => one.name.toLowerCase().includes(word)));
  $("image-list").replaceChildren(
    ...found.slice(0, 500).map((one) =>
      make(
        "li",
        {},
        make(
          "button",
          {
            "aria-current": one.id === state.image?.id ? "true" : null,
            onclick: () => {
              $("image-dialog").close();
              go(one.id);
            },
          },
          make("span", { class: `dot ${one.state}`, "aria-hidden": "true" }),
          make("span", { class: "name" }, one.name),
          make("small", {}, `${STATES[one.state]}${one.objects ? ` · ${one.objects}` : ""}`),
        ),
      ),
    ),
  );
  const done = state.images.filter((one) => one.state === "done").length;
  const more = found.length > 500 ? `, the first 500 of ${found.length} shown` : "";
  $("image-count").textContent = `${state.images.length} images, ${done} done${more}`;
}

// Export

const FORMATS = {
  nifti: ["NIfTI", "label map in the image's geometry"],
  nrrd: ["NRRD", "label map in the image's geometry"],
  png: ["PNG", "label map of this slice"],
  "dicom-seg": ["DICOM SEG", "segmentation with coded names"],
  rtstruct: ["DICOM RTSTRUCT", "contours for radiotherapy"],
  coco: ["COCO", "JSON with compressed masks"],
  prompts: ["Prompt log", "every step, to be replayed"],
};
const COLLECTIONS = {
  corpus: ["Corpus", "what vesalius finetune takes"],
  coco: ["COCO", "one JSON file"],
  labels: ["Label maps", "one file per image"],
  prompts: ["Prompt logs", "one file per image"],
};

export function exportMenu() {
  const row = ([title, what], run) => {
    const name = make("span", { class: "name" }, title);
    return make("li", {}, make("button", { onclick: run }, icon("export"), name, make("small", {}, what)));
  };
  $("formats").replaceChildren(
    ...state.image.formats.map((format) => row(FORMATS[format] ?? [format, ""], () => download(format))),
  );
  $("collections").replaceChildren(
    ...state.info.collections.map((format) => row(COLLECTIONS[format] ?? [format, ""], () => collect(format))),
  );
  $("export-result").textContent = objects().length ? "" : "Nothing is outlined on this image yet.";
  open("export-dialog");
}

async function exporting(task) {
  $("export-result").textContent = "Writing…";
  try {
    return await task();
  } catch (error) {
    $("export-result").textContent = `${error.message}${error.remedy ? ` — ${error.remedy}` : ""}`;
    return null;
  }
}

async function download(format) {
  const found = await exporting(() => api.exported(state.image.id, format, place()));
  if (!found) return;
  const link = make("a", { href: URL.createObjectURL(found.blob), download: found.name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  $("export-result").textContent = `${found.name} is in your downloads.`;
  announce(`${found.name} exported`);
}

async function collect(format) {
  const states = $("only-done").checked ? ["done"] : ["begun", "done"];
  const found = await exporting(() => api.exportAll({ format, states }));
  if (!found) return;
  const left = found.left_out.map((one) => `${one.name}: ${one.reason}`);
  const out = left.length ? `\nLeft out: ${left.slice(0, 5).join("; ")}${left.length > 5 ? " …" : ""}` : "";
  $("export-result").textContent = `${found.images} images, ${found.objects} objects: ${found.folder}${out}`;
  announce(`${found.images} images exported`);
}

// Through the volume

export function propagateMenu() {
  const one = selected();
  const { count } = axisNow();
  if (count === 1) announce("This image has one slice");
  else if (state.job) announce("An object is being carried already");
  else if (!one) complain("no object is selected", "outline one on a slice first");
  else if (one.locked) complain(`${titleOf(one)} is locked`, "unlock it first (L)");
  else {
    const keys = one.planes.filter((plane) => plane.axis === state.axis && plane.by !== "propagated").length;
    const from = `${keys} outlined slice${keys > 1 ? "s" : ""} along ${state.axis}`;
    $("propagate-text").textContent = keys
      ? `${titleOf(one)} is carried from ${from} through the others. What you have outlined stays as it is.`
      : `${titleOf(one)} has no outlined slice along ${state.axis} to begin with.`;
    for (const id of ["first", "last"]) $(id).max = count - 1;
    $("first").value = 0;
    $("last").value = count - 1;
    $("propagate-go").disabled = !keys;
    open("propagate-dialog");
    $("propagate-go").focus();
  }
}
