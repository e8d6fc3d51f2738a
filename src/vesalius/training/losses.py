"""Losses on low-resolution mask logits, one value per mask."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy plus Dice loss of each mask by itself.

    Args:
        logits: (N, M, h, w).
        truth: (N, 1, h, w), the share of each pixel that the object covers, 0 to 1.

    Returns:
        (N, M) losses.
    """
    truth = truth.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    # Scaled so that a small object's boundary weighs as much as a large one's.
    size = truth.mean((2, 3)).clamp(0.02, 0.5).sqrt()
    probability = logits.sigmoid()
    overlap = (probability * truth).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum((2, 3)) + truth.sum((2, 3)) + 1)
    return entropy / size + dice


def true_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """(N, M) IoU of the thresholded logits (N, M, h, w) with the truth (N, 1, h, w) thresholded at one half."""
    predicted, real = logits > 0, truth > 0.5
    union = (predicted | real).sum((2, 3))
    return (predicted & real).sum((2, 3)) / union.clamp_min(1)
