"""Scores of whole volumes, from the outlines of their slices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from vesalius.corpus.store import decode_mask
from vesalius.evaluation.protocols import ANNOTATOR
from vesalius.evaluation.results import METRICS, WHO
from vesalius.metrics.overlap import dice, iou
from vesalius.metrics.surface import surface_scores

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP = ("volume", "axis", "target", *WHO)
# What is needed of the table of scores.
SCORE_COLUMNS = ["object", *WHO, "rle", "reason"]


def volume_rows(
    objects: pa.Table,
    scores: Iterable[pa.RecordBatch],
    tolerance: float,
    partial: Mapping[str, Collection[tuple[str, str]]] = MappingProxyType({}),
) -> Iterator[dict[str, Any]]:
    """Rows of the table of volumes.

    The objects of one target in one stack of slices are one volume: on each slice the outlines of all of them together,
    against their truths. Slices on which the target is not, or is too small to count, are not asked about, so that
    nothing can be found there. A volume of which one slice has no answer has a row with the reason instead of scores.
    Distances are taken where the spacing is known along all three axes and all objects of the target on all slices were
    measured: between slices far apart, surfaces mean nothing. An annotator's prompts make no volumes: each slice has
    its own number of them.

    Args:
        objects: The table of objects, with ``truth``, the counts of the RLE of each.
        scores: The table of scores, in pieces; `SCORE_COLUMNS` of it.
        tolerance: Of NSD, in mm.
        partial: Protocol -> volume and axis of the stacks that it was not measured on as a whole.
    """
    slices = {row["object"]: row for row in objects.to_pylist() if row["volume"] is not None}
    undrawn = {(row["volume"], row["axis"], target) for row in slices.values() for target in row["left_out"]}
    # Objects with the RLE of their outlines: there are as many as there are rows of scores.
    groups: dict[tuple[Any, ...], list[tuple[dict[str, Any], bytes]]] = {}
    # Why a volume has no score, and an object of it.
    lacking: dict[tuple[Any, ...], tuple[dict[str, Any], str]] = {}
    for batch in scores:
        for row in batch.to_pylist():
            about = slices.get(row["object"])
            if about is None or row["protocol"] == ANNOTATOR:
                continue
            key = tuple((about if name in about else row)[name] for name in _GROUP)
            if row["reason"] is None:
                groups.setdefault(key, []).append((about, row["rle"]))
            else:
                lacking.setdefault(key, (about, row["reason"]))
    for key in sorted(groups.keys() | lacking.keys()):
        named = dict(zip(_GROUP, key, strict=True))
        # What cannot be asked is an empty cell with the model's own choice alone.
        lacks = lacking.get(key) or lacking.get((*key[:-1], "own"))
        if lacks:
            yield {**named, **_described(lacks[0]), "reason": lacks[1]}
            continue
        outlines = groups[key]
        first = outlines[0][0]
        shape = first["height"], first["width"]
        indices = {about["index"] for about, _ in outlines}
        low, high = min(indices), max(indices)
        found, truth = (np.zeros((high - low + 1, *shape), np.bool_) for _ in range(2))
        for about, rle in outlines:
            found[about["index"] - low] |= decode_mask(rle, *shape)
            truth[about["index"] - low] |= decode_mask(about["truth"], *shape)
        spacing = [first["slice_spacing"], first["row_spacing"], first["column_spacing"]]
        whole = key[:3] not in undrawn and key[:2] not in partial.get(named["protocol"], ())
        metrics: dict[str, float] = dict.fromkeys(METRICS, math.nan)
        if None not in spacing and whole:
            metrics |= dataclasses.asdict(surface_scores(found, truth, spacing, tolerance))
        yield {
            **named,
            **_described(first),
            **metrics,
            "dice": dice(found, truth),
            "iou": iou(found, truth),
            "slices": len(indices),
        }


def _described(about: dict[str, Any]) -> dict[str, Any]:
    return {name: about[name] for name in ("dataset", "modality", "case")}
