from __future__ import annotations

import numpy as np

from vesalius.core.frame import Frame
from vesalius.predict.cache import Bounded, EmbeddingCache


def test_what_was_used_least_lately_goes_first():
    kept: Bounded[str, int] = Bounded(10)
    for name in "abc":
        kept.put(name, 1, 3)
    assert kept.get("a") == 1
    kept.put("d", 1, 3)
    assert [kept.get(name) for name in "abcd"] == [1, None, 1, 1]
    assert kept.held == 9
    kept.put("d", 2, 1)
    assert (kept.get("d"), kept.held) == (2, 7)
    kept.put("large", 3, 99)
    assert (kept.get("large"), kept.get("a"), kept.held) == (3, None, 99)
    kept.clear()
    assert (kept.get("large"), kept.held) == (None, 0)


def test_embeddings_are_kept_within_bytes():
    cache, frame = EmbeddingCache(1000), Frame.stretch((8, 8), 16)
    for number in range(5):
        cache.put(str(number), frame, (np.zeros(50, np.float32), np.zeros(25, np.float32)))
    assert [cache.get(str(number), frame) is not None for number in range(5)] == [False, False, True, True, True]
    assert cache.held == 900
