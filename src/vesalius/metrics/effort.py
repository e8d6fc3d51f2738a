"""Human correction effort: how many clicks turn a mask into the true one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import GeometryError
from vesalius.metrics.overlap import Mask, check_masks

# Errors within so many pixels of the outline need no correction (gamma of the paper).
RELAX = 5

# How far a polygon drawn by hand may be from the outline, in pixels (epsilon of the Douglas-Peucker algorithm).
EPSILON = 2.0

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)

Image = NDArray[np.uint8]


def human_correction_effort(prediction: Mask, truth: Mask) -> int:
    """Human correction effort (HCE) of a mask: clicks that correct it.

    Qin et al. 2022, "Highly Accurate Dichotomous Image Segmentation", section 5, as COSMOS table 7 uses it, with the
    paper's gamma = 5 and the epsilon = 2 of its released evaluation. Errors no farther than gamma from the outline of
    both masks together are forgiven, except that missing parts of the truth's skeleton always count. What remains costs

    - one click for each wrong part that is to be removed or filled as a whole: a false positive that touches no true
      part, and a false negative that touches no background;
    - else the corners of a polygon, by Douglas and Peucker's algorithm, along the stretch to be drawn: where a false
      positive borders on the truth, where a false negative borders on the background.

    The skeleton is Guo and Hall's (`skeleton`), where the released evaluation takes scikit-image's; and a stretch that
    runs across the point at which OpenCV begins an outline is one stretch in its order, where that evaluation turns a
    piece of it round. docs/metrics.md says how much that changes.

    Args:
        prediction: Boolean mask of shape (height, width), at the resolution in which it would be corrected.
        truth: Boolean mask of the same shape.

    Returns:
        The number of clicks, at least 0. Empty masks are nothing special: what is there is to be removed, what is not
        is to be drawn, and two empty masks need nothing.

    Raises:
        TypeError: A mask is not boolean.
        GeometryError: The shapes differ or have not two axes.
    """
    import cv2

    check_masks(prediction, truth)
    if truth.ndim != 2:
        raise GeometryError(
            f"correction of masks of shape {truth.shape}", remedy="give slices of shape (height, width)"
        )
    left, top, width, height = cv2.boundingRect((prediction | truth).astype(np.uint8))
    # What is farther from the masks than the relaxation reaches changes nothing.
    margin = RELAX + 2
    box = np.s_[max(0, top - margin) : top + height + margin, max(0, left - margin) : left + width + margin]
    predicted, true = (np.ascontiguousarray(mask[box]).view(np.uint8) for mask in (prediction, truth))
    both = predicted & true
    deep = cv2.erode(predicted | true, CROSS, iterations=RELAX)
    too_much = _beyond(predicted & ~true, deep, true)
    missing = _beyond(true & ~predicted, deep, predicted) | (skeleton(true.view(np.bool_)).view(np.uint8) & ~predicted)
    background = 1 - (both | too_much | missing)
    return _clicks(too_much, both | missing) + _clicks(missing, background)


def _beyond(errors: Image, deep: Image, barrier: Image) -> Image:
    """The errors that reach deep, grown back along themselves but not across the barrier."""
    import cv2

    kept = errors & deep
    for _ in range(RELAX):
        kept = cv2.dilate(kept, CROSS) & ~barrier
    return np.asarray(kept & errors)


def _clicks(wrong: Image, neighbour: Image) -> int:
    """Corners along the outlines of the wrong parts where they touch the neighbour; one for each part that does not."""
    import cv2

    count, parts = cv2.connectedComponents(wrong, connectivity=8)
    touching = cv2.dilate(neighbour, CROSS).astype(np.bool_)
    whole = np.ones(count, np.bool_)
    whole[0] = False
    corners = 0
    for contour in cv2.findContours(wrong, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)[0]:
        points = contour.reshape(-1, 2)
        x, y = points.T
        # Outlines run along a thin part twice; a person follows it once.
        first = np.zeros(len(points), np.bool_)
        first[np.unique(y.astype(np.int64) * wrong.shape[1] + x, return_index=True)[1]] = True
        drawn = first & touching[y, x]
        whole[parts[y[drawn], x[drawn]]] = False
        touching[y[drawn], x[drawn]] = False
        corners += sum(len(cv2.approxPolyDP(stretch, EPSILON, False)) for stretch in _stretches(points, drawn))
    return corners + int(whole.sum())


def _stretches(points: NDArray[np.int32], drawn: Mask) -> list[NDArray[np.int32]]:
    """The pieces of a closed outline that are drawn; one that runs across the first point is one piece."""
    if not drawn.all():
        # Begin where nothing is drawn.
        begin = int(np.argmin(drawn))
        points, drawn = np.roll(points, -begin, axis=0), np.roll(drawn, -begin)
    steps = np.flatnonzero(np.diff(drawn.astype(np.int8), prepend=0, append=0))
    return [np.ascontiguousarray(points[a:b]) for a, b in zip(steps[::2], steps[1::2], strict=True)]


def skeleton(mask: Mask) -> Mask:
    """Lines one pixel wide in the middle of a mask's parts, by thinning from two sides in turn.

    Guo and Hall 1989, "Parallel thinning with two-subiteration algorithms" (the first of the two): no part vanishes or
    falls apart.

    Args:
        mask: Boolean mask of shape (height, width).

    Returns:
        Boolean mask of the same shape.
    """
    import cv2

    padded = np.pad(mask, 1).astype(np.uint8)
    # The eight neighbours, clockwise from above, as bits of a number.
    weights = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)
    removable = _removable()
    while True:
        before = int(np.count_nonzero(padded))
        for table in removable:
            neighbours = cv2.filter2D(padded, cv2.CV_8U, weights, borderType=cv2.BORDER_CONSTANT)
            padded &= ~cv2.LUT(neighbours, table) & 1
        if int(np.count_nonzero(padded)) == before:
            return np.asarray(padded[1:-1, 1:-1].astype(np.bool_))


def _removable() -> tuple[Image, Image]:
    """Which of the 256 neighbourhoods let their middle pixel go, in the first and in the second half of a turn."""
    # In the paper's numbering p2 is the neighbour above, p3 the next one clockwise, and so on to p9.
    p2, p3, p4, p5, p6, p7, p8, p9 = ((np.arange(256) >> np.arange(8)[:, None]) & 1).astype(np.bool_)
    arms = sum((~a & (b | c)).astype(int) for a, b, c in ((p2, p3, p4), (p4, p5, p6), (p6, p7, p8), (p8, p9, p2)))
    pairs = [
        sum((a | b).astype(int) for a, b in either)
        for either in (((p9, p2), (p3, p4), (p5, p6), (p7, p8)), ((p2, p3), (p4, p5), (p6, p7), (p8, p9)))
    ]
    count = np.minimum(*pairs)
    edge = (arms == 1) & (count >= 2) & (count <= 3)
    first = edge & ~((p2 | p3 | ~p5) & p4)
    second = edge & ~((p6 | p7 | ~p9) & p8)
    return first.astype(np.uint8), second.astype(np.uint8)
