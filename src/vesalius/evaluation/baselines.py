"""What a box gives without learning anything; a model that is not better than these has learnt little.

All take the (H, W, 3) uint8 image and a box (x0, y0, x1, y1), half-open, inside it, and return an (H, W) bool mask
that lies within the box. They need a box: for clicks alone there is no baseline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

GRABCUT_ROUNDS = 5
# Width of the background that is seen around the box, in longer sides of the box.
MARGIN = 0.15
# Of the random walker. Axes of the ellipse that is taken to be the object, in sides of the box, and how strong barriers
# edges are (scikit-image's beta): the best of those tried on the training split of 40 public sets. The longest side of
# what is solved, in pixels: odd, so that a line in the middle falls into pixels and not between them.
CORE, BETA, LONGEST = 0.8, 500, 127

Box = tuple[int, int, int, int]


def ellipse(image: NDArray[np.uint8], box: Sequence[float]) -> NDArray[np.bool_]:
    """The ellipse inscribed in the box: the pixels whose centres lie inside it. Ignores what the image shows."""
    x0, y0, x1, y1 = box
    height, width = image.shape[:2]
    # Along each axis, the distance of pixel centres from the box's middle, in half axes.
    x = (np.arange(width) + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
    y = (np.arange(height) + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
    return np.asarray(x[None, :] ** 2 + y[:, None] ** 2 <= 1)


def grabcut(image: NDArray[np.uint8], box: Sequence[float]) -> NDArray[np.bool_]:
    """OpenCV's GrabCut (Rother et al. 2004) started from the box, five rounds.

    It sees the box and a margin around it, which is what it learns the background from: given the whole image, it more
    often finds that nothing in the box stands out. GrabCut may find nothing, which is its answer. A box around the
    whole image leaves it no background to learn from: then the answer is the box. OpenCV's random generator is seeded,
    so that the same call gives the same mask.
    """
    import cv2

    window, (x0, y0, x1, y1) = _window(image, box)
    left, top, right, bottom = window
    answer = np.zeros(image.shape[:2], np.bool_)
    if window == (x0, y0, x1, y1):
        answer[y0:y1, x0:x1] = True
        return answer
    seen = np.ascontiguousarray(image[top:bottom, left:right])
    labels = np.zeros(seen.shape[:2], np.uint8)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    rectangle = (x0 - left, y0 - top, x1 - x0, y1 - y0)
    cv2.setRNGSeed(0)
    cv2.grabCut(seen, labels, rectangle, background, foreground, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_RECT)
    answer[top:bottom, left:right] = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return answer


def random_walker(image: NDArray[np.uint8], box: Sequence[float]) -> NDArray[np.bool_]:
    """The random walker (Grady 2006) of scikit-image, an extra, from seeds that the box gives.

    An ellipse in the middle of the box is object, what is outside the box is background; a pixel between belongs to
    those whom a walker that shuns edges meets first. It sees the box and the margin that GrabCut sees. A longer side of
    that than 127 pixels is reduced to as many for the solution, and the probabilities are enlarged again. A box around
    the whole image leaves no background, and a window of one grey value no edges: then the answer is the box.
    """
    import cv2
    from skimage.segmentation import random_walker as walk

    window, (x0, y0, x1, y1) = _window(image, box)
    left, top, right, bottom = window
    answer = np.zeros(image.shape[:2], np.bool_)
    inside = answer[y0:y1, x0:x1]
    seen = image[top:bottom, left:right]
    if window == (x0, y0, x1, y1) or (seen == seen[0, 0]).all():
        inside[:] = True
        return answer
    height, width = seen.shape[:2]
    size = min(width, LONGEST), min(height, LONGEST)
    small = cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
    # Along each axis, the distance of pixel centres from the box's middle, in half sides of the box.
    x, y = (
        ((np.arange(count) + 0.5) * length / count + start - (low + high) / 2) / ((high - low) / 2)
        for count, length, start, low, high in ((size[0], width, left, x0, x1), (size[1], height, top, y0, y1))
    )
    for axis in (x, y):
        axis[abs(axis).argmin()] = 0  # a thin box may lie between reduced pixels
    seeds = np.where((abs(x) <= 1)[None, :] & (abs(y) <= 1)[:, None], 0, 2)
    seeds[x[None, :] ** 2 + y[:, None] ** 2 <= CORE**2] = 1
    if (seeds == 0).any():
        probability = walk(small, seeds, beta=BETA, mode="bf", return_full_prob=True, channel_axis=-1)[0]
    else:
        probability = seeds == 1
    whole = cv2.resize(probability.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    inside[:] = whole[y0 - top : y1 - top, x0 - left : x1 - left] > 0.5
    return answer


def _window(image: NDArray[np.uint8], box: Sequence[float]) -> tuple[Box, Box]:
    """The part of the image that is seen, the box and a margin around it, and the box in whole pixels."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    margin = math.ceil(MARGIN * max(x1 - x0, y1 - y0))
    window = max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)
    return window, (x0, y0, x1, y1)


BASELINES: dict[str, Callable[[NDArray[np.uint8], Sequence[float]], NDArray[np.bool_]]] = {
    "ellipse": ellipse,
    "GrabCut": grabcut,
    "random walker": random_walker,
}
