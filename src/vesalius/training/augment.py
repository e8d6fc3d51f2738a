"""Variations of training samples: where an image is looked at, how bright it is, and what is drawn into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vesalius.core.config import Config, Probability
from vesalius.core.frame import Frame
from vesalius.predict.predictor import LEAST_WINDOW
from vesalius.vocabulary.modalities import find_modality

Rng = np.random.Generator


class AugmentConfig(Config):
    """How samples are varied.

    Attributes:
        focus: Probability that the window is drawn around one object, rather than the whole image.
        focus_range: Side of such a window, in longer sides of the object.
        rotate: Largest rotation in degrees, applied to half of the samples.
        flip: Probability of a left-right flip; half of it for up-down.
        zoom: Least and largest factor of both axes.
        aspect: Largest factor of each axis on its own.
        intensity: Probability of a change of contrast, gamma, tint, noise or sharpness.
        invert: Probability, where the intensity is changed, that black and white change places.
        inverted: Modalities, their kinds included, that are ever shown in both ways; None for all.
        shapes: Probability that an object is a drawn shape of another grey level or texture.
        grown: Probability that an object is a region grown from a random pixel instead of a labelled one.
    """

    focus: Probability = 0.6
    focus_range: tuple[float, float] = (1.3, 3.5)
    rotate: float = 25.0
    flip: Probability = 0.5
    zoom: tuple[float, float] = (0.905, 1.162)
    aspect: float = 1.127
    intensity: Probability = 0.7
    invert: Probability = 0.15
    # Radiographs are read either way; autoradiographs of isotopes and electron micrographs are printed either way.
    inverted: tuple[str, ...] | None = ("xray", "nuclear_medicine", "pet", "electron_microscopy")
    shapes: Probability = 0.08
    grown: Probability = 0.08


@dataclass(frozen=True, eq=False)
class View:
    """Where a sample looks.

    Attributes:
        matrix: (2, 3) affine from original to sample pixels, both measured at pixel edges (as in `Frame`).
        flipped: Whether an axis is turned round, so that left and right lose their meaning.
    """

    matrix: NDArray[np.float64]
    flipped: bool

    def content(self, whole: Frame) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1), half-open: the sample's pixels that hold the image, as `Frame.content` has them.

        Of a turned image the smallest rectangle around it; what is black in its corners counts as image. Where the
        whole image fills the square, nothing is padding in use, and so it is here.
        """
        (height, width), side = whole.size, whole.side
        if whole.content == (0, 0, side, side):
            return whole.content
        corners = self.matrix @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]], float)
        edges = np.clip(np.round([corners.min(1), corners.max(1)]), 0, side).astype(int)
        return tuple(edges.ravel().tolist())


def drawn_view(whole: Frame, box: tuple[int, int, int, int], config: AugmentConfig, rng: Rng) -> View:
    """Draws where to look: a window around an object or the whole image, zoomed, flipped and turned.

    A window is a square, cut to the image, no smaller than that of a second look and stretched like it (`focus_frame`);
    the whole image lies as its frame says, and is turned about its middle.

    Args:
        whole: The whole image's frame.
        box: (x0, y0, x1, y1), half-open, around the object in original pixels.
        config: What is drawn.
        rng: Source of all choices.
    """
    height, width = whole.size
    side = whole.side
    extent = np.array([width, height], float)
    start, longer = np.array(box[:2], float), max(box[2] - box[0], box[3] - box[1])
    centre, scale = extent / 2, whole.scale
    middle = (np.array(whole.content[:2]) + np.array(whole.content[2:])) / 2
    if rng.random() < config.focus:
        length = max(LEAST_WINDOW, longer * rng.uniform(*config.focus_range))
        if length < 0.8 * max(extent):
            aim = (start + np.array(box[2:])) / 2 + rng.uniform(-0.5, 0.5, 2) * max(0.0, length - longer) * 0.7
            window = np.minimum(length, extent)
            centre, scale = np.clip(aim, window / 2, extent - window / 2), side / window
            middle = np.array([side / 2, side / 2])
    stretch = np.log(config.aspect)
    scale = scale * np.exp(rng.uniform(-stretch, stretch, 2)) * np.exp(rng.uniform(*np.log(config.zoom)))
    flips = np.array([rng.random() < config.flip, rng.random() < config.flip / 2])
    angle = np.deg2rad(rng.uniform(-config.rotate, config.rotate)) if rng.random() < 0.5 else 0.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag(np.where(flips, -scale, scale))
    return View(np.column_stack([linear, middle - linear @ centre]), bool(flips.any()))


def warp(array: NDArray[Any], matrix: NDArray[np.float64], side: int) -> NDArray[Any]:
    """(side, side[, C]) uint8 of an (H, W[, C]) image; black beyond its edges.

    Axes that shrink much are averaged over areas first, as `Frame.image` does; the rest is bilinear.

    Args:
        array: uint8.
        matrix: (2, 3) affine from the array's pixels to those of the sample, at pixel edges.
        side: Of the square sample.
    """
    size = np.array([array.shape[1], array.shape[0]])
    factors = np.hypot(*matrix[:, :2])
    small = np.where(factors < 0.6, np.ceil(size * factors), size).astype(int)
    if (small != size).any():
        array = cv2.resize(np.ascontiguousarray(array), (int(small[0]), int(small[1])), interpolation=cv2.INTER_AREA)
        matrix = np.column_stack([matrix[:, :2] * (size / small), matrix[:, 2]])
    # cv2 maps pixel centres at whole numbers; the matrix maps edges.
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5]) - 0.5
    warped: NDArray[Any] = cv2.warpAffine(
        np.ascontiguousarray(array), shifted, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    return warped


def warp_crop(crop: NDArray[np.bool_], top: int, left: int, matrix: NDArray[np.float64], side: int) -> NDArray[Any]:
    """(side, side) bool of a mask of which all but ``crop``, which begins at row ``top`` and column ``left``, is empty.

    What is thin does not vanish; see `covered`.

    Args:
        crop: (h, w) bool.
        top: Row of the original image.
        left: Column of the original image.
        matrix: (2, 3) affine from original to sample pixels, at pixel edges.
        side: Of the square sample.
    """
    # A rim of background keeps the crop's own edge as soft as any other.
    rim = int(min(np.ceil(2 / min(1.0, float(np.hypot(*matrix[:, :2]).min()))), 64))
    padded = np.pad(crop.view(np.uint8) * np.uint8(255), rim)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ np.array([left - rim, top - rim], float)
    return covered(warp(padded, moved, side))


def covered(share: NDArray[Any]) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels of which an object covers more than half, by its share of each, of 255.

    If it covers half of none, being thin, those it covers more than half as much of as of any.
    """
    mask: NDArray[np.bool_] = share > min(127, int(share.max()) // 2)
    return mask


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


def inversion(modality: str, config: AugmentConfig) -> float:
    """Probability that black and white change places in an image of a modality."""
    if config.inverted is None:
        return config.invert
    known = find_modality(modality)
    return config.invert if set(known.lineage if known else (modality,)) & set(config.inverted) else 0.0


def vary_intensity(image: NDArray[np.uint8], rng: Rng, probability: float, invert: float = 0.15) -> NDArray[np.uint8]:
    """Contrast, gamma, tint, inversion, blur and noise, each now and then.

    Args:
        image: (H, W, 3) RGB.
        rng: Source of all choices.
        probability: That anything is changed.
        invert: Probability, where anything is, that black and white change places.
    """
    if rng.random() >= probability:
        return image
    x = image.astype(np.float32) / 255
    if rng.random() < 0.5:
        low, high = rng.uniform(-0.15, 0.2), rng.uniform(0.75, 1.15)
        x = np.clip((x - low) / (high - low), 0, 1)
    if rng.random() < 0.4:
        x = x ** np.exp(rng.uniform(-0.6, 0.6)).astype(np.float32)
    if rng.random() < invert:
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
