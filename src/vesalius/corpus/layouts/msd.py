"""Medical Segmentation Decathlon: a ``dataset.json`` with lists of NIfTI images and label maps.

Channels of a 4-D image become scans of their own, named and typed by ``modality`` of the JSON file. Images of ``test``
have no labels, as published; written here they have. Rows written here also state case and modality, and two more
lists, ``validation`` and ``unsplit``, hold what the Decathlon does not have.

Source: http://medicaldecathlon.com, ``dataset.json`` of each task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from vesalius.corpus.layouts.datalist import LISTS, entries, index_at, read, write_lists
from vesalius.corpus.layouts.nnunet import has_channel_files
from vesalius.corpus.layouts.support import dataset_name
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry

__all__ = ["find", "guess", "read", "write"]

_INDEX = "dataset.json"


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the images that ``dataset.json`` (or the file that the recipe's ``labels`` names) lists.

    Raises:
        ReadError: It is missing or damaged.
    """
    return entries(root / (dataset.labels or _INDEX), dataset, root)


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder whose ``dataset.json`` names labels and modalities and lists scans."""
    content = index_at(folder / _INDEX)
    if content is None or not isinstance(content.get("labels"), dict) or "modality" not in content:
        return None
    rows = content.get("training") or content.get("test") or content.get("validation") or content.get("unsplit")
    first = rows[0] if rows else {}
    image = first.get("image") if isinstance(first, dict) else first
    label = str(first.get("label", "")) if isinstance(first, dict) else ""
    # nnU-Net's first version lists images under names that its files do not have, IMIS-Bench has stacks of masks.
    if not isinstance(image, str) or label.endswith(".npz") or has_channel_files(folder):
        return None
    return DatasetRecipe(name=dataset_name(folder), layout="msd", root=folder)


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:
    """Writes ``dataset.json``, and images and label maps of one slice: NIfTI, or PNG for colour.

    Raises:
        WriteError: The folder holds something or cannot be written, two images have one name, or targets overlap.
    """
    lists = {value: key for key, value in LISTS.items() if key != "testing"}
    write_lists(images, folder, name, "msd", _INDEX, lists)
