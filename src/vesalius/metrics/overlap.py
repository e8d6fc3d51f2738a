"""Overlap of two masks: Dice and intersection over union."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import GeometryError

Mask = NDArray[np.bool_]


def dice(a: Mask, b: Mask) -> float:
    """Dice coefficient ``2 |a and b| / (|a| + |b|)`` of two masks (Dice 1945).

    Args:
        a: Boolean mask of any shape.
        b: Boolean mask of the same shape.

    Returns:
        0 to 1; 0 if one mask is empty; NaN, that is undefined, if both are.

    Raises:
        TypeError: A mask is not boolean (0/1 integers, probabilities and logits are not masks).
        GeometryError: The shapes differ.
    """
    shared, in_a, in_b = _counts(a, b)
    return 2 * shared / (in_a + in_b) if in_a + in_b else float("nan")


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union ``|a and b| / |a or b|`` of two masks (Jaccard 1912).

    Arguments, empty masks and errors as in `dice`.
    """
    shared, in_a, in_b = _counts(a, b)
    union = in_a + in_b - shared
    return shared / union if union else float("nan")


def check_masks(*masks: Mask) -> None:
    """That masks are masks, and can be compared.

    Raises:
        TypeError: A mask is not boolean.
        GeometryError: The shapes differ.
    """
    for mask in masks:
        if mask.dtype != np.bool_:
            raise TypeError(f"a mask has dtype {mask.dtype}; give booleans, for example logits > 0")
        if mask.shape != masks[0].shape:
            raise GeometryError(f"masks of shape {masks[0].shape} and {mask.shape} cannot be compared")


def _counts(a: Mask, b: Mask) -> tuple[int, int, int]:
    check_masks(a, b)
    return int(np.count_nonzero(a & b)), int(np.count_nonzero(a)), int(np.count_nonzero(b))
