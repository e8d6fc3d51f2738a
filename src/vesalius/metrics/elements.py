"""Lengths of the pieces of outline, and areas of the pieces of surface, that pass between pixels or voxels."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, ...]
Triangle = tuple[int, int, int]

# The corners of a cell in the order of a code's bits, from the highest to the lowest.
CORNERS = tuple(itertools.product((0, 1), repeat=3))


@lru_cache(maxsize=16)
def element_sizes(spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Size of the piece of boundary in a cell of 2 x 2 pixels or 2 x 2 x 2 voxels, by the cell's code.

    The code has a bit for each pixel of the cell, set where the pixel is inside, the first pixel (lowest index along
    every axis) in the highest bit. The piece runs through the midpoints between inside and outside (marching squares
    and marching cubes, Lorensen and Cline 1987); where two diagonal pixels of a face are inside, it keeps the smaller
    group apart. A piece of more than three corners need not be flat: it is triangulated so that its area on cubic
    voxels is largest, the choice of the tables in common use, among them DeepMind's surface-distance.

    Args:
        spacing: Distance between pixel centres along each of two or three axes.

    Returns:
        Float64 array of 16 lengths (two axes) or 256 areas (three axes), in units of ``spacing`` or their square.
    """
    if len(spacing) == 2:
        down, right = spacing
        across = np.hypot(down, right) / 2
        sizes = np.full(16, across)
        sizes[[0b0000, 0b1111]] = 0
        sizes[[0b0011, 0b1100]] = right
        sizes[[0b0101, 0b1010]] = down
        sizes[[0b0110, 0b1001]] = 2 * across
        return sizes
    scale = np.prod(spacing) / np.array(spacing)
    return np.array([np.linalg.norm(vectors * scale, axis=1).sum() for vectors in _area_vectors()])


@lru_cache(maxsize=1)
def _area_vectors() -> list[NDArray[np.float64]]:
    """Area vectors of the triangles of each of the 256 codes on voxels of size one, each of shape (triangles, 3)."""
    vectors = []
    for code in range(256):
        # A code and its complement have the same surface; the smaller group of voxels decides what is kept apart.
        smaller = code if code.bit_count() <= 4 else 255 - code
        inside = {corner for bit, corner in enumerate(CORNERS) if smaller >> (7 - bit) & 1}
        pieces = [_largest(np.array(loop)) for loop in _loops(inside)]
        vectors.append(np.concatenate([np.zeros((0, 3)), *pieces]))
    return vectors


def _loops(inside: set[tuple[int, ...]]) -> list[list[Point]]:
    """The closed lines in which the surface around the corners ``inside`` meets the faces of a cell."""
    neighbours: dict[Point, list[Point]] = {}
    for axis, side in itertools.product(range(3), (0, 1)):
        ring = [(*around[:axis], side, *around[axis:]) for around in ((0, 0), (0, 1), (1, 1), (1, 0))]
        midpoints = [tuple((a + b) / 2 for a, b in zip(ring[i - 1], ring[i], strict=True)) for i in range(4)]
        crossed = [i for i in range(4) if (ring[i - 1] in inside) != (ring[i] in inside)]
        # Of four crossings, each inside corner cuts off the two beside it.
        lines = [(i, (i + 1) % 4) for i in range(4) if ring[i] in inside] if len(crossed) == 4 else [tuple(crossed)]
        for line in lines:
            if len(line) == 2:
                a, b = (midpoints[i] for i in line)
                neighbours.setdefault(a, []).append(b)
                neighbours.setdefault(b, []).append(a)
    loops = []
    while neighbours:
        here: Point | None = next(iter(neighbours))
        loop: list[Point] = []
        while here is not None:
            loop.append(here)
            here = next((after for after in neighbours.pop(here) if after in neighbours), None)
        loops.append(loop)
    return loops


def _largest(loop: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area vectors of the triangulation of a loop of points, shape (points, 3), whose area is largest."""

    def vectors(triangles: tuple[Triangle, ...]) -> NDArray[np.float64]:
        a, b, c = (loop[[triangle[i] for triangle in triangles]] for i in range(3))
        return np.asarray(np.cross(b - a, c - a) / 2)

    return max(
        (vectors(triangles) for triangles in _triangulations(0, len(loop) - 1)),
        key=lambda each: round(float(np.linalg.norm(each, axis=1).sum()), 9),
    )


def _triangulations(first: int, last: int) -> list[tuple[Triangle, ...]]:
    """Every way to cut the polygon of the corners ``first`` to ``last`` into triangles."""
    if last - first < 2:
        return [()]
    return [
        (*before, *after, (first, middle, last))
        for middle in range(first + 1, last)
        for before in _triangulations(first, middle)
        for after in _triangulations(middle, last)
    ]
