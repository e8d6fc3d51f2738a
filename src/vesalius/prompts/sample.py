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


def jitter_box(box: Box, size: tuple[int, int], pixels: int, rng: np.random.Generator) -> Box:
    """The box with every edge moved by itself, as a hand draws it (SAM-Med2D, section 3.2C: up to five pixels).

    Each coordinate moves by a whole number drawn uniformly from -pixels to pixels. An edge stops at the border of the
    image and at the middle of the box, so that at least one pixel remains.

    Args:
        box: A box of at least one pixel inside the image.
        size: (height, width) of the image.
        pixels: The largest movement of an edge.
        rng: Source of the movements; four draws.
    """
    height, width = size
    x0, y0, x1, y1 = (edge + int(move) for edge, move in zip(box, rng.integers(-pixels, pixels + 1, 4), strict=True))
    x_middle, y_middle = (box[0] + box[2] - 1) // 2, (box[1] + box[3] - 1) // 2
    return (
        min(max(x0, 0), x_middle),
        min(max(y0, 0), y_middle),
        max(min(x1, width), x_middle + 1),
        max(min(y1, height), y_middle + 1),
    )


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
