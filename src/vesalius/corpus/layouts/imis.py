"""IMIS-Bench: ``dataset.json`` with lists, PNG images, and ``.npz`` stacks of one mask per class.

A stack is a sparse matrix of classes x pixels whose shape, (classes, height, width, 1), is in the file's name; class c
of ``labels`` is its row c - 1, and classes may overlap. ``imask`` of a row is a map of pseudo masks, which are no true
masks: they are not read.

Source: https://github.com/uni-medical/IMIS-Bench, and IMed-361M, appendix B.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ReadError, WriteError
from vesalius.corpus.layers import pack
from vesalius.corpus.layouts.datalist import LISTS, entries, index_at
from vesalius.corpus.layouts.listing import Rows, about
from vesalius.corpus.layouts.support import dataset_name, read_flat, write_png, writing
from vesalius.corpus.layouts.volumes import known_modality
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, Scan
from vesalius.io.grid import check_shape
from vesalius.io.regions import Region, cut_out

_INDEX = "dataset.json"
_SHAPE = re.compile(r"\.\((\d+), *(\d+), *(\d+), *(\d+)\)\.npz$")
_REMEDY = "copy it again, or take it out of dataset.json"


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the images that ``dataset.json`` (or the file that the recipe's ``labels`` names) lists.

    Raises:
        ReadError: It is missing or damaged.
    """
    return entries(root / (dataset.labels or _INDEX), dataset, root)


def read(entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
    """Reads a picture and its masks.

    Raises:
        ReadError: A file is missing or damaged, or has a class that nothing names.
        GeometryError: The masks are of another size than the picture.
    """
    stated = entry.extra.get("modality") or next(iter(entry.extra["channels"]), "")
    modality = known_modality(stated) or stated or dataset.modality
    typed = dataset.model_copy(update={"modality": modality})
    names = {value: name for name, values in entry.extra["labels"] for value in values}
    regions: list[Region] = []
    if not entry.labels:
        yield Scan(entry.name, read_flat(entry, typed), ())
        return
    masks = read_stack(entry.labels[0])
    volume = read_flat(entry, typed, (masks.shape[1], masks.shape[2]))
    for value, mask in enumerate(masks, 1):
        part = cut_out(mask)
        if part is None or value in dataset.ignore:
            continue
        if value not in names:
            raise ReadError(
                f"has masks of class {value}, which nothing names",
                path=entry.labels[0],
                remedy="name it in the recipe's targets or ignore",
            )
        regions.append(Region(value, names[value], {0: part}))
    yield Scan(entry.name, volume, pack(regions, (1, *masks.shape[1:])))


def read_stack(path: Path) -> NDArray[np.bool_]:
    """(classes, H, W) masks of a file.

    Raises:
        ReadError: It is missing or damaged, or its name does not say its shape.
    """
    from scipy import sparse

    match = _SHAPE.search(path.name)
    if match is None:
        raise ReadError("its name does not say its shape, as .(13, 512, 512, 1).npz does", path=path, remedy=_REMEDY)
    shape = classes, height, width, depth = tuple(int(number) for number in match.groups())
    check_shape(shape, path)
    if not path.is_file():
        raise ReadError("there is no such file", path=path, remedy=_REMEDY)
    try:
        with path.open("rb") as file:
            matrix = sparse.load_npz(file)
        if matrix.format not in ("csr", "csc"):
            raise ValueError(f"of the sparse format {matrix.format}")
        # Positions outside the matrix would be written outside the memory.
        matrix.check_format(full_check=True)
        if matrix.shape != (classes, height * width) or depth != 1:
            raise ValueError(f"a matrix of {matrix.shape}, not of {classes} masks of {height * width} pixels")
        dense = matrix.toarray()
    # The reader of damaged archives raises nearly anything.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ReadError(f"is no stack of masks, or is damaged ({reason})", path=path, remedy=_REMEDY) from error
    return np.asarray(dense != 0).reshape(classes, height, width)


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder whose ``dataset.json`` lists stacks of masks."""
    content = index_at(folder / _INDEX) or {}
    rows = [row for key in LISTS for row in content.get(key) or ()]
    if any(isinstance(row, dict) and str(row.get("label", "")).endswith(".npz") for row in rows):
        return DatasetRecipe(name=dataset_name(folder), layout="imis", root=folder)
    return None


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:
    """Writes ``dataset.json``, PNGs in ``image`` and stacks of masks in ``label``; objects of a target become one mask.

    Raises:
        WriteError: The folder holds something or cannot be written, or two images have one name.
    """
    from scipy import sparse

    classes: dict[str, int] = {}
    lists = {value: key for key, value in LISTS.items() if key != "testing"}
    modalities: dict[str, None] = {}
    with writing(folder) as part:
        written = part / ".written"
        written.touch()
        for kind in ("image", "label"):
            (part / kind).mkdir()
        for image in images:
            file_name = write_png(image, part / "image")
            for mask in image.masks:
                classes.setdefault(mask.target, len(classes) + 1)
            size = image.image.size
            stack = np.zeros((len(classes), size[0] * size[1]), np.bool_)
            for mask in image.masks:
                stack[classes[mask.target] - 1] |= mask.mask.ravel()
            stem = file_name.removesuffix(".png")
            sparse.save_npz(part / "label" / f"{stem}.npz", sparse.csr_matrix(stack.astype(np.int32)))
            stated = about(image)
            if stated["modality"]:
                modalities[stated["modality"]] = None
            with written.open("a", encoding="utf-8") as file:
                file.write(json.dumps([stem, lists[image.split], len(stack), *size, stated]) + "\n")
        if not classes:
            raise WriteError("no image has a mask, and the layout imis holds masks alone", path=folder)
        rows = Rows(part)
        for line in _lines(written):
            stem, key, known, height, width, stated = json.loads(line)
            # Every stack has all classes, also those that came after it.
            path = part / "label" / f"{stem}.npz"
            label = f"label/x___{stem}.({len(classes)}, {height}, {width}, 1).npz"
            if known < len(classes):
                matrix = sparse.load_npz(path)
                matrix.resize((len(classes), height * width))
                sparse.save_npz(path, matrix)
            path.rename(part / label)
            rows.add(
                key,
                {
                    "image": f"image/{stem}.png",
                    "label": label,
                    "case": stated["case"],
                    "modality": stated["modality"],
                },
            )
        written.unlink()
        head = {
            "name": name,
            "dimension": "2D",
            "modality": {str(number): modality for number, modality in enumerate(modalities)},
            "labels": {"0": "background"} | {str(value): target for target, value in classes.items()},
            "numTraining": rows.count["training"],
            "numTest": rows.count["test"],
        }
        used = {key: key for key in lists.values() if rows.count[key] or key in ("training", "test")}
        rows.write_lists(part / _INDEX, head, used)


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from file
