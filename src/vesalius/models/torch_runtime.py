"""Runs a network by torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from shutil import which
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vesalius.core.errors import ModelError
from vesalius.models.base import PromptBatch, SegmentationModel, normalise
from vesalius.models.checkpoint import weights_digest
from vesalius.models.presets import Preset
from vesalius.models.runtime import ImageFeatures, PromptArrays

# What torch raises of a device that it cannot use; built without CUDA, it asserts.
DEVICE_ERRORS = RuntimeError, AssertionError


def device_error(device: str, error: Exception) -> ModelError:
    """What to raise where torch cannot use a device, and said so by one of ``DEVICE_ERRORS``."""
    return ModelError(
        f"torch cannot use the device {device!r} ({str(error).strip().splitlines()[0]})",
        remedy=f"give one that is here: {'cpu, cuda' if torch.cuda.is_available() else 'cpu'}",
    )


class TorchRuntime:
    """A network that torch runs; see `vesalius.models.runtime.Runtime`.

    Args:
        model: The network; it is changed, for inference only.
        device: Where it runs.
        precision: ``"fp32"``, on a GPU too: without TF32; or ``"bf16"``: its heavy parts in bfloat16.
        compile: Compile the image encoder on first use, which takes a minute or so and on a CPU needs a C++ compiler.

    Raises:
        ModelError: The network is not made for bfloat16, the device cannot be used, or there is no compiler.
    """

    def __init__(
        self,
        model: SegmentationModel,
        device: str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
        compile: bool = False,
    ) -> None:
        self.digest = weights_digest(model)
        try:
            self.model = model.eval().requires_grad_(False).to(device)
        except DEVICE_ERRORS as error:
            raise device_error(device, error) from error
        if compile and device == "cpu" and not any(map(which, (os.environ.get("CXX", "g++"), "clang++", "cl"))):
            raise ModelError(
                "torch compiles for the CPU by a C++ compiler, and there is none",
                remedy="install g++ or clang++, or leave compile out",
            )
        if precision == "bf16":
            model.to_bfloat16()
        self._compiled = torch.compile(model.encode, options={"freezing": True}) if compile else None
        self.device = device
        self._arithmetic: Callable[[], AbstractContextManager[None]]
        self._arithmetic = without_tf32 if precision == "fp32" and str(device).startswith("cuda") else nullcontext
        self.preset = model.preset
        self.takes = model.takes
        self.words = model.vocabulary
        where = "" if device == "cpu" else f" on {device}"
        self.label = f"torch {precision}{', compiled' if compile else ''}{where}"
        self._words: dict[str, Tensor] = {}

    @torch.inference_mode()
    def encode(self, images: NDArray[np.uint8], content: NDArray[np.int64]) -> list[ImageFeatures]:
        """Features of images; see `vesalius.models.runtime.Runtime.encode`."""
        pixels = prepare(torch.from_numpy(images).to(self.device), torch.from_numpy(content), self.preset)
        with self._arithmetic():
            features = (self._compiled or self.model.encode)(pixels)
        # Copies, so that one kept row does not keep the whole batch.
        return [tuple(level[i : i + 1].clone() for level in features) for i in range(len(images))]

    @torch.inference_mode()
    def decode(
        self, features: Sequence[ImageFeatures], prompts: PromptArrays, multimask: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Masks of prompts; see `vesalius.models.runtime.Runtime.decode`."""
        # Arrays where they were kept on disk.
        features = [tuple(torch.as_tensor(level, device=self.device) for level in one) for one in features]
        shared = len(features) == 1
        levels = features[0] if shared else tuple(torch.cat(rows) for rows in zip(*features, strict=True))
        boxes, masks = (None if v is None else torch.from_numpy(v) for v in (prompts.boxes, prompts.masks))
        batch = PromptBatch(
            torch.from_numpy(prompts.points),
            torch.from_numpy(prompts.labels),
            boxes,
            masks,
            None if shared else torch.from_numpy(prompts.rows),
            None if prompts.text is None else self._embed(prompts.text),
        )
        with self._arithmetic():
            logits, quality = self.model.decode(levels, batch.to(self.device), multimask)
        return logits.float().cpu().numpy(), quality.float().cpu().numpy()

    def _embed(self, words: Sequence[str]) -> Tensor:
        new = [word for word in dict.fromkeys(words) if word not in self._words]
        if new:
            self._words.update(zip(new, self.model.embed_text(new), strict=True))
        return torch.stack([self._words[word] for word in words])


@contextmanager
def without_tf32() -> Iterator[None]:
    """Float32 in full on a GPU: cuDNN by default, and products if asked to, keep ten of its 23 bits (TF32)."""
    backends: Any = torch.backends
    exact: str | bool
    # The names since torch 2.9, which do not go together with those before.
    if hasattr(backends.cudnn, "conv"):
        switches, name, exact = (backends.cuda.matmul, backends.cudnn.conv), "fp32_precision", "ieee"
    else:
        switches, name, exact = (backends.cuda.matmul, backends.cudnn), "allow_tf32", False
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, exact)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)


def prepare(images: Tensor, content: Tensor, preset: Preset) -> Tensor:
    """(B, 3, S, S) float network input of (B, S, S, 3) uint8 RGB images, zero outside their (B, 4) content."""
    pixels = normalise(images, preset)
    at = torch.arange(preset.side, device=content.device)
    x0, y0, x1, y1 = (edge[:, None] for edge in content.unbind(1))
    inside = ((at >= y0) & (at < y1))[:, None, :, None] & ((at >= x0) & (at < x1))[:, None, None, :]
    return pixels * inside.to(pixels.device)
