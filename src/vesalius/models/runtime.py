"""What runs a network: numpy goes in and comes out, so that the caller needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vesalius.core.types import Part
from vesalius.models.presets import Preset

# What a network keeps of one image: arrays or tensors with one row each, of the runtime's own kind.
ImageFeatures = tuple[Any, ...]

# What most networks take: all that says where.
SPATIAL: frozenset[Part] = frozenset({"points", "box", "mask"})


@dataclass(frozen=True, eq=False)
class PromptArrays:
    """Prompts in model pixels, one row per object; every row has the same parts.

    Attributes:
        points: (N, K, 2) float32 (x, y), pixel centres at whole numbers; K may be 0.
        labels: (N, K) int64: 1 object, 0 background.
        boxes: (N, 4) float32 (x0, y0, x1, y1) in the preset's box convention, or None.
        masks: (N, 1, h, w) float32 on the preset's mask-prompt scale, or None.
        text: N names of targets, or None.
        rows: (N,) int64, which of the given images' features each row belongs to.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    boxes: NDArray[np.float32] | None = None
    masks: NDArray[np.float32] | None = None
    text: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.points)


class Runtime(Protocol):
    """A network that is ready to run.

    Attributes:
        preset: How the network wants its input.
        digest: SHA-256 of the network's weights, in hexadecimal.
        label: What runs it and how exactly, such as ``"torch fp32"``, for records.
        takes: Parts of prompts that it takes.
        words: Names of the targets that it was trained on; empty if it takes no words, or any.
    """

    preset: Preset
    digest: str
    label: str
    takes: frozenset[Part]
    words: tuple[str, ...]

    def encode(self, images: NDArray[np.uint8], content: NDArray[np.int64]) -> list[ImageFeatures]:
        """Features of images.

        Args:
            images: (B, side, side, 3) uint8 RGB.
            content: (B, 4) half-open boxes of the pixels that are image; the rest is padding, which becomes zero
                after normalisation, as the published networks have it.
        """
        ...

    def decode(
        self, features: Sequence[ImageFeatures], prompts: PromptArrays, multimask: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mask logits (N, M, h, w) and predicted IoU (N, M) of prompts, with M = 3 if ``multimask`` else 1.

        Args:
            features: Of the images that ``prompts.rows`` counts.
            prompts: N prompts.
            multimask: Three masks for an ambiguous prompt, or the one mask.
        """
        ...
