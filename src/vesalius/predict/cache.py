"""What was used lately, kept within a number of bytes; embeddings among it."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vesalius.core.frame import Frame
from vesalius.models.runtime import ImageFeatures

K = TypeVar("K")
V = TypeVar("V")


def pixel_digest(pixels: NDArray[Any]) -> str:
    """Digest of an image's values, shape and dtype."""
    head = f"{pixels.shape}{pixels.dtype}".encode()
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, salt=head[-16:]).hexdigest()


class Bounded(Generic[K, V]):
    """Values by their keys; those used least lately go first. Any number of threads may use it.

    Args:
        capacity: Bytes to keep. The newest value is kept even if it is larger.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes kept now."""
        return self._held

    def get(self, key: K) -> V | None:
        """The value, or None if it is not kept."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keeps a value of ``size`` bytes."""
        with self._lock:
            if key in self._entries:
                self._held -= self._entries.pop(key)[1]
            self._entries[key] = value, size
            self._held += size
            while self._held > self.capacity and len(self._entries) > 1:
                _, (_, lost) = self._entries.popitem(last=False)
                self._held -= lost

    def clear(self) -> None:
        """Keeps nothing more of what was kept."""
        with self._lock:
            self._entries.clear()
            self._held = 0


class EmbeddingCache:
    """Features by (digest of pixels, frame), for one network.

    Args:
        capacity: Bytes to keep.
    """

    def __init__(self, capacity: int = 2**28) -> None:
        self._entries: Bounded[tuple[str, Frame], ImageFeatures] = Bounded(capacity)

    @property
    def held(self) -> int:
        """Bytes kept now."""
        return self._entries.held

    def get(self, digest: str, frame: Frame) -> ImageFeatures | None:
        """The features, or None if they are not kept."""
        return self._entries.get((digest, frame))

    def put(self, digest: str, frame: Frame, features: ImageFeatures) -> None:
        """Keeps features, which are arrays or tensors."""
        self._entries.put((digest, frame), features, sum(part.nbytes for part in features))

    def clear(self) -> None:
        """Keeps nothing more of what was kept."""
        self._entries.clear()
