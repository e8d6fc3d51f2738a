"""What makes an object hard: its size, its form, its contrast and its outline (COSMOS 1050K, section 4.8)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import GeometryError
from vesalius.metrics.overlap import Mask, check_masks, dice

# When the decoded outline is good enough, when it stops improving, and what the rest of its error weighs.
ENOUGH_DICE = 0.97
LEAST_GAIN = 0.001
ERROR_WEIGHT = 2

# Share of the box's sides by which it is enlarged on every side for `intensity_difference`.
SURROUNDINGS = 0.1


@dataclass(frozen=True)
class FourierOrder:
    """Complexity of an outline by elliptic Fourier descriptors.

    Attributes:
        order: Harmonics that were added up; 0 for an empty mask.
        dice: Dice of the outline decoded from them with the original; NaN for an empty mask.
    """

    order: int
    dice: float

    @property
    def final(self) -> float:
        """The paper's F: the order plus twice the error in per cent; NaN for an empty mask."""
        return self.order + ERROR_WEIGHT * 100 * (1 - self.dice)


def fourier_order(mask: Mask) -> FourierOrder:
    """Order of the elliptic Fourier series that describes the outline of an object.

    COSMOS 1050K, section 4.8: the order rises from 1 until the Dice of the decoded with the original outline is above
    97 % or has grown by less than 0.1 % since the order before. Descriptors: Kuhl and Giardina 1982. (The paper's
    equation 2 prints the fraction of its angles upside down.) An outline whose next harmonic happens to be absent, as
    in regular stars, ends the search early; the Dice in `FourierOrder.final` makes up for it.

    The paper has one contour per mask. Here it is the outer one of the part that encloses most pixels; other parts and
    holes do not count.

    Args:
        mask: Boolean mask of shape (height, width).

    Returns:
        The order and the Dice it reached.

    Raises:
        TypeError: The mask is not boolean.
        GeometryError: The mask has not two axes.
    """
    import cv2

    check_masks(mask)
    if mask.ndim != 2:
        raise GeometryError(f"the outline of a mask of shape {mask.shape}", remedy="give a slice of (height, width)")
    contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    if not contours:
        return FourierOrder(0, math.nan)
    # An outline of n pixels has area + n / 2 + 1 on and inside it (Pick 1899).
    contour = max(contours, key=lambda each: cv2.contourArea(each) + len(each) / 2).reshape(-1, 2)
    # Room for what a decoded outline has beyond the object; the image may end before.
    sides = np.ptp(contour, axis=0) + 1
    outline = (contour - contour.min(axis=0) + sides.max() // 2 + 1).astype(np.float64)
    shape = tuple(2 * (sides.max() // 2 + 1) + sides[::-1])
    filled = _filled(outline, shape)
    if len(outline) == 1:
        return FourierOrder(1, 1.0)
    steps = np.diff(outline, axis=0, append=outline[:1])
    lengths = np.hypot(*steps.T)
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    angles = 2 * np.pi * ends / ends[-1]
    # The mean of the outline along its length.
    decoded = np.tile(((outline + steps / 2) * lengths[:, None]).sum(axis=0) / ends[-1], (len(outline), 1))
    order, before, overlap = 0, -math.inf, 0.0
    while overlap <= ENOUGH_DICE and overlap - before >= LEAST_GAIN:
        order, before = order + 1, overlap if order else -math.inf
        waves = np.stack([np.cos(order * angles), np.sin(order * angles)], axis=1)
        slopes = (steps / lengths[:, None]).T @ np.diff(waves, axis=0)
        decoded += ends[-1] / (2 * order**2 * np.pi**2) * waves[:-1] @ slopes.T
        overlap = dice(_filled(decoded, shape), filled)
    return FourierOrder(order, overlap)


def object_size(mask: Mask) -> int:
    """Number of pixels of an object (COSMOS 1050K, section 4.8: "pixel-level area")."""
    return int(np.count_nonzero(mask))


def aspect_ratio(mask: Mask) -> float:
    """Short over long side of the box around an object (COSMOS 1050K, section 4.8).

    Args:
        mask: Boolean mask of shape (height, width).

    Returns:
        0 to 1; NaN for an empty mask.
    """
    import cv2

    *_, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return min(width, height) / max(width, height) if width else math.nan


def intensity_difference(image: NDArray[np.generic], mask: Mask) -> float:
    """How much an object differs in mean intensity from what surrounds it (COSMOS 1050K, section 4.8).

    The surroundings are the box around the object, enlarged on every side by a tenth of that side, at least one pixel,
    without the object. The absolute value is taken, so that dark and bright objects of equal contrast are equal.

    Args:
        image: Intensities of shape (height, width), or (height, width, channels), whose mean is taken.
        mask: Boolean mask of shape (height, width).

    Returns:
        At least 0, in the image's units; NaN if the mask is empty or nothing surrounds it.

    Raises:
        GeometryError: The mask does not fit the image.
    """
    import cv2

    if image.shape[:2] != mask.shape:
        raise GeometryError(f"a mask of shape {mask.shape} on an image of shape {image.shape}")
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    right, down = (math.ceil(SURROUNDINGS * side) for side in (width, height))
    box = np.s_[max(0, top - down) : top + height + down, max(0, left - right) : left + width + right]
    pixels, inside = np.asarray(image[box], np.float64), mask[box]
    if not inside.any() or inside.all():
        return math.nan
    return float(abs(pixels[inside].mean() - pixels[~inside].mean()))


def _filled(outline: NDArray[np.float64], shape: tuple[int, ...]) -> Mask:
    """Pixels on and inside an outline of points (x, y)."""
    import cv2

    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [np.round(outline).astype(np.int32)], 1)
    return canvas.astype(np.bool_)
