"""What a box gives without learning anything; a model that is not better than these has learnt little.

Both take the (H, W, 3) uint8 image and a box (x0, y0, x1, y1), half-open, inside it, and return an (H, W) bool mask
that lies within the box. They need a box: for clicks alone there is no baseline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

GRABCUT_ROUNDS = 5
# Width of the background that GrabCut sees around the box, in longer sides of the box.
GRABCUT_MARGIN = 0.15


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

    height, width = image.shape[:2]
    x0, y0, x1, y1 = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    margin = math.ceil(GRABCUT_MARGIN * max(x1 - x0, y1 - y0))
    left, top = max(0, x0 - margin), max(0, y0 - margin)
    seen = np.ascontiguousarray(image[top : y1 + margin, left : x1 + margin])
    answer = np.zeros((height, width), np.bool_)
    if seen.shape[:2] == (y1 - y0, x1 - x0):
        answer[y0:y1, x0:x1] = True
        return answer
    labels = np.zeros(seen.shape[:2], np.uint8)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    rectangle = (x0 - left, y0 - top, x1 - x0, y1 - y0)
    cv2.setRNGSeed(0)
    cv2.grabCut(seen, labels, rectangle, background, foreground, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_RECT)
    found = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    answer[top : top + seen.shape[0], left : left + seen.shape[1]] = found
    return answer


BASELINES: dict[str, Callable[[NDArray[np.uint8], Sequence[float]], NDArray[np.bool_]]] = {
    "ellipse": ellipse,
    "GrabCut": grabcut,
}
