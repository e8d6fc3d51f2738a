"""Changes the split of a corpus: its shards are written anew, one by one, without touching the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vesalius.core.files import replacing
from vesalius.corpus.split import place_of
from vesalius.corpus.store import PSEUDO, TABLES, rewrite_groups

if TYPE_CHECKING:
    import pyarrow as pa


def test_cases_beyond(folder: Path, shards: int, dataset: str, most: int) -> dict[str, int]:
    """Test cases of a data set that are too many: cases are taken in an order of their own until no more fit.

    IMed-361M, appendix B: at most 3,000 test images per data set.

    Args:
        folder: The corpus.
        shards: Number of its shards.
        dataset: Name of the data set.
        most: Largest number of test images.

    Returns:
        Case -> number of its images.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    cases: dict[str, int] = {}
    for number in range(shards):
        columns = ["dataset", "case", "split"]
        table = pq.read_table(folder / "images" / f"{number:05d}.parquet", columns=columns)
        test = table.filter((pc.field("dataset") == dataset) & (pc.field("split") == "test"))
        for case in test["case"].to_pylist():
            cases[case] = cases.get(case, 0) + 1
    beyond, total = {}, 0
    for case in sorted(cases, key=lambda case: (place_of(f"test of {case}"), case)):
        if total + cases[case] <= most:
            total += cases[case]
        else:
            beyond[case] = cases[case]
    return beyond


def assign(folder: Path, shards: int, splits: Mapping[tuple[str, str], str | None]) -> None:
    """Gives cases another split in all tables; interrupted, it can be run again.

    Args:
        folder: The corpus.
        shards: Number of its shards.
        splits: (data set, case) -> split; other cases keep theirs.
    """
    import pyarrow.parquet as pq

    for number in range(shards):
        images, masks, pseudo = (folder / name / f"{number:05d}.parquet" for name in (*TABLES, PSEUDO))
        about = pq.read_table(images, columns=["id", "dataset", "case"]).to_pylist()
        changed = {
            row["id"]: splits[row["dataset"], row["case"]] for row in about if (row["dataset"], row["case"]) in splits
        }
        if not changed:
            continue
        # Images last: an interrupted change is seen by its images and made again.
        for path in (pseudo, masks, images) if pseudo.is_file() else (masks, images):
            with replacing(path) as part:
                rewrite_groups(path, part, partial(_with_split, changed))


def _with_split(changed: Mapping[str, str | None], table: pa.Table) -> pa.Table:
    import pyarrow as pa

    rows = zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True)
    values = [changed.get(name, split) for name, split in rows]
    return table.set_column(
        table.schema.get_field_index("split"), table.schema.field("split"), pa.array(values, pa.string())
    )
