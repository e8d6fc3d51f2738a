"""What every promptable network offers: encode an image once, decode many prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vesalius.core.config import Config

Features = tuple[Tensor, ...]


class Preset(Config):
    """How a network wants its input; what published checkpoints do differently is a field here.

    Attributes:
        side: Side of the square input in pixels.
        fit: ``stretch`` both axes; ``longest_side`` then pad right and bottom; ``pad`` small images centred.
        intensity: ``mean_std`` on 0..255 RGB, or ``min_max`` of each image to 0..1.
        channels: Order in which the network takes the colours; ``mean`` and ``std`` are in this order.
        mean: Per channel, on 0..255.
        std: Per channel, on 0..255.
        box: Whether the box's far corner is the last pixel inside (``inclusive``) or the edge (``half_open``).
        mask_prompt: Scale on which the network takes its mask prompt: ``logits`` or ``probability``.
        mask_side: Side of the low-resolution masks it takes and gives.
        multimask: Whether three masks are asked for and the one of highest predicted IoU is chosen.
        focus: Look a second time, at a window around the object that is this many times its longer side;
            None for networks that always see the whole image.
    """

    side: int
    fit: Literal["stretch", "longest_side", "pad"] = "longest_side"
    intensity: Literal["mean_std", "min_max"] = "mean_std"
    channels: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    box: Literal["inclusive", "half_open"] = "inclusive"
    mask_prompt: Literal["logits", "probability"] = "logits"
    mask_side: int
    multimask: bool = True
    focus: float | None = None


@dataclass(frozen=True)
class PromptBatch:
    """Prompts in model pixels, one row per object.

    Rows of one batch may differ in what they give: a point labelled -1, a box of NaN and a mask of NaN are absent.

    Attributes:
        points: (N, K, 2) float (x, y), pixel centres at whole numbers; K may be 0.
        labels: (N, K) int: 1 object, 0 background, -1 padding.
        boxes: (N, 4) float (x0, y0, x1, y1) in the preset's box convention, or None.
        masks: (N, 1, h, w) float on the preset's mask-prompt scale, or None.
        rows: (N,) int, the row of the features that each prompt belongs to; None when there is one image.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None
    rows: Tensor | None = None

    def __len__(self) -> int:
        return int(self.points.shape[0])

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same prompts on ``device``."""
        moved = {k: v.to(device) for k, v in vars(self).items() if v is not None}
        return replace(self, **moved)


class SegmentationModel(nn.Module):
    """A promptable network. Logits inside: thresholding is the caller's, once.

    Attributes:
        architecture: Name of its kind of network in a checkpoint.
        config: Its sizes.
        preset: How it wants its input.
    """

    architecture: ClassVar[str]
    config: Config
    preset: Preset

    def encode(self, images: Tensor) -> Features:
        """Image features of (B, 3, side, side) normalised images; each tensor has B rows."""
        raise NotImplementedError

    def decode(self, features: Features, prompts: PromptBatch, multimask: bool = True) -> tuple[Tensor, Tensor]:
        """Masks of the prompts.

        Returns:
            Mask logits (N, M, h, w) and predicted IoU (N, M), with M = 3 if ``multimask`` else 1.
        """
        raise NotImplementedError


def normalise(images: Tensor, preset: Preset) -> Tensor:
    """(B, 3, S, S) float network input of (B, S, S, 3) uint8 RGB images, by the preset's intensity rule."""
    pixels = images.float().permute(0, 3, 1, 2)
    if preset.channels == "bgr":
        pixels = pixels.flip(1)
    if preset.intensity == "min_max":
        low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
        return (pixels - low) / (high - low).clamp_min(1e-8)
    mean, std = (torch.tensor(v, device=pixels.device)[:, None, None] for v in (preset.mean, preset.std))
    return (pixels - mean) / std
