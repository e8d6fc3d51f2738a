"""Digests of what a corpus holds, by which a run tells that it goes on with the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from vesalius.core.files import file_digest
from vesalius.corpus.schema import DESCRIPTION
from vesalius.corpus.store import Corpus


def corpus_digest(corpus: Corpus, rows: Sequence[int] | None = None, tables: Sequence[str] = ("masks",)) -> str:
    """SHA-256 of a corpus's description, of which images it holds and in which splits, and of its masks.

    Args:
        corpus: The corpus; an image has the split that it has there.
        rows: The images that matter; all if None.
        tables: Those of masks that matter.
    """
    digest = hashlib.sha256((corpus.folder / DESCRIPTION).read_bytes())
    # The description stays as it is where cases are divided anew.
    images = corpus.images.select(["id", "source_digest", "split", "masks"])
    for batch in (images if rows is None else images.take(rows)).to_batches(1024):
        digest.update(json.dumps(batch.to_pydict()).encode())
    for table in tables:
        for path in sorted((corpus.folder / table).glob("*.parquet")):
            digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()
