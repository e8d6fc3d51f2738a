"""Losses on mask logits, one value per mask: never summed over a batch, so that no mask outweighs its neighbours.

Sources: Kirillov et al., "Segment Anything", 2023, section 3 and appendix A (focal and Dice 20:1, and the squared error
of the predicted IoU); Cheng et al., "SAM-Med2D", 2023, section 4.1 (the same); Ma et al., "Segment Anything in Medical
Images", 2024 (Dice and cross-entropy); Lin et al., "Focal Loss for Dense Object Detection", 2017; Milletari et al.,
"V-Net", 2016 (Dice with squares).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from vesalius.core.config import Config

# Added to both sides of the Dice loss's fraction, in pixels, so that an empty mask has a gradient.
SMOOTH = 1.0


class LossConfig(Config):
    """Weights of the parts of the loss; a part of weight 0 is not computed.

    Attributes:
        focal: Of the focal loss.
        dice: Of the Dice loss.
        entropy: Of the cross-entropy.
        sized_entropy: Of the cross-entropy divided by the root of the object's share of the image, so that a small
            object's boundary weighs as much as a large one's.
        quality: Of the squared error of the predicted IoU, the mean over all masks of a prompt.
        category: Of the cross-entropy of what a mask shows, for networks that tell (IMIS-Net).
        gamma: Exponent of the focal loss.
        alpha: Weight of the object's pixels in the focal loss; the others have ``1 - alpha``.
        squares: Whether the Dice loss's denominator is of squares.
        temperature: Divisor of the cosines before the softmax over categories.
    """

    focal: NonNegativeFloat = 0.0
    dice: NonNegativeFloat = 1.0
    entropy: NonNegativeFloat = 0.0
    sized_entropy: NonNegativeFloat = 0.0
    quality: NonNegativeFloat = 1.0
    category: NonNegativeFloat = 0.0
    gamma: NonNegativeFloat = 2.0
    alpha: NonNegativeFloat = 0.25
    squares: bool = False
    temperature: PositiveFloat = 0.07


def mask_loss(logits: Tensor, truth: Tensor, config: LossConfig) -> Tensor:
    """The weighted sum of the parts that judge a mask's pixels.

    Args:
        logits: (N, M, h, w) float.
        truth: (N, 1, h, w) float, the share of each pixel that the object covers, 0 to 1.
        config: The weights.

    Returns:
        (N, M) losses.
    """
    truth = truth.expand_as(logits)
    total = logits.new_zeros(logits.shape[:2])
    if config.focal:
        total = total + config.focal * focal_loss(logits, truth, config.gamma, config.alpha)
    if config.dice:
        total = total + config.dice * dice_loss(logits, truth, config.squares)
    if config.entropy or config.sized_entropy:
        entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
        size = truth.mean((2, 3)).clamp(0.02, 0.5).sqrt()
        total = total + config.entropy * entropy + config.sized_entropy * entropy / size
    return total


def focal_loss(logits: Tensor, truth: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """(N, M) mean over the pixels of (N, M, h, w) logits; pixels that are partly covered count for both sides."""
    missed, marked = torch.sigmoid(-logits), logits.sigmoid()
    inside = alpha * truth * missed**gamma * F.softplus(-logits)
    outside = (1 - alpha) * (1 - truth) * marked**gamma * F.softplus(logits)
    return (inside + outside).mean((2, 3))


def dice_loss(logits: Tensor, truth: Tensor, squares: bool = False) -> Tensor:
    """(N, M) one minus the Dice coefficient of the probabilities of (N, M, h, w) logits."""
    probability = logits.sigmoid()
    overlap = (probability * truth).sum((2, 3))
    areas = (probability**2 + truth**2 if squares else probability + truth).sum((2, 3))
    return 1 - (2 * overlap + SMOOTH) / (areas + SMOOTH)


def category_loss(shown: Tensor, names: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of what masks show, as cosines with the embeddings of categories.

    Args:
        shown: (N, dim) of `vesalius.models.imis.model.Imis.decode_named`.
        names: (C, dim) embeddings of the categories.
        target: (N,) int64 rows of ``names``; -1 where the category is not known.
        temperature: Divisor of the cosines.

    Returns:
        (N,) losses, 0 where the category is not known.
    """
    cosines = F.normalize(shown, dim=1) @ F.normalize(names, dim=1).T
    return F.cross_entropy(cosines / temperature, target, ignore_index=-1, reduction="none")


def true_iou(logits: Tensor, real: Tensor) -> Tensor:
    """(N, M) IoU of the thresholded logits (N, M, h, w) with the pixels (N, 1, h, w) bool of an object."""
    predicted = logits > 0
    both = (predicted & real).sum((2, 3))
    union = predicted.sum((2, 3)) + real.sum((2, 3)) - both
    return both / union.clamp_min(1)
