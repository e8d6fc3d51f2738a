// From grey values to what is on screen.

const ARRAYS = {
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  uint32: Uint32Array,
  int32: Int32Array,
  float32: Float32Array,
};

/** The slice of an answer of `/pixels`: its values, rows, columns and channels. */
export async function readPixels(response) {
  const [height, width, channels = 1] = response.headers.get("X-Shape").split(",").map(Number);
  const values = new ARRAYS[response.headers.get("X-Dtype")](await response.arrayBuffer());
  return { values, height, width, channels };
}

/** Draws a slice to a canvas of its own size; colours are shown as they are. */
export function paint(slice, { low, high }, canvas) {
  const { values, height, width, channels } = slice;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const shown = pixels.data;
  const scale = 255 / Math.max(high - low, 1e-30);
  if (channels === 3) {
    for (let from = 0, to = 0; to < shown.length; from += 3, to += 4) {
      shown[to] = values[from];
      shown[to + 1] = values[from + 1];
      shown[to + 2] = values[from + 2];
      shown[to + 3] = 255;
    }
  } else {
    for (let from = 0, to = 0; to < shown.length; from += 1, to += 4) {
      const grey = (values[from] - low) * scale; // the array clips and rounds
      shown[to] = grey;
      shown[to + 1] = grey;
      shown[to + 2] = grey;
      shown[to + 3] = 255;
    }
  }
  context.putImageData(pixels, 0, 0);
}

export const levelOf = ({ low, high }) => ({ level: (low + high) / 2, width: high - low });

export const windowOf = (level, width) => ({ low: level - width / 2, high: level + width / 2 });

/** A window that was dragged by so many screen pixels: right is wider, up is brighter, as in viewers of hospitals. */
export function dragged(window, range, across, down) {
  const span = Math.max(range.high - range.low, 1e-6);
  const { level, width } = levelOf(window);
  // A fine hand on a narrow window, a quick one on a wide window.
  const step = Math.max(width, span / 500) / 300;
  const wide = Math.min(Math.max(width + across * step, span / 5000), 2 * span);
  return windowOf(Math.min(Math.max(level + down * step, range.low), range.high), wide);
}

export function number(value) {
  return Math.abs(value) >= 100 || Number.isInteger(value) ? String(Math.round(value)) : String(+value.toPrecision(3));
}

/** The name of a window of the server, for people. */
export function windowName(name) {
  const known = { default: "Model's window", full: "Full range" };
  return known[name] ?? (name.charAt(0).toUpperCase() + name.slice(1)).replaceAll("_", " ");
}
