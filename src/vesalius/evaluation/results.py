"""The tables of an evaluation.

An evaluation is a folder::

    run.json          what was measured: version, configuration, digests of corpus, models and prompts, machine
    objects.parquet   one row per object: what it is and what is known of its shape
    prompts.parquet   the first prompts of every object, and all that an annotator said, the same for every model
    scores.parquet    one row per object, model, strategy, round and choice
    volumes.parquet   the same for whole volumes, where slices belong to one
    times.parquet     how long images and prompts took
    saliency.parquet  how strongly each model's embedding answers to places of a few images

``object`` joins objects, prompts and scores. Lengths and distances are in mm where an image states its spacing, else in
pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vesalius.core.errors import ReadError
from vesalius.core.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

RUN = "run.json"
# What names a row of scores or of volumes besides its object: who answered what, and how the answer was chosen.
WHO = ("model", "protocol", "strategy", "variant", "repeat", "round", "choice")
METRICS = ("dice", "iou", "hd", "hd95", "assd", "nsd")

_WHO = [
    # Name under which the model is listed.
    ("model", "string"),
    ("protocol", "string"),
    # Such as S5, box, points.
    ("strategy", "string"),
    # What distinguishes runs of one strategy: range of a jitter, side of a grid, adapters on or off; else empty.
    ("variant", "string"),
    # Number of the draw, from 0, where a strategy is drawn several times.
    ("repeat", "int32"),
    # Answers up to this one, from 1: the number of clicks so far, or one more than the number of corrections.
    ("round", "int32"),
    # own: the mask that the model rates best; matched: the one nearest the truth (COSMOS's mask matching).
    ("choice", "string"),
]
_METRICS = [(name, "double") for name in METRICS]
_TABLES = {
    "objects": [
        # Name of the image in its corpus and, after #, the number of the mask among its masks, from 0.
        ("object", "string"),
        ("image", "string"),
        ("dataset", "string"),
        ("modality", "string"),
        ("case", "string"),
        ("split", "string"),
        # internal: of a data set that is named as trained on; external: of another; null where none is named.
        ("origin", "string"),
        ("target", "string"),
        ("group", "string"),
        ("organ", "string"),
        ("instance", "int32"),
        ("height", "int32"),
        ("width", "int32"),
        ("row_spacing", "double"),
        ("column_spacing", "double"),
        ("slice_spacing", "double"),
        # In pixels, and as a share of the image.
        ("area", "int32"),
        ("share", "double"),
        ("x0", "int32"),
        ("y0", "int32"),
        ("x1", "int32"),
        ("y1", "int32"),
        # COSMOS, section 4.8: short by long side of the box, mean grey against the surroundings, Fourier order.
        ("aspect", "double"),
        ("intensity_difference", "double"),
        ("fourier_order", "double"),
        # The stack of slices that the image is of, its axis and place; null where it is of none.
        ("volume", "string"),
        ("axis", "string"),
        ("index", "int32"),
        # Targets of which an object of the image is not measured, where of many objects some are drawn.
        ("left_out", "list<string>"),
        # Counts of the COCO RLE of the true mask.
        ("truth", "binary"),
    ],
    "prompts": [
        ("object", "string"),
        ("protocol", "string"),
        ("strategy", "string"),
        ("variant", "string"),
        ("repeat", "int32"),
        # 1, but for what an annotator said: in each round the steps are asked in order, each with the low-resolution
        # mask of the answer to the one before.
        ("round", "int32"),
        ("step", "int32"),
        # Clicks as x, y, x, y ... at pixel centres, their labels, and a half-open box, in pixels of the image.
        ("points", "list<double>"),
        ("labels", "list<int32>"),
        ("box", "list<double>"),
        ("text", "string"),
        # Why there is no prompt; null where there is one.
        ("reason", "string"),
    ],
    "scores": [
        ("object", "string"),
        *_WHO,
        *_METRICS,
        ("boundary_iou", "double"),
        # Human correction effort; null but where a protocol asks for it.
        ("hce", "double"),
        # The model's own estimate of the IoU; NaN where it makes none.
        ("quality", "double"),
        # Counts of the COCO RLE of the outline, of the image's height and width.
        ("rle", "binary"),
        # Why there is no answer; null where there is one.
        ("reason", "string"),
    ],
    "volumes": [
        ("volume", "string"),
        ("dataset", "string"),
        ("modality", "string"),
        ("case", "string"),
        ("axis", "string"),
        ("target", "string"),
        # Slices that hold the target.
        ("slices", "int32"),
        *_WHO,
        *_METRICS,
        # Why there is no answer on one of its slices; null where there is one on each.
        ("reason", "string"),
    ],
    "times": [
        ("model", "string"),
        ("image", "string"),
        # encode, or the strategy.
        ("stage", "string"),
        ("variant", "string"),
        # Prompts answered.
        ("prompts", "int32"),
        ("seconds", "double"),
    ],
    "saliency": [
        ("model", "string"),
        ("image", "string"),
        ("height", "int32"),
        ("width", "int32"),
        # (height, width) float16, the mean size of the embedding's channels, from 0 to 1, over the whole image.
        ("values", "binary"),
    ],
}
TABLES = tuple(_TABLES)


def schema(table: str) -> pa.Schema:
    """Columns of one of `TABLES`."""
    import pyarrow as pa

    lists = {"double": pa.float64(), "int32": pa.int32(), "string": pa.string()}
    kinds = {f"list<{name}>": pa.list_(kind) for name, kind in lists.items()}
    return pa.schema([(name, kinds.get(kind) or pa.type_for_alias(kind)) for name, kind in _TABLES[table]])


def write_table(folder: Path, table: str, rows: Iterable[Mapping[str, Any]], name: str | None = None) -> None:
    """Writes one of `TABLES`, whole, or a part of it under another name; keys that a row lacks are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(folder / f"{name or table}.parquet") as part:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema(table)), part, compression="zstd")


def read_table(folder: Path, table: str) -> pa.Table:
    """Reads one of `TABLES`.

    Raises:
        ReadError: It is missing or damaged, or the evaluation is not finished.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"{table}.parquet"
    try:
        return pq.read_table(path, schema=schema(table))
    except (OSError, pa.ArrowException) as error:
        raise ReadError(
            f"is not a table of a finished evaluation ({error})",
            path=path,
            remedy="run the same `vesalius evaluate` again",
        ) from error
