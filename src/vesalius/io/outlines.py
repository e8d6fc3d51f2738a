"""Masks as COCO, SA-1B and YOLO files hold them: run lengths and polygons.

Polygons are in pixels with (0, 0) at the outer corner of the first pixel, and are filled as pycocotools fills them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.io.regions import cut_out

Bools = NDArray[np.bool_]


def mask_of_runs(rle: dict[str, Any], size: tuple[int, int]) -> Bools:
    """The mask of a COCO RLE.

    pycocotools only encodes here: given damaged run lengths, it decodes memory that it never wrote.

    Args:
        rle: ``size`` (height, width) and ``counts``: a list of run lengths, or the compressed string.
        size: (height, width) of the image.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: It is of another size, or its run lengths do not make one image.
    """
    height, width = size
    if [int(side) for side in rle["size"]] != [height, width]:
        raise ValueError(f"its size is {rle['size']} (rows, columns), not [{height}, {width}]")
    counts = rle["counts"]
    runs = np.asarray(counts, np.int64) if isinstance(counts, list) else _decompressed(counts)
    # Each is checked before they are added, since a sum that overflows could be right by chance.
    if ((runs < 0) | (runs > height * width)).any():
        raise ValueError("its run lengths are damaged")
    if int(runs.sum()) != height * width:
        raise ValueError(f"its run lengths make {int(runs.sum())} pixels, not {height * width}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _decompressed(counts: str | bytes) -> NDArray[np.int64]:
    """Run lengths of COCO's compressed string: six bits to a character, from the fourth run on as differences."""
    codes = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its run lengths are damaged or cut short")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 9:
        raise ValueError("its run lengths are damaged")
    values = np.add.reduceat((codes & 31) << (5 * places), starts)
    negative = codes[ends] & 16 != 0
    values[negative] -= np.int64(1) << (5 * (places[ends[negative]] + 1))
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values


def runs_of_mask(mask: Bools) -> dict[str, Any]:
    """The compressed COCO RLE of a (H, W) mask, ready for JSON."""
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def mask_of_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> Bools:
    """The union of filled polygons, each by the even-odd rule.

    Args:
        polygons: Each x0, y0, x1, y1, ... in pixels.
        size: (height, width) of the image.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: A polygon has fewer than three points, an odd number of coordinates, or points far off the image.
    """
    from pycocotools import mask as coco

    height, width = size
    sound = []
    for polygon in polygons:
        points = np.asarray(polygon, np.float64)
        if points.ndim != 1 or len(points) % 2 or len(points) < 6:
            raise ValueError("a polygon is not three points or more")
        x, y = points[::2], points[1::2]
        # What is off the image is cut away; what is far off was drawn on another one, or is damaged.
        inside = (x >= -width) & (x <= 2 * width) & (y >= -height) & (y <= 2 * height)
        if not inside.all():
            raise ValueError(f"a polygon has points far off the image of {width} x {height} pixels")
        sound.append(points.tolist())
    filled: NDArray[np.uint8] = coco.decode(coco.merge(coco.frPyObjects(sound, height, width)))
    return filled.view(np.bool_)


def polygon_of_mask(mask: Bools) -> NDArray[np.float64]:
    """One polygon that fills to a mask.

    It runs along the edges of pixels. The outlines of parts and of holes are joined by lines that run there and back,
    as is customary where a format has one polygon for an object.

    Args:
        mask: (H, W) bool with at least one pixel.

    Returns:
        (N, 2) corners (x, y), in pixels.

    Raises:
        ValueError: The mask is empty.
    """
    from scipy.spatial import KDTree

    first, *others = sorted(edges_of_mask(mask), key=len, reverse=True)
    if not others:
        return first
    tree = KDTree(first)
    bridges = []
    for loop in others:
        distances, nearest = tree.query(loop)
        there = int(distances.argmin())
        bridges.append((int(nearest[there]), np.roll(loop, -there, axis=0)))
    pieces, done = [], 0
    for here, loop in sorted(bridges, key=lambda bridge: bridge[0]):
        pieces += [first[done : here + 1], loop, loop[:1]]
        done = here
    return np.concatenate([*pieces, first[done:]])


def edges_of_mask(mask: Bools) -> list[NDArray[np.float64]]:
    """Closed loops along the edges of pixels around the parts and the holes of a mask.

    Args:
        mask: (H, W) bool with at least one pixel.

    Returns:
        (N, 2) corners (x, y) of each loop, in pixels; every edge belongs to one loop, so that a pixel is in the mask if
        it lies inside an odd number of them.

    Raises:
        ValueError: The mask is empty.
    """
    part = cut_out(mask)
    if part is None:
        raise ValueError("an empty mask has no outline")
    padded = np.pad(part.mask, 1)
    first = np.array([part.left, part.top], np.float64)
    # Edges run with the inside on their right hand; a start corner has one edge, or two where pixels meet in a corner.
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    below = padded[1:, 1:-1].astype(np.int8) - padded[:-1, 1:-1]
    beside = padded[1:-1, 1:].astype(np.int8) - padded[1:-1, :-1]
    for y, x in np.argwhere(below == 1).tolist():
        following.setdefault((x, y), []).append((x + 1, y))
    for y, x in np.argwhere(below == -1).tolist():
        following.setdefault((x + 1, y), []).append((x, y))
    for y, x in np.argwhere(beside == 1).tolist():
        following.setdefault((x, y + 1), []).append((x, y))
    for y, x in np.argwhere(beside == -1).tolist():
        following.setdefault((x, y), []).append((x, y + 1))
    loops = []
    while following:
        start = corner = next(iter(following))
        loop: list[tuple[int, int]] = []
        while True:
            loop.append(corner)
            ends = following[corner]
            end = ends.pop()
            if not ends:
                del following[corner]
            corner = end
            if corner == start:
                break
        points = np.array(loop, np.float64)
        turns = np.any(np.roll(points, 1, axis=0) - points != points - np.roll(points, -1, axis=0), axis=1)
        loops.append(points[turns] + first)
    return loops
