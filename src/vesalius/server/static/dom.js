// Small helpers for the page's elements.

export const $ = (id) => document.getElementById(id);

/** Makes an element: properties that begin with "on" are listeners, `null` and `false` are left out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A drawing of the sprite in index.html; it says nothing to a screen reader. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Says what happened, to the eye and to a screen reader. */
export function announce(text) {
  $("status").textContent = text;
}

/** Shows one line about what went wrong and what to do; with no text, takes it away. */
export function complain(text, remedy = null) {
  $("error").hidden = !text;
  $("error-text").textContent = text ? [text, remedy].filter(Boolean).map(sentence).join(" ") : "";
}

export function sentence(text) {
  // The name of a file, before a colon, stays as it is.
  const begun = text.includes(": ") ? text : text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

/** Puts new children in place of the old; the focus stays on what has the same `data-key`. */
export function refill(element, children) {
  const key = element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  element.replaceChildren(...children);
  if (key) element.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

export function percent(quality) {
  return quality === null || quality === undefined ? "" : `${Math.round(100 * quality)} %`;
}
