"""Embeddings on disk, for work that comes back to the same images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np

from vesalius.core.errors import WriteError
from vesalius.core.files import replacing
from vesalius.core.frame import Frame
from vesalius.models.runtime import ImageFeatures
from vesalius.predict.cache import EmbeddingCache


class StoredEmbeddings(EmbeddingCache):
    """Features by digest of the pixels, digest of the weights, what computes them, and frame.

    Several processes may share the folder. Features are kept in memory too, as far as there is room.

    Args:
        folder: Where they lie, a file each; made if absent.
        weights: Digest of the network's weights.
        runs_by: What computes them, and how exactly.

    Raises:
        WriteError: The folder cannot be made.
    """

    def __init__(self, folder: Path, weights: str, runs_by: str) -> None:
        super().__init__()
        self.folder, self._network = folder, f"{weights} {runs_by}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"cannot be made ({error.strerror})", path=folder) from error

    def get(self, digest: str, frame: Frame) -> ImageFeatures | None:
        """The features, or None if they are not kept; a damaged file counts as none."""
        features = super().get(digest, frame)
        if features is None:
            try:
                with self._path(digest, frame).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                    features = tuple(stored[f"arr_{i}"] for i in range(len(stored.files)))
            except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
                return None
            super().put(digest, frame, features)
        return features

    def put(self, digest: str, frame: Frame, features: ImageFeatures) -> None:
        """Keeps features; a runtime takes arrays in the place of its own tensors."""
        super().put(digest, frame, features)
        arrays = [np.asarray(part.float().cpu() if hasattr(part, "cpu") else part) for part in features]
        path = self._path(digest, frame)
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, *arrays)

    def _path(self, digest: str, frame: Frame) -> Path:
        said = json.dumps([self._network, digest, dataclasses.astuple(frame)])
        return self.folder / f"{hashlib.sha256(said.encode()).hexdigest()}.npz"
