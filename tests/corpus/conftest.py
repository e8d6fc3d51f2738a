from pathlib import Path

import pytest

from made_corpus import write
from vesalius.corpus.schema import GROUP
from vesalius.corpus.store import Corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    # Groups that are full, part-filled, and without a single mask; a shard with no image.
    return write(tmp_path / "corpus", [list(range(GROUP + 5)), [], [40, 44, 48], list(range(50, 50 + 2 * GROUP))])
