"""Sorting and joining more rows than memory holds."""

from __future__ import annotations

import heapq
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from vesalius.core.errors import WriteError
from vesalius.core.files import STAND_IN

# Rows beyond so many bytes go to disk as one sorted run; so many runs become one, since each is an open file.
RUN_BYTES, MOST_RUNS = 32 * 2**20, 64
# About what a key of one or two paths takes.
_KEY_BYTES = 500

Row = TypeVar("Row")
Other = TypeVar("Other")
# A row as it lies on disk: its key, and the rest pickled.
_Kept = tuple[Any, bytes]


class SortedRows(Generic[Row]):
    """Rows in the order of their keys, those of one key in the order in which they came.

    What is more than `RUN_BYTES` lies in temporary files without a name, which end with the process. All rows are added
    before they are iterated over, once.

    Args:
        rows: Keys and rows to begin with. Keys can be compared; rows can be pickled.
        folder: Where the files lie; by default where the system keeps such files.
    """

    def __init__(self, rows: Iterable[tuple[Any, Row]] = (), folder: Path | None = None) -> None:
        self._folder = folder
        self._rows: list[_Kept] = []
        self._bytes = 0
        self._runs: list[IO[bytes]] = []
        for key, row in rows:
            self.add(key, row)

    def add(self, key: Any, row: Row) -> None:
        """Adds a row.

        Raises:
            WriteError: A temporary file cannot be written.
        """
        kept = pickle.dumps(row)
        self._rows.append((key, kept))
        self._bytes += len(kept) + _KEY_BYTES
        if self._bytes >= RUN_BYTES:
            self._rows.sort(key=itemgetter(0))
            self._runs.append(self._written(self._rows))
            self._rows, self._bytes = [], 0
            if len(self._runs) == MOST_RUNS:
                self._runs = [self._written(_merged(self._runs))]

    def __iter__(self) -> Iterator[tuple[Any, Row]]:
        self._rows.sort(key=itemgetter(0))
        for key, kept in _merged(self._runs, self._rows):
            yield key, pickle.loads(kept)

    def _written(self, rows: Iterable[_Kept]) -> IO[bytes]:
        try:
            # It is closed when it has been read.
            file = tempfile.TemporaryFile(prefix=STAND_IN, dir=self._folder)  # noqa: SIM115
            for row in rows:
                pickle.dump(row, file)
            file.seek(0)
        except OSError as error:
            raise WriteError(
                f"temporary files cannot be written ({error.strerror or error})",
                path=self._folder or Path(tempfile.gettempdir()),
                remedy="make room there" + ("" if self._folder else ", or name another folder with TMPDIR"),
            ) from error
        return file


def joined(
    rows: Iterable[tuple[str, Row]], beside: Iterable[tuple[str, Other]]
) -> Iterator[tuple[str, Row, Other | None]]:
    """Keys and rows, each with what is beside it under the same key (the last, of several), or None.

    They come in the order of their keys, unless nothing at all is beside them.
    """
    others = iter(beside)
    first = next(others, None)
    if first is None:
        yield from ((key, row, None) for key, row in rows)
        return
    both: Iterable[tuple[tuple[str, bool], Any]] = chain(
        (((key, False), other) for key, other in chain([first], others)), (((key, True), row) for key, row in rows)
    )
    known: tuple[str, Other] | None = None
    for (key, is_row), value in SortedRows(both):
        if not is_row:
            known = key, value
        else:
            yield key, value, known[1] if known and known[0] == key else None


def _merged(runs: Iterable[IO[bytes]], last: Iterable[_Kept] = ()) -> Iterator[_Kept]:
    return heapq.merge(*map(_read, runs), last, key=itemgetter(0))


def _read(run: IO[bytes]) -> Iterator[_Kept]:
    with run:
        while True:
            try:
                # Written by this process: a pickle of nobody else's.
                yield pickle.load(run)
            except EOFError:
                return
