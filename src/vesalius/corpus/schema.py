"""The tables of a corpus.

A corpus is a folder::

    corpus.json              what it is; written last, so that a folder without it is not a corpus
    images/00000.parquet     one row per image
    masks/00000.parquet      one row per mask
    rejects.parquet          what could not be used, and why

Row group k of a mask file holds the masks of the images in row group k of the image file of the same number, so that
an image and its masks are read without looking anything up. ``id`` joins the two tables.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vesalius.core.config import Config
from vesalius.corpus.recipe import Recipe

if TYPE_CHECKING:
    import pyarrow as pa

# 2: images have slice_spacing.
SCHEMA_VERSION = 2
DESCRIPTION = "corpus.json"
# Images in a row group: reading one image reads its group.
GROUP = 16


class CorpusInfo(Config):
    """The content of ``corpus.json``.

    Attributes:
        schema_version: Of the tables.
        name: Of the corpus.
        recipe: What it was made by; None for one made of others.
        made_by: Versions of the tools that decide its bytes.
        entries: Digest of the list of entries and of their rules, or of what an annotator's corpus holds; None for a
            corpus made of others.
        images: Number of images.
        masks: Number of masks.
        rejects: Number of entries that could not be used.
        left_out: Images and masks that the profiles leave out, by reason.
        unknown_targets: Names that the vocabulary does not know -> number of their masks.
        shards: Number of files of each table.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    recipe: Recipe | None
    made_by: dict[str, str]
    entries: str | None = None
    images: int
    masks: int
    rejects: int
    left_out: dict[str, int]
    unknown_targets: dict[str, int]
    shards: int


def image_schema() -> pa.Schema:
    """Columns of the images.

    ``image.bytes`` is a PNG of 8 bits, grey or RGB, and ``image.path`` its name. Spacing is in mm, null where unknown.
    ``slice_spacing`` is the distance between neighbouring slices, and ``index`` counts them along ``axis`` from 0.
    ``split`` is null where the case is in none. ``source_digest`` is the SHA-256 of the source file; of its files in
    the order of their names where it is a folder.
    """
    import pyarrow as pa

    columns = [
        ("id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("modality", pa.string()),
        ("dataset", pa.string()),
        ("case", pa.string()),
        ("name", pa.string()),
        ("axis", pa.string()),
        ("index", pa.int32()),
        ("row_spacing", pa.float32()),
        ("column_spacing", pa.float32()),
        ("slice_spacing", pa.float32()),
        ("source", pa.string()),
        ("source_digest", pa.string()),
        ("split", pa.string()),
        ("masks", pa.int32()),
    ]
    # Hugging Face `datasets` takes a column for images if the schema says so.
    features = {name: {"_type": "Image"} if name == "image" else _feature(kind) for name, kind in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(columns, metadata=metadata)


def mask_schema() -> pa.Schema:
    """Columns of the masks.

    ``rle`` holds the counts of a compressed COCO RLE, whose size is (``height``, ``width``). ``target`` is the name in
    the vocabulary, ``label`` the source's own. ``instance`` counts the image's masks of one target from 1. ``area`` is
    in pixels; the box is x0, y0, x1, y1 in pixels, half-open. ``model`` is the digest of the weights that drew a pseudo
    mask; null for a true mask, and for a pseudo mask drawn without a model.
    """
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("rle", pa.binary()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("modality", pa.string()),
            ("dataset", pa.string()),
            ("split", pa.string()),
            ("target", pa.string()),
            ("label", pa.string()),
            ("group", pa.string()),
            ("organ", pa.string()),
            ("instance", pa.int32()),
            ("area", pa.int32()),
            ("x0", pa.int32()),
            ("y0", pa.int32()),
            ("x1", pa.int32()),
            ("y1", pa.int32()),
            ("pseudo", pa.bool_()),
            ("model", pa.string()),
        ]
    )


def reject_schema() -> pa.Schema:
    """Columns of the rejects."""
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in ("dataset", "name", "file", "reason")])


def _feature(kind: pa.DataType) -> dict[str, str]:
    names = {"int32": "int32", "float": "float32", "string": "string"}
    return {"_type": "Value", "dtype": names[str(kind)]}
