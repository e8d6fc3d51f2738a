// Masks: COCO's compressed RLE, and what is drawn of them. A mask in memory is row by row, one byte per pixel.

/** Lengths of the runs of an RLE, column by column, beginning with the background. */
function runsOf(counts) {
  const runs = [];
  let at = 0;
  while (at < counts.length) {
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
    // From the fourth on, a run is told as its difference from the last but one.
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** Lines of a mask that are covered somewhere: number of the line -> [from, to, from, to, …]. */
function columnsOf({ size: [height], counts }) {
  const lines = new Map();
  let position = 0;
  runsOf(counts).forEach((run, place) => {
    for (let left = place % 2 ? run : 0, from = position; left > 0; ) {
      const column = Math.floor(from / height);
      const start = from - column * height;
      const stop = Math.min(start + left, height);
      if (!lines.has(column)) lines.set(column, []);
      lines.get(column).push(start, stop);
      left -= stop - start;
      from += stop - start;
    }
    position += run;
  });
  return lines;
}

function rowsOf({ height, width, data }) {
  const lines = new Map();
  for (let row = 0; row < height; row += 1) {
    const from = row * width;
    let line = null;
    let before = 0;
    for (let column = 0; column < width; column += 1) {
      const value = data[from + column];
      if (value !== before) (line ??= []).push(column);
      before = value;
    }
    if (before) line.push(width);
    if (line) lines.set(row, line);
  }
  return lines;
}

/** The mask of an RLE. */
export function decode(rle) {
  const mask = emptyMask(...rle.size);
  for (const [column, line] of columnsOf(rle)) {
    for (let place = 0; place < line.length; place += 2) {
      for (let row = line[place]; row < line[place + 1]; row += 1) mask.data[row * mask.width + column] = 1;
    }
  }
  return mask;
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

const NONE = [];

/** Calls a function with what one line covers and another does not. */
function difference(line, other, tell) {
  let at = 0;
  for (let place = 0; place < line.length; place += 2) {
    let from = line[place];
    const to = line[place + 1];
    while (at < other.length && other[at + 1] <= from) at += 2;
    for (let next = at; next < other.length && other[next] < to; next += 2) {
      if (from < other[next]) tell(from, other[next]);
      from = Math.max(from, other[next + 1]);
    }
    if (from < to) tell(from, to);
  }
}

/** The outline of a mask or an RLE, exactly along the pixels, in pixel edges (0 is the left or top); null if empty. */
export function outline(shape) {
  const byRows = Boolean(shape.data);
  const lines = byRows ? rowsOf(shape) : columnsOf(shape);
  if (!lines.size) return null;
  const stride = (byRows ? shape.width : shape.size[0]) + 1;
  const ends = new Map(); // corner -> where the edges that begin there lead
  const edge = (from, to) => (ends.has(from) ? ends.get(from).push(to) : ends.set(from, [to]));
  for (const [number, line] of lines) {
    const [here, below] = [number * stride, (number + 1) * stride];
    for (let place = 0; place < line.length; place += 2) {
      edge(below + line[place], here + line[place]);
      edge(here + line[place + 1], below + line[place + 1]);
    }
    difference(line, lines.get(number - 1) ?? NONE, (from, to) => edge(here + from, here + to));
    difference(line, lines.get(number + 1) ?? NONE, (from, to) => edge(below + to, below + from));
  }
  // As many edges lead to a corner as away from it, so whoever follows them comes back to where they began.
  const path = new Path2D();
  const go = (how, corner) => {
    const along = corner % stride;
    const line = (corner - along) / stride;
    if (byRows) path[how](along, line);
    else path[how](line, along);
  };
  for (const [start, ways] of ends) {
    while (ways.length) {
      go("moveTo", start);
      for (let at = ways.pop(); at !== undefined; at = ends.get(at).pop()) go("lineTo", at);
      path.closePath();
    }
  }
  return path;
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
