"""Everything mode: outlines of all that an image shows, from a grid of clicks.

Source: Kirillov et al., "Segment Anything", 2023, section 5 and appendix B; COSMOS 1050K, section 3.2 (S1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vesalius.core.types import Logits, Prediction, Prompt
from vesalius.predict.predictor import Embedding, Predictor, prompt_arrays

# Clicks decoded at once.
_BATCH = 64


def segment_everything(
    predictor: Predictor,
    embedding: Embedding,
    *,
    side: int = 32,
    min_quality: float = 0.88,
    min_stability: float = 0.95,
    offset: float = 1.0,
    max_overlap: float = 0.7,
) -> list[Prediction]:
    """Outlines of everything, best first; they may overlap.

    Every click of a grid gives the masks of its three levels. Those of low predicted quality or of an area that hangs
    on the threshold are dropped, then those whose box is nearly that of a better one. All this is decided on the
    network's own low-resolution logits; only what remains is enlarged.

    Args:
        predictor: The model; it answers in the whole image's frame.
        embedding: The image.
        side: Clicks along each side of the image.
        min_quality: Least predicted IoU.
        min_stability: Least ratio of the areas above ``offset`` and above ``-offset``.
        offset: In logits.
        max_overlap: Two masks whose boxes have a larger IoU count as one.
    """
    kept: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    points = grid_points(embedding.image.size, side)
    for start in range(0, len(points), _BATCH):
        prompts = [Prompt(points=[point]) for point in points[start : start + _BATCH]]
        frames = [embedding.frame] * len(prompts)
        arrays = prompt_arrays(prompts, frames, predictor.preset, [0] * len(prompts))
        logits, quality = predictor.runtime.decode([embedding.features], arrays, predictor.preset.multimask)
        low, scores = logits.reshape(-1, *logits.shape[2:]), quality.reshape(-1)
        firm = (scores >= min_quality) & (stability(low, offset) >= min_stability)
        firm &= (low > 0).any((1, 2))
        kept.append((low[firm], scores[firm]))
    low = np.concatenate([part for part, _ in kept])
    scores = np.concatenate([part for _, part in kept])
    out = []
    for index in distinct(low > 0, scores, max_overlap):
        mask = embedding.frame.inverse_logits(low[index]) > 0
        if mask.any():
            quality_of = float(scores[index].clip(0, 1))
            out.append(Prediction(mask, quality_of, Logits(low[index].copy(), embedding.frame)))
    return out


def grid_points(size: tuple[int, int], side: int) -> NDArray[np.float64]:
    """(side², 2) points at the centres of a grid of cells over an image of (height, width), row by row."""
    centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(centres * size[1] - 0.5, centres * size[0] - 0.5)
    return np.stack([x.ravel(), y.ravel()], 1)


def stability(logits: NDArray[np.float32], offset: float) -> NDArray[np.float64]:
    """(N,) area above ``offset`` as a share of the area above ``-offset``, of (N, h, w) logits; 0 where that is empty.

    The stability score of Kirillov et al., 2023, appendix B: the IoU of the two masks, one of which holds the other.
    """
    firm, loose = ((logits > limit).sum((1, 2)) for limit in (offset, -offset))
    shares: NDArray[np.float64] = np.divide(firm, loose, out=np.zeros(len(logits)), where=loose > 0)
    return shares


def distinct(masks: NDArray[np.bool_], scores: NDArray[np.float32], max_overlap: float) -> list[int]:
    """Numbers of the masks that remain when each takes away those of lower score whose boxes overlap its own.

    Args:
        masks: (N, h, w), none of them empty.
        scores: (N,).
        max_overlap: Largest IoU of two boxes that both remain.

    Returns:
        Best first.
    """
    if not len(masks):
        return []
    rows, columns = np.asarray(masks.any(2)), np.asarray(masks.any(1))
    top, left = rows.argmax(1), columns.argmax(1)
    bottom, right = rows.shape[1] - rows[:, ::-1].argmax(1), columns.shape[1] - columns[:, ::-1].argmax(1)
    area = (bottom - top) * (right - left)
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = int(order[0]), order[1:]
        kept.append(best)
        height = np.minimum(bottom[order], bottom[best]) - np.maximum(top[order], top[best])
        width = np.minimum(right[order], right[best]) - np.maximum(left[order], left[best])
        common = height.clip(0) * width.clip(0)
        order = order[common <= max_overlap * (area[order] + area[best] - common)]
    return kept
