"""Simulated interaction: several rounds of prompts on one batch (SAM-Med2D, section 3.2 C)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vesalius.core.config import Config
from vesalius.models.base import Features, PromptBatch, SegmentationModel
from vesalius.prompts.simulate import pick_pixels, sample_error_points
from vesalius.training.losses import mask_loss, true_iou


class InteractionConfig(Config):
    """The rounds of one training step.

    Attributes:
        rounds: Rounds, the first prompt included.
        first: Probabilities that the first prompt is a point, a box, or a rough mask.
        points: Numbers of corrective points to choose from in each later round.
        jitter: Every coordinate of a box moves by at most this many pixels, and a tenth of the box's side.
        mask_only: Probability that a later round gives the previous logits without new points.
        quality_weight: Weight of the squared error of the predicted IoU.
        spread: Weight of the two masks that are not the best, against the best one's.
    """

    rounds: int = 3
    first: tuple[float, float, float] = (0.45, 0.45, 0.1)
    points: tuple[int, ...] = (1, 1, 3)
    jitter: float = 5.0
    mask_only: float = 0.1
    quality_weight: float = 1.0
    spread: float = 0.05


def interactive_loss(
    model: SegmentationModel,
    features: Features,
    truth: Tensor,
    rows: Tensor,
    config: InteractionConfig,
    rng: np.random.Generator,
) -> tuple[Tensor, list[float]]:
    """Plays the rounds on a batch of objects.

    Args:
        model: The network that is trained.
        features: Encoded images.
        truth: (N, 1, h, w) low-resolution masks, 0 to 1, of the side of the model's own logits.
        rows: (N,) image of each object.
        config: The rounds.
        rng: Source of all choices.

    Returns:
        Mean loss over rounds, and the mean IoU of the chosen masks per round.
    """
    device = truth.device
    count, grid = truth.shape[0], truth.shape[2]
    step = model.preset.side / grid
    real = truth[:, 0] > 0.5
    points, labels, boxes, masks = first_prompts(real, config, rng, step)
    total = torch.zeros((), device=device)
    ious = []
    for turn in range(config.rounds):
        prompts = PromptBatch(points, labels, boxes, masks, rows)
        logits, quality = model.decode(features, prompts)
        logits, quality = logits.float(), quality.float()
        losses = mask_loss(logits, truth)
        iou = true_iou(logits.detach(), truth)
        best = losses.argmin(1, keepdim=True)
        total = total + (1 - config.spread) * losses.gather(1, best).mean() + config.spread * losses.mean()
        total = total + config.quality_weight * ((quality - iou) ** 2).mean()
        chosen = quality.detach().argmax(1, keepdim=True)
        ious.append(float(iou.gather(1, chosen).mean()))
        if turn + 1 == config.rounds:
            break
        masks = logits.detach().gather(1, chosen[:, :, None, None].expand(-1, -1, grid, grid))
        if rng.random() >= config.mask_only:
            number = int(rng.choice(config.points))
            uniforms = torch.from_numpy(rng.random((count, number)))
            added, kinds = sample_error_points(masks[:, 0] > 0, real, uniforms)
            points = torch.cat([points, (added + 0.5) * step - 0.5], dim=1)
            labels = torch.cat([labels, kinds], dim=1)
    return total / config.rounds, ious


def first_prompts(
    real: Tensor, config: InteractionConfig, rng: np.random.Generator, step: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The first prompt of each object: a random point inside, a jittered box, or a rough mask.

    Args:
        real: (N, h, w) bool.
        config: Probabilities and jitter.
        rng: Source of all choices.
        step: Model pixels per low-resolution pixel.

    Returns:
        Points (N, 1, 2) and labels (N, 1), padded with -1; boxes (N, 4), NaN where there is none; rough masks as
        logits (N, 1, h, w), NaN where there is none, or None.
    """
    count = real.shape[0]
    kind = rng.choice(3, size=count, p=config.first)
    inside, _ = pick_pixels(real, torch.from_numpy(rng.random((count, 1))))
    points = (inside + torch.from_numpy(rng.random((count, 1, 2))).to(inside)) * step - 0.5
    is_point = torch.from_numpy(kind == 0).to(real.device)
    labels = torch.where(is_point[:, None], 1, -1)
    boxes = _tight_boxes(real) * step
    reach = ((boxes[:, 2:] - boxes[:, :2]) / 10).clamp(max=config.jitter).repeat(1, 2)
    moved = boxes + reach * torch.from_numpy(rng.uniform(-1, 1, (count, 4))).to(boxes)
    # A jitter that would turn a small box inside out is not applied.
    valid = (moved[:, 2:] - moved[:, :2] >= 2).all(1, keepdim=True)
    boxes = torch.where(valid, moved, boxes).clamp(0, real.shape[1] * step)
    boxes[torch.from_numpy(kind != 1).to(real.device)] = torch.nan
    masks = None
    rough = np.flatnonzero(kind == 2)
    if len(rough):
        masks = torch.full((count, 1, *real.shape[1:]), torch.nan, device=real.device)
        for i in rough:
            masks[i, 0] = torch.from_numpy(_roughen(real[i].cpu().numpy(), rng))
    return points.float(), labels, boxes.float(), masks


def _tight_boxes(real: Tensor) -> Tensor:
    """(N, 4) half-open boxes around the whole masks, in low-resolution pixels."""
    corners: Sequence[Tensor] = []
    for axis in (1, 2):  # any over rows leaves columns (x), over columns rows (y)
        seen = real.any(axis).int()
        corners = [*corners, seen.argmax(1), seen.shape[1] - seen.flip(1).argmax(1)]
    return torch.stack([corners[0], corners[2], corners[1], corners[3]], dim=1).double()


def _roughen(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """(h, w) logits +-4 of a mask as someone might scribble it: wavy, shifted, too wide or too narrow."""
    radius = float(np.sqrt(mask.sum() / np.pi))
    side = mask.shape[0]
    flow = rng.standard_normal((2, side, side)).astype(np.float32)
    flow = np.stack([cv2.GaussianBlur(f, (0, 0), max(2.0, radius / 2)) for f in flow])
    flow *= rng.uniform(0, 0.35) * radius / (flow.std() + 1e-6)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    shift = rng.uniform(-0.1, 0.1, 2) * radius
    moved = cv2.remap(
        mask.astype(np.float32),
        x + flow[0] + np.float32(shift[0]),
        y + flow[1] + np.float32(shift[1]),
        cv2.INTER_LINEAR,
    )
    return np.where(moved > rng.uniform(0.3, 0.7), 4.0, -4.0).astype(np.float32)
