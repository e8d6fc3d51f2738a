"""Writing a file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A stand-in beside ``path``, of the same suffix, which replaces it when the block ends without an error.

    After an error the stand-in is removed and ``path`` is as it was. What a killed process leaves behind is overwritten
    by the next writing of the same file.

    Raises:
        OSError: The folder cannot be written, or nothing was written to the stand-in.
    """
    written = path.with_name(f".part-{path.name}")
    try:
        yield written
        with written.open("rb+") as file:
            os.fsync(file.fileno())
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)
