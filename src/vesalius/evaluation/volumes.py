"""Scores of whole volumes, from the outlines of their slices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vesalius.corpus.store import decode_mask
from vesalius.evaluation.results import METRICS, WHO
from vesalius.metrics.overlap import dice, iou
from vesalius.metrics.surface import surface_scores

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP = ("volume", "axis", "target", *WHO)


def volume_rows(objects: pa.Table, scores: Iterable[pa.RecordBatch], tolerance: float) -> Iterator[dict[str, Any]]:
    """Rows of the table of volumes.

    The objects of one target in one stack of slices are one volume: on each slice the outlines of all of them together,
    against their truths. Slices on which the target is not, or is too small to count, are not asked about, so that
    nothing can be found there. Distances are taken where the spacing is known along all three axes.

    Args:
        objects: The table of objects, with ``truth``, the counts of the RLE of each.
        scores: The table of scores, in pieces.
        tolerance: Of NSD, in mm.
    """
    slices = {row["object"]: row for row in objects.to_pylist() if row["volume"] is not None}
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for batch in scores:
        for row in batch.to_pylist():
            # A strategy that cannot be asked has no volume.
            if row["reason"] is None and row["object"] in slices:
                row |= slices[row["object"]]
                groups.setdefault(tuple(row[name] for name in _GROUP), []).append(row)
    for key, rows in sorted(groups.items()):
        first = rows[0]
        shape = first["height"], first["width"]
        low, high = min(row["index"] for row in rows), max(row["index"] for row in rows)
        found, truth = (np.zeros((high - low + 1, *shape), np.bool_) for _ in range(2))
        for row in rows:
            found[row["index"] - low] |= decode_mask(row["rle"], *shape)
            truth[row["index"] - low] |= decode_mask(row["truth"], *shape)
        spacing = [first["slice_spacing"], first["row_spacing"], first["column_spacing"]]
        metrics: dict[str, float] = dict.fromkeys(METRICS, math.nan)
        if None not in spacing:
            metrics |= dataclasses.asdict(surface_scores(found, truth, spacing, tolerance))
        yield {
            **dict(zip(_GROUP, key, strict=True)),
            **metrics,
            "dice": dice(found, truth),
            "iou": iou(found, truth),
            "dataset": first["dataset"],
            "modality": first["modality"],
            "case": first["case"],
            "slices": len({row["index"] for row in rows}),
        }
