"""Image features computed once per run, for recipes that do not train the image encoder."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vesalius.core.errors import ConfigError, WriteError
from vesalius.core.files import replacing
from vesalius.models.base import Features, SegmentationModel
from vesalius.models.torch_runtime import prepare
from vesalius.training.interaction import Batch


class FeatureCache:
    """Features by pixels, place of the image in the square, preset, and the weights that do not train.

    Args:
        model: The network; its encoder is frozen.
        kind: What else decides the features, such as the precision.
        folder: Where to keep them; in memory if None.
    """

    def __init__(self, model: SegmentationModel, kind: str = "", folder: Path | None = None) -> None:
        self.model, self.kind, self.folder = model, kind, folder
        # The encoder's weights, and what is done to pixels before it.
        self._encoder = f"{frozen_digest(model)} {model.preset.model_dump_json()}"
        self._kept: dict[str, Features] = {}

    def fill(self, batch: Batch) -> Batch:
        """The batch with its features, encoded where they are not known.

        Each image is encoded by itself, since what is encoded beside it would change its features in the last bits, and
        a resumed run knows others than one that was not disturbed.

        Raises:
            ConfigError: The encoder trains, so features do not stay as they are.
            WriteError: The folder cannot be written.
        """
        keys = [self._key(batch, i) for i in range(len(batch.images))]
        known: dict[str, Features] = {}
        for i, key in enumerate(keys):
            if key not in known:
                known[key] = self._read(key) or self._encoded(batch, i, key)
        levels = tuple(torch.cat(rows) for rows in zip(*(known[key] for key in keys), strict=True))
        return replace(batch, features=tuple(level.to(batch.images.device) for level in levels))

    def _encoded(self, batch: Batch, i: int, key: str) -> Features:
        levels = self.model.encode(prepare(batch.images[i : i + 1], batch.content[i : i + 1], self.model.preset))
        if any(level.requires_grad for level in levels):
            raise ConfigError("features cannot be kept while the image encoder trains", remedy='set cache = "none"')
        features = tuple(level.detach().cpu().clone() for level in levels)
        self._write(key, features)
        return features

    def _key(self, batch: Batch, i: int) -> str:
        digest = hashlib.sha256(f"{self._encoder} {self.kind} {batch.content[i].tolist()}".encode())
        digest.update(batch.images[i].cpu().numpy().data)
        return digest.hexdigest()

    def _read(self, key: str) -> Features | None:
        if self.folder is None:
            return self._kept.get(key)
        try:
            levels = load_file(self.folder / f"{key}.safetensors")
        except (OSError, SafetensorError):
            return None
        return tuple(levels[str(i)] for i in range(len(levels)))

    def _write(self, key: str, features: Features) -> None:
        if self.folder is None:
            self._kept[key] = features
            return
        try:
            self.folder.mkdir(exist_ok=True)
            with replacing(self.folder / f"{key}.safetensors") as part:
                save_file({str(i): level.contiguous() for i, level in enumerate(features)}, part)
        except (OSError, SafetensorError) as error:
            raise WriteError(
                f"image features cannot be kept ({error})",
                path=self.folder,
                remedy="make room there, and go on with --resume",
            ) from error


def frozen_digest(model: SegmentationModel) -> str:
    """SHA-256, in hexadecimal, of the parameters that do not train: names, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        if not value.requires_grad:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
