// Requests to the server (docs/server.md).

import { readPixels } from "./window.js";

const wait = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

export class ApiError extends Error {
  constructor(status, code, message, remedy = null) {
    super(message);
    Object.assign(this, { status, code, remedy });
  }
}

/** Whether the server is not heard of ("offline"), busy ("busy") or well (null); `tell` is called when that changes. */
export const link = { state: null, tell: () => {} };

const troubles = new Map(); // request that waits -> why

function told(asked, trouble) {
  if (trouble === null) troubles.delete(asked);
  else troubles.set(asked, trouble);
  const all = [...troubles.values()];
  const state = all.includes("offline") ? "offline" : (all[0] ?? null);
  if (link.state === state) return;
  link.state = state;
  link.tell();
}

let session = null; // promise of its number

async function sessionNumber() {
  session ??= request("/api/sessions", { method: "POST" }).then((answer) => answer.json());
  try {
    return (await session).session;
  } catch (error) {
    session = null;
    throw error;
  }
}

/**
 * One request. A busy server is asked until it answers or the signal comes. Reading is tried until the server is there;
 * what changes something fails as "offline" instead.
 */
async function request(path, options = {}) {
  const asked = Symbol(path);
  try {
    return await askUntilAnswered(asked, path, options);
  } finally {
    told(asked, null);
  }
}

async function askUntilAnswered(asked, path, { method = "GET", body, signal, own = false }) {
  let sessions = 0;
  for (let tries = 0; ; tries += 1) {
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (own) headers["X-Vesalius-Session"] = await sessionNumber();
    let response;
    try {
      response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      if (method !== "GET") {
        throw new ApiError(0, "offline", "the server does not answer", "see whether vesalius annotate still runs");
      }
      told(asked, "offline");
      await wait(Math.min(0.5 + tries / 2, 3), signal);
      continue;
    }
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status === 429 || response.status === 503) {
      told(asked, "busy");
      await wait(Number(response.headers.get("Retry-After")) || 1, signal);
      continue;
    }
    if (error.code === "session" && own && sessions < 2) {
      sessions += 1;
      session = null;
      continue;
    }
    throw error;
  }
}

async function errorOf(response) {
  try {
    const { code, message, remedy } = (await response.json()).error;
    return new ApiError(response.status, code, message, remedy);
  } catch {
    return new ApiError(response.status, "failed", `the server failed (${response.status})`, "try again");
  }
}

const json = async (path, options) => (await request(path, options)).json();
const at = (image, what = "") => `/api/images/${encodeURIComponent(image)}${what}`;

export const info = () => json("/api/info");
export const images = () => json("/api/images");
export const about = (image) => json(at(image));
export const document = (image) => json(at(image, "/document"));
export const act = (image, action) => json(at(image, "/actions"), { method: "POST", body: action, own: true });
export const names = (text) => json(`/api/vocabulary?limit=8&q=${encodeURIComponent(text)}`);
export const job = (number) => json(`/api/jobs/${number}`);
export const cancelJob = (number) => json(`/api/jobs/${number}`, { method: "DELETE" });
export const exportAll = (wish) => json("/api/export", { method: "POST", body: wish, own: true });

export const planes = (image, axis, index, signal) =>
  json(at(image, `/planes?axis=${axis}&index=${index}`), { signal });

export async function pixels(image, axis, index, signal) {
  return readPixels(await request(at(image, `/pixels?axis=${axis}&index=${index}`), { signal }));
}

export async function prepare(image, place) {
  await request(at(image, "/prepare"), { method: "POST", body: place });
}

export const everything = (image, wish, signal) =>
  json(at(image, "/everything"), { method: "POST", body: wish, own: true, signal });
export const propagate = (image, wish, signal) =>
  json(at(image, "/propagate"), { method: "POST", body: wish, own: true, signal });

/** The document once it is newer than a revision; null if it is not within a while. */
export async function newer(image, revision, signal) {
  const response = await request(at(image, `/document?after=${revision}&wait=20`), { signal });
  return response.status === 204 ? null : response.json();
}

/** A file of annotations, with the name that the server gives it. */
export async function exported(image, format, place) {
  const response = await request(at(image, `/export?format=${format}&axis=${place.axis}&index=${place.index}`));
  const named = /filename\*=UTF-8''([^;]+)/.exec(response.headers.get("Content-Disposition") ?? "");
  return { blob: await response.blob(), name: named ? decodeURIComponent(named[1]) : `annotations.${format}` };
}
