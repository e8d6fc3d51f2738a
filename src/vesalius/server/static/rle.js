// Masks: COCO's compressed RLE, and what is drawn of them. A mask in memory is row by row, one byte per pixel.

/** The mask of an RLE. */
export function decode({ size: [height, width], counts }) {
  const data = new Uint8Array(height * width);
  let before = 0; // the run before the last one, from which the next is told as a difference
  let last = 0;
  let position = 0;
  let filled = false;
  for (let at = 0, run = 0; at < counts.length; run += 1) {
    let value = 0;
    let shift = 0;
    let more = true;
    while (more) {
      const letter = counts.charCodeAt(at) - 48;
      at += 1;
      value |= (letter & 31) << shift;
      shift += 5;
      more = (letter & 32) !== 0;
      if (!more && letter & 16 && shift < 32) value |= -1 << shift;
    }
    if (run > 2) value += before;
    before = last;
    last = value;
    if (filled) {
      let row = position % height;
      let column = (position - row) / height;
      for (let left = value; left > 0; left -= 1) {
        data[row * width + column] = 1;
        row += 1;
        if (row === height) {
          row = 0;
          column += 1;
        }
      }
    }
    position += value;
    filled = !filled;
  }
  return { height, width, data };
}

/** The RLE of a mask. */
export function encode({ height, width, data }) {
  const runs = [];
  let value = 0;
  let length = 0;
  for (let column = 0; column < width; column += 1) {
    for (let row = 0; row < height; row += 1) {
      if (data[row * width + column] !== value) {
        runs.push(length);
        length = 0;
        value = 1 - value;
      }
      length += 1;
    }
  }
  runs.push(length);
  let counts = "";
  runs.forEach((run, place) => {
    let left = place > 2 ? run - runs[place - 2] : run;
    let more = true;
    while (more) {
      let letter = left & 31;
      left >>= 5;
      more = letter & 16 ? left !== -1 : left !== 0;
      if (more) letter |= 32;
      counts += String.fromCharCode(letter + 48);
    }
  });
  return { size: [height, width], counts };
}

export function emptyMask(height, width) {
  return { height, width, data: new Uint8Array(height * width) };
}

export function area({ data }) {
  let count = 0;
  for (const value of data) count += value;
  return count;
}

/** The box around what a mask covers, half-open; null for an empty mask. */
export function bounds({ height, width, data }) {
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let row = 0; row < height; row += 1) {
    const from = row * width;
    const first = data.indexOf(1, from);
    if (first < 0) break;
    if (first >= from + width) continue;
    const last = data.lastIndexOf(1, from + width - 1);
    top = Math.min(top, row);
    bottom = row + 1;
    left = Math.min(left, first - from);
    right = Math.max(right, last - from + 1);
  }
  return bottom ? { left, top, right, bottom } : null;
}

/** The edges between a mask and what is around it, exactly along the pixels, in pixel edges (0 is the left or top). */
export function outline(mask, box = bounds(mask)) {
  const path = new Path2D();
  if (box === null) return path;
  const { height, width, data } = mask;
  const at = (row, column) =>
    row >= 0 && row < height && column >= 0 && column < width ? data[row * width + column] : 0;
  for (let row = box.top; row <= box.bottom; row += 1) {
    let start = -1;
    for (let column = box.left; column <= box.right; column += 1) {
      const edge = column < box.right && at(row - 1, column) !== at(row, column);
      if (edge && start < 0) start = column;
      if (!edge && start >= 0) {
        path.moveTo(start, row);
        path.lineTo(column, row);
        start = -1;
      }
    }
  }
  for (let column = box.left; column <= box.right; column += 1) {
    let start = -1;
    for (let row = box.top; row <= box.bottom; row += 1) {
      const edge = row < box.bottom && at(row, column - 1) !== at(row, column);
      if (edge && start < 0) start = row;
      if (!edge && start >= 0) {
        path.moveTo(column, start);
        path.lineTo(column, row);
        start = -1;
      }
    }
  }
  return path;
}

/** A canvas with the covered pixels in a colour, as large as the box. */
export function fill(mask, colour, box) {
  const canvas = document.createElement("canvas");
  canvas.width = box.right - box.left;
  canvas.height = box.bottom - box.top;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const words = new Uint32Array(pixels.data.buffer);
  const red = parseInt(colour.slice(1, 3), 16);
  const green = parseInt(colour.slice(3, 5), 16);
  const blue = parseInt(colour.slice(5, 7), 16);
  const word = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  for (let row = 0; row < canvas.height; row += 1) {
    const from = (row + box.top) * mask.width + box.left;
    for (let column = 0; column < canvas.width; column += 1) {
      if (mask.data[from + column]) words[row * canvas.width + column] = word;
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** Sets the pixels within an ellipse that is moved from one place to another (pixel edges). */
export function stroke(mask, [x0, y0], [x1, y1], radiusX, radiusY, value) {
  const steps = Math.max(1, Math.ceil(Math.hypot((x1 - x0) / radiusX, (y1 - y0) / radiusY) * 2));
  for (let step = 0; step <= steps; step += 1) {
    const x = x0 + ((x1 - x0) * step) / steps;
    const y = y0 + ((y1 - y0) * step) / steps;
    const top = Math.max(0, Math.floor(y - radiusY));
    const bottom = Math.min(mask.height - 1, Math.floor(y + radiusY));
    const left = Math.max(0, Math.floor(x - radiusX));
    const right = Math.min(mask.width - 1, Math.floor(x + radiusX));
    for (let row = top; row <= bottom; row += 1) {
      for (let column = left; column <= right; column += 1) {
        const inside = ((column + 0.5 - x) / radiusX) ** 2 + ((row + 0.5 - y) / radiusY) ** 2 <= 1;
        // However small the brush, the pixel below it is its.
        const below = column === Math.floor(x) && row === Math.floor(y);
        if (inside || below) mask.data[row * mask.width + column] = value;
      }
    }
  }
}
