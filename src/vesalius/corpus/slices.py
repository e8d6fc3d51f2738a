"""From volumes to 8-bit images: axes, intensities, square pixels.

Sources: SA-Med2D-20M, section 4.2 and equation 1; COSMOS 1050K, section 2; MedSAM, Methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.types import AXES, Volume, to_8_bits
from vesalius.corpus.profile import Profile
from vesalius.corpus.scans import Scan

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Cut:
    """One image cut from a scan.

    Attributes:
        pixels: (H, W) or (H, W, 3) uint8.
        labels: (H, W) labels of each layer.
        spacing: Distance between pixel centres along (rows, columns), in mm; None where unknown.
        axis: ``"x"``, ``"y"`` or ``"z"``; ``"2d"`` for pictures.
        index: Of the slice along the axis.
        step: Distance between neighbouring slices, in mm; None where unknown, and for pictures.
    """

    pixels: Pixels
    labels: list[NDArray[Any]]
    spacing: tuple[float, float] | None
    axis: str
    index: int
    step: float | None = None


def cuts(scan: Scan, profile: Profile, left_out: Callable[[str], None]) -> Iterator[Cut]:
    """The images of a scan.

    Slices on which nothing is labelled are passed over before anything is computed for them.

    Args:
        scan: The scan; a volume of one slice is a picture.
        profile: The rules.
        left_out: Is told the reason, once for each image that is left out.
    """
    volume = scan.volume
    eight_bits = _intensities(volume, profile)
    picture = volume.voxels.shape[0] == 1
    for axis in ("z",) if picture else cut_axes(volume, profile):
        place = 2 - AXES.index(axis)
        if not picture and too_narrow(volume, axis, profile):
            for _ in range(volume.voxels.shape[place]):
                left_out("the slice is too narrow")
            continue
        for index in range(volume.voxels.shape[place]):
            labels = [np.take(layer.values, index, axis=place) for layer in scan.layers]
            pixels_labelled = int(np.count_nonzero(np.any([plane != 0 for plane in labels], 0))) if labels else 0
            if pixels_labelled <= profile.min_pixels:
                left_out("too little of the image is labelled" if pixels_labelled else "nothing is labelled")
                continue
            piece = volume.slice(axis, index)
            pixels, spacing = eight_bits(piece.pixels), piece.spacing
            if profile.square_pixels and spacing is not None and not picture:
                pixels, labels, spacing = squared(pixels, labels, spacing)
            if profile.size is not None:
                pixels, labels, spacing = stretched(pixels, labels, spacing, (profile.size, profile.size))
            step = None if picture or volume.geometry is None else volume.geometry.spacing[AXES.index(axis)]
            yield Cut(pixels, labels, spacing, "2d" if picture else axis, index, step)


def cut_axes(volume: Volume, profile: Profile) -> tuple[str, ...]:
    """The axes that the profile cuts a volume along."""
    if profile.axes != "main":
        return tuple(profile.axes)
    spacing = volume.geometry.spacing if volume.geometry else (1.0, 1.0, 1.0)
    widest = max(spacing)
    # A volume is finest within its viewing plane; among (nearly) equal axes z is the usual one.
    return (next(axis for axis in reversed(AXES) if spacing[AXES.index(axis)] > widest * 0.999),)


def too_narrow(volume: Volume, axis: str, profile: Profile) -> bool:
    """Whether slices along ``axis`` have a long side of more than ``max_aspect`` short ones, as they will be saved."""
    if profile.max_aspect is None:
        return False
    sides = [float(n) for n in volume.voxels.shape[:3]]
    if profile.square_pixels and volume.geometry is not None:
        sides = [n * step for n, step in zip(sides, reversed(volume.geometry.spacing), strict=True)]
    del sides[2 - AXES.index(axis)]
    return max(sides) > profile.max_aspect * min(sides)


def min_max(values: NDArray[Any], low: float, high: float, rounding: str) -> Pixels:
    """Values with ``low`` to ``high`` mapped to 0..255 and rounded up (``"ceil"``) or to the nearest.

    SA-Med2D-20M, equation 1, with the denominator max - min: the printed one, max, leaves the range.
    """
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    # A value that is an integer but for rounding must not be rounded up.
    return np.asarray(np.ceil(scaled - 1e-9) if rounding == "ceil" else np.rint(scaled), np.uint8)


def squared(
    pixels: Pixels, labels: list[NDArray[Any]], spacing: tuple[float, float]
) -> tuple[Pixels, list[NDArray[Any]], tuple[float, float]]:
    """Resamples to the finer spacing of the two, unless they differ by less than 0.1 %."""
    fine = min(spacing)
    if max(spacing) <= fine * 1.001:
        return pixels, labels, spacing
    height, width = (max(1, round(n * step / fine)) for n, step in zip(pixels.shape[:2], spacing, strict=True))
    pixels, labels, _ = stretched(pixels, labels, spacing, (height, width))
    return pixels, labels, (fine, fine)


def stretched(
    pixels: Pixels, labels: list[NDArray[Any]], spacing: tuple[float, float] | None, size: tuple[int, int]
) -> tuple[Pixels, list[NDArray[Any]], tuple[float, float] | None]:
    """Resamples to (height, width): pixels by area when they get fewer and cubically when more, labels by nearest."""
    import cv2

    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels, labels, spacing
    fewer = size[0] * size[1] < height * width
    out = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA if fewer else cv2.INTER_CUBIC)
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(np.int64)
    scaled = [plane[rows[:, None], columns] for plane in labels]
    if spacing is not None:
        spacing = (spacing[0] * height / size[0], spacing[1] * width / size[1])
    return np.asarray(out, np.uint8), scaled, spacing


def _intensities(volume: Volume, profile: Profile) -> Callable[[NDArray[Any]], Pixels]:
    """What turns the pixels of a slice into 8 bits."""
    if profile.intensity == "window":
        window = volume.window
        return lambda pixels: _window(pixels, window)
    if profile.intensity_over == "slice":
        return lambda pixels: min_max(pixels, float(pixels.min()), float(pixels.max()), profile.rounding)
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    return lambda pixels: min_max(pixels, low, high, profile.rounding)


def _window(pixels: NDArray[Any], window: tuple[float, float]) -> Pixels:
    if pixels.ndim == 3 or (pixels.dtype == np.uint8 and window == (0.0, 255.0)):
        return pixels
    return to_8_bits(pixels, window)
