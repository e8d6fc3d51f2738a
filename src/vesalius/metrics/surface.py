"""Distances between the boundaries of two masks: HD, HD95, ASSD and NSD, in two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import GeometryError
from vesalius.metrics.elements import element_sizes
from vesalius.metrics.overlap import Mask, check_masks

# In slices, neighbours up to so many pixels away are looked up one by one; the few points farther away need a tree.
WINDOW = 4

# So many points at a time, whose windows stay in the processor's cache.
BLOCK = 4096

# Up to so many pixels of a box around the tolerance, what lies within is found by dilation faster than by distances.
DILATED_PIXELS = 400

# A distance of 3 x 1.1 mm is within 3.3 mm, whatever the last digit of a product says.
ROUNDING = 1e-9

Places = tuple[NDArray[np.intp], ...]


@dataclass(frozen=True)
class SurfaceScores:
    """Distances between the boundaries of two masks; `surface_scores` says how each is defined.

    Attributes:
        hd: Hausdorff distance.
        hd95: 95th percentile of the Hausdorff distance.
        assd: Average symmetric surface distance.
        nsd: Normalised surface Dice at the tolerance, 0 to 1.
    """

    hd: float
    hd95: float
    assd: float
    nsd: float


def surface_scores(prediction: Mask, truth: Mask, spacing: Sequence[float], tolerance: float) -> SurfaceScores:
    """HD, HD95, ASSD and NSD of two masks of an image or a volume.

    For HD, HD95 and ASSD the boundary of a mask is its pixels that have a neighbour outside, of four in two dimensions
    and of six in three; what lies beyond the image is outside. Each boundary pixel has a distance to the nearest one of
    the other mask. HD is the largest of all of them (Huttenlocher 1993); HD95 the larger of the two masks' 95th
    percentiles, interpolated linearly; ASSD the mean of all of them, both masks' together.

    For NSD the boundary runs between the pixels: one element in each cell of 2 x 2 pixels or 2 x 2 x 2 voxels that is
    neither wholly inside nor wholly outside, weighted by its length or area (`vesalius.metrics.elements`). NSD is the
    share of both boundaries whose elements have one of the other mask within ``tolerance`` (Nikolov et al. 2018,
    "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for radiotherapy").

    Args:
        prediction: Boolean mask of shape (height, width) or (depth, height, width).
        truth: Boolean mask of the same shape.
        spacing: Distance between pixel centres along each axis of the masks, in millimetres; ones for pixels.
        tolerance: Largest distance that counts as agreement for NSD, in units of ``spacing``.

    Returns:
        Distances in units of ``spacing``. If one mask is empty, distances are the diagonal of the image and NSD is 0;
        if both are, everything is NaN, that is undefined.

    Raises:
        TypeError: A mask is not boolean.
        GeometryError: The shapes differ or have not two or three axes, or spacing or tolerance make no sense on them.
    """
    check_masks(prediction, truth)
    scale = tuple(float(step) for step in spacing)
    if truth.ndim not in (2, 3) or len(scale) != truth.ndim:
        raise GeometryError(
            f"masks of shape {truth.shape} and a spacing of {len(scale)} axes",
            remedy="give masks of two or three axes and the spacing along each",
        )
    if not all(0 < step < math.inf for step in scale) or not 0 <= tolerance < math.inf:
        raise GeometryError(
            f"spacing {scale} and tolerance {tolerance}", remedy="give positive numbers, and a tolerance of at least 0"
        )
    filled = int(prediction.any()) + int(truth.any())
    if filled < 2:
        diagonal = math.hypot(*(size * step for size, step in zip(truth.shape, scale, strict=True)))
        return SurfaceScores(diagonal, diagonal, diagonal, 0.0) if filled else SurfaceScores(*[math.nan] * 4)
    box = _box(prediction | truth)
    a, b = (_padded(mask[box]) for mask in (prediction, truth))

    edges = [_boundary(mask) for mask in (a, b)]
    a_to_b, b_to_a = (np.sort(each) for each in _both_ways(edges, [_places(edge) for edge in edges], scale))

    codes = [_codes(mask) for mask in (a, b)]
    # Codes of neither all outside (0) nor all inside (the largest); in bytes, 0 - 1 is 255.
    pieces = [code - np.uint8(1) < 2 ** (2**truth.ndim) - 2 for code in codes]
    places = [_places(piece) for piece in pieces]
    sizes = np.concatenate([element_sizes(scale)[code[at]] for code, at in zip(codes, places, strict=True)])
    near = np.concatenate(_within(pieces, places, scale, tolerance * (1 + ROUNDING)))
    return SurfaceScores(
        hd=float(max(a_to_b[-1], b_to_a[-1])),
        hd95=max(_percentile_95(a_to_b), _percentile_95(b_to_a)),
        assd=float(a_to_b.sum() + b_to_a.sum()) / (len(a_to_b) + len(b_to_a)),
        nsd=float(sizes[near].sum() / sizes.sum()),
    )


def _box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box around a mask that is not empty."""
    slices: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask[tuple(slices)].any(axis=others))
        slices.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(slices)


def _padded(mask: Mask) -> Mask:
    """The mask with one pixel of background around it."""
    padded = np.zeros([size + 2 for size in mask.shape], np.bool_)
    padded[(slice(1, -1),) * mask.ndim] = mask
    return padded


def _boundary(mask: Mask) -> Mask:
    """Pixels of a padded mask that have a neighbour outside, of four or six; without the padding."""
    middle = (slice(1, -1),) * mask.ndim
    inner = mask[middle].copy()
    for axis in range(mask.ndim):
        for side in (slice(None, -2), slice(2, None)):
            inner &= mask[(*middle[:axis], side, *middle[axis + 1 :])]
    return np.asarray(mask[middle] & ~inner)


def _codes(mask: Mask) -> NDArray[np.uint8]:
    """The code of `element_sizes` for every cell of a padded mask; one shorter than the mask along every axis."""
    codes = mask.view(np.uint8)
    for count, axis in enumerate(reversed(range(mask.ndim))):
        before: tuple[slice, ...] = (slice(None),) * axis
        after = codes[(*before, slice(1, None))]
        codes = codes[(*before, slice(None, -1))] * np.uint8(1 << 2**count)
        codes |= after
    return codes


def _places(mask: Mask) -> Places:
    """Indices of the true pixels along each axis, in row-major order."""
    if mask.ndim != 2:
        return np.nonzero(mask)
    import cv2

    # Several times as fast as np.nonzero.
    points = cv2.findNonZero(mask.view(np.uint8)).reshape(-1, 2)
    return points[:, 1], points[:, 0]


def _both_ways(
    masks: Sequence[Mask], places: Sequence[Places], spacing: tuple[float, ...]
) -> list[NDArray[np.float64]]:
    """Distance of each pixel of the first of two masks, at its ``places``, to the nearest of the second; and back."""
    if len(spacing) == 3:
        from scipy.ndimage import distance_transform_edt

        return [
            distance_transform_edt(~mask, sampling=spacing)[at]
            for mask, at in zip(reversed(masks), places, strict=True)
        ]
    return [
        _nearest(mask, targets, at, spacing)
        for mask, targets, at in zip(reversed(masks), reversed(places), places, strict=True)
    ]


def _nearest(mask: Mask, targets: Places, places: Places, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Distance of each of the places to the nearest pixel of the mask, whose own places are ``targets``."""
    down, right, lengths = _window(spacing)
    around = np.zeros([size + 2 * WINDOW for size in mask.shape], np.bool_)
    around[WINDOW:-WINDOW, WINDOW:-WINDOW] = mask
    width = around.shape[1]
    middles = (places[0].astype(np.intp) + WINDOW) * width + places[1] + WINDOW
    distances = np.empty(len(middles))
    for begin in range(0, len(middles), BLOCK):
        hits = around.ravel()[middles[begin : begin + BLOCK, None] + (down * width + right)]
        hits[:, -1] = True
        distances[begin : begin + BLOCK] = lengths[hits.argmax(axis=1)]
    far = np.flatnonzero(np.isinf(distances))
    if len(far):
        from scipy.spatial import cKDTree

        tree = cKDTree(np.stack(targets, axis=1) * spacing, balanced_tree=False, compact_nodes=False)
        distances[far] = tree.query(np.stack([axis[far] for axis in places], axis=1) * spacing)[0]
    return distances


@lru_cache(maxsize=16)
def _window(spacing: tuple[float, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Steps down and right to the neighbours of a pixel, nearest first, and their distances; the last is infinity."""
    down, right = np.indices((2 * WINDOW + 1, 2 * WINDOW + 1)).reshape(2, -1) - WINDOW
    lengths = np.hypot(down * spacing[0], right * spacing[1])
    # What is farther along the finer axis is outside the window.
    order = np.argsort(lengths, kind="stable")[: np.count_nonzero(lengths <= WINDOW * min(spacing) * (1 + ROUNDING))]
    return np.append(down[order], 0), np.append(right[order], 0), np.append(lengths[order], math.inf)


def _within(
    masks: Sequence[Mask], places: Sequence[Places], spacing: tuple[float, ...], limit: float
) -> list[NDArray[np.bool_]]:
    """Whether each pixel of the first of two masks has one of the second within the limit; and back."""
    reach = [int(limit // step) for step in spacing]
    if masks[0].ndim == 3 or math.prod(2 * steps + 1 for steps in reach) > DILATED_PIXELS:
        return [distances <= limit for distances in _both_ways(masks, places, spacing)]
    import cv2

    down, right = (np.arange(-steps, steps + 1) * step for steps, step in zip(reach, spacing, strict=True))
    disc = (np.hypot(down[:, None], right) <= limit).view(np.uint8)
    return [
        cv2.dilate(mask.view(np.uint8), disc)[at].view(np.bool_)
        for mask, at in zip(reversed(masks), places, strict=True)
    ]


def _percentile_95(ordered: NDArray[np.float64]) -> float:
    """The 95th percentile, interpolated linearly as by `numpy.percentile`, of numbers in rising order."""
    below, part = divmod(0.95 * (len(ordered) - 1), 1)
    low, high = ordered[int(below)], ordered[math.ceil(below + part)]
    return float(low + part * (high - low))
