"""MONAI's datalists: a JSON file with lists ``training``, ``validation``, ``testing`` of images and labels.

``image`` is a file, or a list of files, one per channel; ``label`` is one label map or left out. A datalist does not
say what labels mean: the recipe's ``targets`` do, or ``labels`` of the file, as the Decathlon has it. ``labels`` of the
recipe is the name of the JSON file, by default ``datalist.json``, else the only one that has such lists.

Source: https://docs.monai.io, ``monai.data.load_decathlon_datalist``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from vesalius.core.errors import ReadError
from vesalius.corpus.layouts import msd
from vesalius.corpus.layouts.datalist import LISTS, entries, index_at, read, write_lists
from vesalius.corpus.layouts.nnunet import has_channel_files
from vesalius.corpus.layouts.support import dataset_name
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry

__all__ = ["find", "guess", "read", "write"]

_INDEX = "datalist.json"


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the images of a datalist.

    Raises:
        ReadError: There is none, or more than one; it is damaged.
    """
    if dataset.labels:
        return entries(root / dataset.labels, dataset, root)
    indexes = _indexes(root)
    if len(indexes) != 1:
        found = ", ".join(path.name for path in indexes) or "none"
        raise ReadError(
            f"there is no {_INDEX} and not one datalist alone: {found}",
            path=root,
            remedy="name the JSON file with the recipe's labels",
        )
    return entries(indexes[0], dataset, root)


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder with one datalist that is not one of the layouts which are stricter."""
    indexes = _indexes(folder)
    if len(indexes) != 1 or has_channel_files(folder):
        return None
    content = index_at(indexes[0]) or {}
    rows = [row for key in LISTS for row in content.get(key) or ()]
    plain = all(isinstance(row, dict) and not str(row.get("label", "")).endswith(".npz") for row in rows)
    if not rows or not plain or not all("image" in row for row in rows) or msd.guess(folder):
        return None
    labels = None if indexes[0].name == _INDEX else indexes[0].name
    return DatasetRecipe(name=dataset_name(folder), layout="monai", root=folder, labels=labels)


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:
    """Writes ``datalist.json``, and images and label maps of one slice: NIfTI, or PNG for colour.

    Raises:
        WriteError: The folder holds something or cannot be written, two images have one name, or targets overlap.
    """
    lists = {value: key for key, value in LISTS.items() if key != "test"}
    write_lists(images, folder, name, "monai", _INDEX, lists)


def _indexes(folder: Path) -> list[Path]:
    if (folder / _INDEX).is_file():
        return [folder / _INDEX]
    return [path for path in sorted(folder.glob("*.json")) if index_at(path) is not None]
