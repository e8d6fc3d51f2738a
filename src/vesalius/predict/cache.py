"""The most recently used embeddings, kept within a number of entries."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.frame import Frame
from vesalius.models.runtime import ImageFeatures


def pixel_digest(pixels: NDArray[Any]) -> str:
    """Digest of an image's values, shape and dtype."""
    head = f"{pixels.shape}{pixels.dtype}".encode()
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16, salt=head[-16:]).hexdigest()


class EmbeddingCache:
    """Features by (digest of pixels, frame), for one network; the least recently used go first.

    Args:
        capacity: Number of embeddings kept.
    """

    def __init__(self, capacity: int = 32) -> None:
        self.capacity = capacity
        self._entries: OrderedDict[tuple[str, Frame], ImageFeatures] = OrderedDict()

    def get(self, digest: str, frame: Frame) -> ImageFeatures | None:
        """The features, or None if they are not kept."""
        features = self._entries.get((digest, frame))
        if features is not None:
            self._entries.move_to_end((digest, frame))
        return features

    def put(self, digest: str, frame: Frame, features: ImageFeatures) -> None:
        """Keeps features."""
        self._entries[digest, frame] = features
        while len(self._entries) > self.capacity:
            self._entries.popitem(last=False)
