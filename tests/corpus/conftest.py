from pathlib import Path

import pytest

from made_corpus import write
from made_discs import images
from vesalius.corpus.layouts import layout
from vesalius.corpus.schema import GROUP
from vesalius.corpus.store import Corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    # Groups that are full, part-filled, and without a single mask; a shard with no image.
    return write(tmp_path / "corpus", [list(range(GROUP + 5)), [], [40, 44, 48], list(range(50, 50 + 2 * GROUP))])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    layout("coco").write(images(), tmp_path / "raw" / "discs", "discs")
    return tmp_path / "raw"
