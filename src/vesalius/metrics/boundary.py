"""Boundary IoU: overlap of what lies inside two masks along their outlines."""

from __future__ import annotations

import math

import numpy as np

from vesalius.core.errors import GeometryError
from vesalius.metrics.overlap import Mask, check_masks, iou

# Width of the band as a share of the image's diagonal.
DILATION_RATIO = 0.02


def boundary_iou(a: Mask, b: Mask) -> float:
    """Intersection over union of the bands inside two masks along their outlines.

    Cheng et al. 2021, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", with the authors' width
    of 2 % of the image's diagonal, at least one pixel, and with the distance of their released evaluation: a pixel is
    in the band if a pixel outside the mask, or beyond the image, lies within so many rows and columns.

    Args:
        a: Boolean mask of shape (height, width), the whole image: its size sets the width of the band.
        b: Boolean mask of the same shape.

    Returns:
        0 to 1; 0 if one mask is empty; NaN, that is undefined, if both are.

    Raises:
        TypeError: A mask is not boolean.
        GeometryError: The shapes differ or have not two axes.
    """
    check_masks(a, b)
    if a.ndim != 2:
        raise GeometryError(f"boundary IoU of masks of shape {a.shape}", remedy="give slices of shape (height, width)")
    width = max(1, round(DILATION_RATIO * math.hypot(*a.shape)))
    return iou(_band(a, width), _band(b, width))


def _band(mask: Mask, width: int) -> Mask:
    import cv2

    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(mask & (inner == 0))
