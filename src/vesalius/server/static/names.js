// A field for a name, which completes it from the vocabulary.

import * as api from "./api.js";
import { make } from "./dom.js";

let lists = 0;

/** The field; `done` is called once, with the name or null where it was given up. */
export function nameField(value, done) {
  lists += 1;
  const id = `names-${lists}`;
  const list = make("ul", { id, class: "names", role: "listbox", "aria-label": "Names", hidden: true });
  const input = make("input", {
    class: "name-field",
    "data-key": "name-field",
    type: "text",
    value,
    maxlength: 200,
    autocomplete: "off",
    spellcheck: "false",
    role: "combobox",
    placeholder: "Name, such as liver",
    "aria-label": "Name of the object",
    "aria-autocomplete": "list",
    "aria-expanded": "false",
    "aria-controls": id,
  });
  let found = [];
  let at = -1;
  let asked = 0;
  let ended = false;

  const end = (name) => {
    if (ended) return;
    ended = true;
    list.remove();
    done(name);
  };
  const given = () => (at >= 0 ? found[at].name : input.value.trim());
  const mark = (next) => {
    at = next;
    [...list.children].forEach((row, place) => row.setAttribute("aria-selected", String(place === at)));
    if (at >= 0) {
      input.setAttribute("aria-activedescendant", list.children[at].id);
      list.children[at].scrollIntoView({ block: "nearest" });
    } else input.removeAttribute("aria-activedescendant");
  };
  const show = (targets) => {
    found = targets;
    list.replaceChildren(
      ...targets.map((one, place) =>
        make(
          "li",
          {
            id: `${id}-${place}`,
            role: "option",
            "aria-selected": "false",
            onpointerdown: (event) => {
              event.preventDefault();
              end(one.name);
            },
          },
          make("span", {}, one.name),
          make("small", {}, one.match === one.name ? one.group ?? "" : one.match),
        ),
      ),
    );
    list.hidden = !targets.length;
    input.setAttribute("aria-expanded", String(targets.length > 0));
    mark(-1);
    const box = input.getBoundingClientRect();
    const below = window.innerHeight - box.bottom - 8;
    list.style.right = `${document.documentElement.clientWidth - box.right}px`;
    list.style.maxHeight = `${Math.max(below, box.top - 8)}px`;
    list.style.top = below > 200 || below > box.top ? `${box.bottom + 2}px` : "auto";
    list.style.bottom = below > 200 || below > box.top ? "auto" : `${window.innerHeight - box.top + 2}px`;
  };
  input.addEventListener("input", async () => {
    asked += 1;
    const mine = asked;
    mark(-1); // what was marked before is not what is written now
    const text = input.value.trim();
    if (!text) {
      show([]);
      return;
    }
    try {
      const { targets } = await api.names(text);
      if (mine === asked && !ended) show(targets);
    } catch {
      // A name can be written without proposals.
    }
  });
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && found.length) mark((at + step + found.length + (at < 0 && step < 0 ? 1 : 0)) % found.length);
    else if (event.key === "Enter") end(given());
    else if (event.key === "Escape") end(null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  input.addEventListener("blur", () => end(given()));
  document.body.append(list);
  return input;
}
