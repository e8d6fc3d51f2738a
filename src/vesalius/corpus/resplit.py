"""Changes the split of a corpus: its shards are written anew, one by one, without touching the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vesalius.core.files import replacing
from vesalius.corpus.sorting import SortedRows
from vesalius.corpus.split import place_of
from vesalius.corpus.store import PSEUDO, TABLES, rewrite_groups

if TYPE_CHECKING:
    import pyarrow as pa


class LimitedTest(NamedTuple):
    """The test images of a data set, divided at a largest number.

    Attributes:
        kept: Names of the cases that stay in the test; no more than there are images that stay.
        beyond: Number of images of all other test cases.
    """

    kept: list[str]
    beyond: int


def divide_test(folder: Path, shards: int, dataset: str, most: int) -> LimitedTest:
    """Chooses the test cases of a data set that stay: they are taken in an order of their own as long as they fit.

    IMed-361M, appendix B: at most 3,000 test images per data set. Memory grows with `most` alone.

    Args:
        folder: The corpus.
        shards: Number of its shards.
        dataset: Name of the data set.
        most: Largest number of test images.

    Raises:
        WriteError: The system has no room for temporary files.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    counts: SortedRows[int] = SortedRows()
    for number in range(shards):
        columns = ["dataset", "case", "split"]
        table = pq.read_table(folder / "images" / f"{number:05d}.parquet", columns=columns)
        test = table.filter((pc.field("dataset") == dataset) & (pc.field("split") == "test"))
        for case, count in Counter(test["case"].to_pylist()).items():
            counts.add((place_of(f"test of {case}"), case), count)
    kept, total, beyond = [], 0, 0
    for (_, case), rows in groupby(counts, key=itemgetter(0)):
        images = sum(count for _, count in rows)
        if total + images <= most:
            kept.append(case)
            total += images
        else:
            beyond += images
    return LimitedTest(kept, beyond)


def resplit(folder: Path, shards: int, split_of: Callable[[str, str, str | None], str | None]) -> Counter[str | None]:
    """Gives the images of a corpus another split in all tables; interrupted, it can be run again.

    Tables in which nothing changes are not written.

    Args:
        folder: The corpus.
        shards: Number of its shards.
        split_of: (data set, case, split) -> the case's new split.

    Returns:
        Split -> number of images.
    """
    import pyarrow.parquet as pq

    counts: Counter[str | None] = Counter()
    for number in range(shards):
        paths = [folder / name / f"{number:05d}.parquet" for name in (*TABLES, PSEUDO)]
        about = pq.read_table(paths[0], columns=["id", "dataset", "case", "split"]).to_pylist()
        splits = {row["id"]: split_of(row["dataset"], row["case"], row["split"]) for row in about}
        counts.update(splits.values())
        # Images last: `split_of` may depend on the split that they have now.
        for path in reversed(paths):
            if not path.is_file():
                continue
            now = pq.read_table(path, columns=["id", "split"])
            if any(splits[row["id"]] != row["split"] for row in now.to_pylist()):
                with replacing(path) as part:
                    rewrite_groups(path, part, partial(_with_split, splits))
    return counts


def _with_split(splits: Mapping[str, str | None], table: pa.Table) -> pa.Table:
    import pyarrow as pa

    values = [splits[name] for name in table["id"].to_pylist()]
    return table.set_column(
        table.schema.get_field_index("split"), table.schema.field("split"), pa.array(values, pa.string())
    )
