"""Training samples: a window of an image and the objects in it, warped and varied.

Sample ``i`` of a run is drawn from its own generator, seeded with (seed, i): the order of work, the number of
processes and a resumed run change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vesalius.core.config import Config
from vesalius.corpus.objects import LabelledImage

Rng = np.random.Generator


class AugmentConfig(Config):
    """How samples are drawn and varied.

    Attributes:
        focus: Probability that the window is drawn around one object, rather than the whole image.
        focus_range: Side of such a window, in longer sides of the object.
        rotate: Largest rotation in degrees, applied to half of the samples.
        flip: Probability of a left-right flip; half of it for up-down.
        intensity: Probability of a change of contrast, gamma, noise, or sharpness.
        pseudo: Probability that an object is a region grown from a random pixel instead of a labelled one.
        shapes: Probability that an object is a drawn shape of another grey level or texture.
        objects: Most objects taken from one sample.
    """

    focus: float = 0.6
    focus_range: tuple[float, float] = (1.3, 3.5)
    rotate: float = 25.0
    flip: float = 0.5
    intensity: float = 0.7
    pseudo: float = 0.08
    shapes: float = 0.08
    objects: int = 3


@dataclass(frozen=True, eq=False)
class Sample:
    """One training sample.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        masks: (M, S, S) bool, at least one.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Item:
    pixels: NDArray[np.uint8]
    masks: list[tuple[int, int, NDArray[np.bool_]]]  # top row, left column and crop of each object


class SampleSource:
    """Draws training samples from labelled images held in memory.

    Args:
        images: Labelled images; those without objects are left out.
        side: Side of the square samples.
        config: How they are drawn.
        seed: Seed of the run.
        balance: A data set of n images is drawn with a weight of n to this power.
    """

    def __init__(
        self, images: Sequence[LabelledImage], side: int, config: AugmentConfig, seed: int, balance: float = 0.5
    ) -> None:
        self.side, self.config, self.seed = side, config, seed
        by_set: dict[str, list[_Item]] = {}
        for labelled in images:
            if labelled.masks:
                by_set.setdefault(labelled.dataset, []).append(
                    _Item(labelled.image.pixels, [_crop(entry.mask) for entry in labelled.masks])
                )
        self._sets = [by_set[name] for name in sorted(by_set)]
        weights = np.array([len(items) ** balance for items in self._sets])
        self._weights = weights / weights.sum()

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng((self.seed, number))
        items = self._sets[int(rng.choice(len(self._sets), p=self._weights))]
        item = items[int(rng.integers(len(items)))]
        anchor = int(rng.integers(len(item.masks)))
        height, width = item.pixels.shape[:2]
        matrix = self._warp(item, anchor, rng)
        pixels = item.pixels if item.pixels.ndim == 3 else np.repeat(item.pixels[:, :, None], 3, axis=2)
        image = _warp(pixels, matrix, self.side, smooth=True)

        order = [anchor, *(i for i in rng.permutation(len(item.masks)) if i != anchor)]
        masks: list[NDArray[np.bool_]] = []
        least = 0.001 * self.side**2
        for i in order[:12]:
            top, left, crop = item.masks[i]
            full = np.zeros((height, width), np.uint8)
            full[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
            mask = _warp(full * 255, matrix, self.side) > 127
            expected = crop.sum() * abs(np.linalg.det(matrix[:, :2]))
            if mask.sum() >= least and (i == anchor or mask.sum() >= 0.7 * expected):
                masks.append(mask)
            if len(masks) == self.config.objects:
                break
        if rng.random() < self.config.shapes or not masks:
            shape = random_shape(self.side, rng)
            image = paint_shape(image, shape, rng)
            masks = [shape, *(mask & ~shape for mask in masks)]
            masks = [mask for mask in masks if mask.sum() >= least][: self.config.objects]
        if rng.random() < self.config.pseudo:
            region = grown_region(image, rng)
            if region is not None:
                masks = [region, *masks][: self.config.objects]
        return Sample(vary_intensity(image, rng, self.config.intensity), np.stack(masks))

    def _warp(self, item: _Item, anchor: int, rng: Rng) -> NDArray[np.float64]:
        """(2, 3) affine matrix from original to sample pixels (edge coordinates)."""
        config, side = self.config, self.side
        height, width = item.pixels.shape[:2]
        top, left, crop = item.masks[anchor]
        longer = max(crop.shape)
        extent = np.array([width, height], float)
        centre = extent / 2
        if rng.random() < config.focus:
            length = longer * rng.uniform(*config.focus_range)
            if length < 0.8 * max(extent):
                middle = np.array([left + crop.shape[1] / 2, top + crop.shape[0] / 2])
                middle = middle + rng.uniform(-0.5, 0.5, 2) * max(0.0, length - longer) * 0.7
                length_xy = np.minimum(length, extent)
                centre = np.clip(middle, length_xy / 2, extent - length_xy / 2)
                extent = length_xy
        zoom = np.exp(rng.uniform(-0.12, 0.12, 2)) * np.exp(rng.uniform(-0.1, 0.15))
        scale = side / extent * zoom
        flips = np.array([rng.random() < config.flip, rng.random() < config.flip / 2])
        scale = np.where(flips, -scale, scale)
        angle = np.deg2rad(rng.uniform(-config.rotate, config.rotate)) if rng.random() < 0.5 else 0.0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = turn @ np.diag(scale)
        return np.column_stack([linear, side / 2 - linear @ centre])


def _crop(mask: NDArray[np.bool_]) -> tuple[int, int, NDArray[np.bool_]]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1].copy()


def _warp(array: NDArray[Any], matrix: NDArray[np.float64], side: int, smooth: bool = False) -> NDArray[Any]:
    # cv2 maps pixel centres at whole numbers; the matrix maps edges.
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5]) - 0.5
    factor = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if smooth and factor < 0.6:
        array = cv2.GaussianBlur(array, (0, 0), 0.45 / factor)
    warped: NDArray[Any] = cv2.warpAffine(
        array, shifted, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    return warped


def random_shape(side: int, rng: Rng) -> NDArray[np.bool_]:
    """(side, side) bool: an ellipse, a polygon, or a blob of smoothed noise, of 0.5 to 30 % of the area or so."""
    mask = np.zeros((side, side), np.uint8)
    centre = rng.uniform(0.2, 0.8, 2) * side
    radius = np.exp(rng.uniform(np.log(0.05), np.log(0.3))) * side
    kind = rng.integers(3)
    if kind == 0:
        axes = radius * np.exp(rng.uniform(-0.5, 0.3, 2))
        cv2.ellipse(mask, (tuple(centre), tuple(2 * axes), float(rng.uniform(0, 180))), 1, -1)
    elif kind == 1:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 14))))
        radii = radius * rng.uniform(0.6, 1.3, len(angles))
        corners = centre + radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1)
    else:
        noise = cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), radius * 0.5)
        noise /= np.abs(noise).max() + 1e-6
        y, x = np.mgrid[0:side, 0:side]
        distance = np.hypot(x - centre[0], y - centre[1]) / radius
        count, parts = cv2.connectedComponents(((1.2 - distance + 0.8 * noise) > 0).astype(np.uint8))
        if count > 1:
            mask = (parts == np.bincount(parts[parts > 0]).argmax()).astype(np.uint8)
    return mask.astype(bool)


def paint_shape(image: NDArray[np.uint8], shape: NDArray[np.bool_], rng: Rng) -> NDArray[np.uint8]:
    """Gives the shape another level, contrast and grain, with a soft edge."""
    canvas = image.astype(np.float32)
    texture = canvas
    if rng.random() < 0.5:  # another part of the same picture
        shift = rng.integers(0, image.shape[0], 2)
        texture = np.roll(canvas, (int(shift[0]), int(shift[1])), (0, 1))
    texture = (texture - texture.mean()) * rng.uniform(0.2, 1.2) + canvas.mean()
    level = rng.choice([-1.0, 1.0]) * rng.uniform(15, 90)
    tint = level * (np.ones(3) if rng.random() < 0.5 else rng.uniform(0.2, 1.2, 3))
    painted = texture + tint + rng.standard_normal(canvas.shape) * rng.uniform(0, 12)
    alpha = cv2.GaussianBlur(shape.astype(np.float32), (0, 0), rng.uniform(0.4, 2.0))[:, :, None]
    blended: NDArray[np.float32] = np.clip(canvas * (1 - alpha) + painted * alpha, 0, 255)
    return blended.astype(np.uint8)


def grown_region(image: NDArray[np.uint8], rng: Rng) -> NDArray[np.bool_] | None:
    """(S, S) bool: a region of like colour grown from a random pixel and smoothed, or None if none of fair size is."""
    side = image.shape[0]
    calm = cv2.medianBlur(image, int(rng.choice([5, 9, 13])))
    for _ in range(3):
        x, y = (int(v) for v in rng.integers(0, side, 2))
        tolerance = (int(rng.integers(6, 26)),) * 3
        flood = np.zeros((side + 2, side + 2), np.uint8)
        cv2.floodFill(calm.copy(), flood, (x, y), 0, tolerance, tolerance, 4 | cv2.FLOODFILL_FIXED_RANGE | (1 << 8))
        region = flood[1:-1, 1:-1]
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        region = cv2.morphologyEx(cv2.morphologyEx(region, cv2.MORPH_CLOSE, kernel), cv2.MORPH_OPEN, kernel)
        _, parts = cv2.connectedComponents(region)
        if parts[y, x]:
            part: NDArray[np.bool_] = parts == parts[y, x]
            if 0.003 < part.mean() < 0.4:
                return part
    return None


def vary_intensity(image: NDArray[np.uint8], rng: Rng, probability: float) -> NDArray[np.uint8]:
    """Contrast, gamma, tint, inversion, blur and noise, each now and then."""
    if rng.random() >= probability:
        return image
    x = image.astype(np.float32) / 255
    if rng.random() < 0.5:
        low, high = rng.uniform(-0.15, 0.2), rng.uniform(0.75, 1.15)
        x = np.clip((x - low) / (high - low), 0, 1)
    if rng.random() < 0.4:
        x = x ** np.exp(rng.uniform(-0.6, 0.6)).astype(np.float32)
    if rng.random() < 0.15:
        x = 1 - x
    colour = bool((image[:, :, 0] != image[:, :, 1]).any())
    if colour and rng.random() < 0.3:
        x = np.clip(x * rng.uniform(0.75, 1.25, 3).astype(np.float32), 0, 1)
    if colour and rng.random() < 0.15:
        x = np.repeat(x.mean(2, keepdims=True), 3, axis=2)
    if rng.random() < 0.2:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.8))
    if rng.random() < 0.25:
        x = x + (rng.standard_normal(x.shape[:2])[:, :, None] * rng.uniform(0.01, 0.07)).astype(np.float32)
    return np.clip(x * 255, 0, 255).astype(np.uint8)
