"""What every promptable network offers: encode an image once, decode many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from vesalius.core.config import Config
from vesalius.core.errors import ModelError
from vesalius.core.types import Part
from vesalius.models.presets import Preset
from vesalius.models.runtime import SPATIAL

Features = tuple[Tensor, ...]


@dataclass(frozen=True)
class PromptBatch:
    """Prompts in model pixels, one row per object.

    Rows of one batch may differ in what they give: a point labelled -1, and a box, a mask or a text of NaN, are absent.

    Attributes:
        points: (N, K, 2) float (x, y), pixel centres at whole numbers; K may be 0.
        labels: (N, K) int: 1 object, 0 background, -1 padding.
        boxes: (N, 4) float (x0, y0, x1, y1) in the preset's box convention, or None.
        masks: (N, 1, h, w) float on the preset's mask-prompt scale, or None.
        text: (N, dim) float, embeddings of words as `SegmentationModel.embed_text` gives them, or None.
        rows: (N,) int, the row of the features that each prompt belongs to; None when there is one image.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None
    rows: Tensor | None = None
    text: Tensor | None = None

    def __len__(self) -> int:
        return int(self.points.shape[0])

    def __getitem__(self, rows: slice) -> PromptBatch:
        """Some of the prompts."""
        return replace(self, **{k: v[rows] for k, v in vars(self).items() if v is not None})

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
        takes: Parts of prompts that it takes.
        vocabulary: Names of targets that it was trained on, where it knows no other words.
    """

    architecture: ClassVar[str]
    takes: frozenset[Part] = SPATIAL
    vocabulary: tuple[str, ...] = ()
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

    @property
    def prompts_at_once(self) -> int:
        """Prompts that a CPU had best decode together."""
        return 64

    def to_bfloat16(self) -> None:
        """Makes the heavy parts run in bfloat16, for inference only; what goes in and comes out may stay float32.

        Raises:
            ModelError: The network is not made for that.
        """
        raise ModelError(f"{self.architecture} networks run in fp32 alone", remedy='choose precision="fp32"')

    def read_extras(self, folder: Path) -> None:
        """Takes what it needs besides weights, such as a tokenizer, from a checkpoint's folder, as far as it is there.

        Raises:
            ModelError: What is there cannot be used.
        """

    def write_extras(self, folder: Path) -> None:
        """Writes what `read_extras` takes."""

    def embed_text(self, words: Sequence[str]) -> Tensor:
        """(N, dim) embeddings of N names of targets, to be given as ``PromptBatch.text``.

        Raises:
            ModelError: The network does not understand words.
        """
        raise ModelError(
            f"{self.architecture} networks have no text head, so {', '.join(words)} means nothing to them",
            remedy="prompt with a box, points or a mask, or use IMIS-Net",
        )


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
