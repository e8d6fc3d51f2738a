"""From a true mask, and an error region, to the boxes and clicks that a person might give.

Masks are (H, W) bool. Points are (x, y) at pixel centres, boxes (x0, y0, x1, y1) half-open, both in the mask's pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import GeometryError, PromptError

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]


def tight_box(mask: Mask) -> Box:
    """The smallest box around all of the mask, however many parts it has.

    Raises:
        PromptError: The mask is empty.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        raise PromptError("an empty mask has no box")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def shift_box(box: Box, size: tuple[int, int], low: float, high: float, rng: np.random.Generator) -> Box:
    """The box with every edge moved by itself, as a hand draws it.

    Each edge moves by a distance drawn uniformly from ``low`` to ``high``, rounded to whole pixels, inwards or outwards
    with equal chance. It stops at the border of the image and at the middle of the box, so that at least one pixel
    remains.

    Source: COSMOS 1050K, section 4.10 (boxes enlarged and moved by 0-10, 10-20, 20-30 pixels).

    Args:
        box: A box of at least one pixel inside the image.
        size: (height, width) of the image.
        low: The least movement of an edge, in pixels.
        high: The largest.
        rng: Source of the movements; eight draws.
    """
    height, width = size
    moves = np.rint(rng.uniform(low, high, 4) * rng.choice((-1, 1), 4))
    x0, y0, x1, y1 = (np.array(box) + moves).astype(int).tolist()
    x_middle, y_middle = (box[0] + box[2] - 1) // 2, (box[1] + box[3] - 1) // 2
    return (
        min(max(x0, 0), x_middle),
        min(max(y0, 0), y_middle),
        max(min(x1, width), x_middle + 1),
        max(min(y1, height), y_middle + 1),
    )


def shift_points(
    points: NDArray[np.float64], size: tuple[int, int], low: float, high: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(K, 2) points, each moved in a direction of its own, as a hand misses them; they stay inside the image.

    Source: COSMOS 1050K, section 4.10.

    Args:
        points: (K, 2) as (x, y).
        size: (height, width) of the image.
        low: The least distance, in pixels.
        high: The largest.
        rng: Source of distances and directions.
    """
    distance, angle = rng.uniform(low, high, len(points)), rng.uniform(0, 2 * np.pi, len(points))
    moved = np.rint(points + (distance * [np.cos(angle), np.sin(angle)]).T)
    return np.asarray(moved.clip(0, (size[1] - 1, size[0] - 1)))


def even_points(mask: Mask, count: int) -> NDArray[np.float64]:
    """(K, 2) pixels of the mask, evenly from all of them row by row; fewer if it has fewer.

    Source: COSMOS 1050K, section 3.3, step c.
    """
    inside = np.flatnonzero(mask)
    count = min(count, len(inside))
    chosen = inside[((np.arange(count) + 0.5) * len(inside) / max(count, 1)).astype(int)]
    return np.stack([chosen % mask.shape[1], chosen // mask.shape[1]], axis=1).astype(np.float64)


def central_points(mask: Mask, count: int) -> NDArray[np.float64]:
    """(K, 2) clicks on the object: its centre of mass first if that lies inside, the others by `even_points`.

    An object of fewer pixels has fewer clicks; none comes twice.

    Source: COSMOS 1050K, section 3.3, steps a to d.

    Raises:
        PromptError: The mask is empty.
    """
    y, x = np.nonzero(mask)
    if not len(x):
        raise PromptError("an empty mask has no pixel to click on")
    centre = np.rint([x.mean(), y.mean()])
    if not mask[int(centre[1]), int(centre[0])]:
        return even_points(mask, count)
    others = mask.copy()
    others[int(centre[1]), int(centre[0])] = False
    return np.concatenate([centre[None], even_points(others, count - 1)])


def nearby_background(mask: Mask, count: int) -> NDArray[np.float64]:
    """(K, 2) clicks on the background, evenly from what is not the object in its box enlarged to twice its size.

    Source: COSMOS 1050K, section 3.3.

    Raises:
        PromptError: The mask is empty.
    """
    x0, y0, x1, y1 = tight_box(mask)
    # A box of one pixel has neighbours too.
    across, down = max(1, (x1 - x0) // 2), max(1, (y1 - y0) // 2)
    around = np.zeros_like(mask)
    around[max(0, y0 - down) : y1 + down, max(0, x0 - across) : x1 + across] = True
    return even_points(around & ~mask, count)


def central_error_point(
    prediction: Mask, truth: Mask, clicked: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The next click of an annotator who aims at the middle of the largest error.

    Of the pixels that are missed and of those that are too many, the one farthest from what is right, distances being
    to the edge of the error or of the image; where it has been clicked already, the next farthest. Of a missed pixel
    and one too many that are equally far, the latter, as published; of several the first, row by row.

    Source: Sofiiuk et al., "Reviving iterative training with mask guidance for interactive segmentation", 2022, section
    3 (as FocalClick and SimpleClick are scored).

    Args:
        prediction: (H, W) bool; all False before the first click.
        truth: (H, W) bool.
        clicked: (K, 2) clicks so far, as (x, y).

    Returns:
        The point (1, 2) and its label (1,): 1 where the truth was missed, 0 where too much was marked; empty arrays if
        nothing is wrong, or all that is wrong was clicked.
    """
    import cv2

    best, label = None, 0
    farthest = 0.0
    for value, wrong in ((0, prediction & ~truth), (1, truth & ~prediction)):
        edged = np.pad(wrong, 1).astype(np.uint8)
        distance = cv2.distanceTransform(edged, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        # Their last digits depend on threads and on where the array lies in memory; squares are whole numbers.
        squared = np.rint(distance.astype(np.float64) ** 2)
        x, y = clicked.astype(int).T
        squared[y, x] = 0
        if squared.max() > farthest:
            farthest, label = float(squared.max()), value
            best = divmod(int(squared.argmax()), truth.shape[1])
    if best is None:
        return np.empty((0, 2)), np.empty(0, np.int64)
    return np.array([best[::-1]], np.float64), np.array([label], np.int64)


def random_point(mask: Mask, rng: np.random.Generator) -> tuple[int, int]:
    """A pixel of the mask, each equally likely.

    Raises:
        PromptError: The mask is empty.
    """
    inside = np.flatnonzero(mask)
    if not len(inside):
        raise PromptError("an empty mask has no pixel to click on")
    y, x = divmod(int(inside[rng.integers(len(inside))]), mask.shape[1])
    return x, y


def error_points(
    prediction: Mask, truth: Mask, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Corrections: different pixels where prediction and truth differ, each equally likely (SAM-Med2D, section 3.2C).

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.
        count: Number of points wanted; there are fewer if fewer pixels are wrong, and none if none is.
        rng: Source of the choice.

    Returns:
        Points (K, 2) as (x, y), and labels (K,): 1 where the truth was missed, 0 where too much was marked.

    Raises:
        GeometryError: The masks differ in shape.
    """
    if prediction.shape != truth.shape:
        raise GeometryError(f"masks of shape {prediction.shape} and {truth.shape} cannot be compared")
    wrong = np.flatnonzero(prediction != truth)
    chosen = wrong[rng.choice(len(wrong), size=min(count, len(wrong)), replace=False)]
    y, x = np.divmod(chosen, truth.shape[1])
    return np.stack([x, y], axis=1).astype(np.float64), truth.ravel()[chosen].astype(np.int64)
