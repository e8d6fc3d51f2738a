"""Readers and writers of the layouts that people have.

Each layout is a module with

- ``find(dataset, root) -> Iterator[Entry]``: lists a data set's images, in any order, reading nothing but what lists
  them, in memory that does not grow with their number (but by the names of DICOM files);
- ``read(entry, dataset) -> Iterator[Scan]``: reads one of them, and gives several where it holds several channels or
  time points;
- ``guess(folder) -> DatasetRecipe | None``: a first recipe for a folder that has this layout, or None;
- ``write(images, folder, name)``: writes labelled 2-D images so that ``find`` and ``read`` give the same masks;
- ``label_files(dataset, root) -> Iterator[Path]``, where labels are found by their place and not by a list: all files
  that lie where labels do, among which may be some of no image.

``find`` and ``read`` raise ReadError or GeometryError with the path of the file that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe, LayoutName
from vesalius.corpus.scans import Entry, Scan

# The most specific first, so that a guess meets the right one.
_MODULES: dict[LayoutName, str] = {
    "sa-med2d-20m": "sa_med2d_20m",
    "sam-med2d": "sam_med2d",
    "imis": "imis",
    "nnunet": "nnunet",
    "msd": "msd",
    "monai": "monai",
    "coco": "coco",
    "sa1b": "sa1b",
    "yolo": "yolo",
    "cosmos": "cosmos",
    "dicom": "dicom",
    "pairs": "pairs",
}


class Layout(Protocol):
    """What the module of a layout has; see above."""

    def find(self, dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
        """Lists a data set's images."""

    def read(self, entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
        """Reads one entry."""

    def guess(self, folder: Path) -> DatasetRecipe | None:
        """A first recipe for a folder."""

    def write(self, images: Iterable[LabelledImage], folder: Path, name: str) -> None:
        """Writes labelled images in this layout."""


def layout(name: LayoutName) -> Layout:
    """The layout of a name."""
    return cast(Layout, import_module(f"{__name__}.{_MODULES[name]}"))


def label_files(dataset: DatasetRecipe) -> Iterator[Path] | None:
    """The files that lie where a data set's labels do; None where its layout lists them."""
    found = getattr(layout(dataset.layout), "label_files", None)
    return found and found(dataset, dataset.root)


def layout_names() -> tuple[LayoutName, ...]:
    """All layouts, the most specific first, so that a guess meets the right one."""
    return tuple(_MODULES)
