"""What every layout reader gives: entries, which are cheap to list, and the scans they lead to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.types import Volume


@dataclass(frozen=True)
class Entry:
    """One picture or volume of a data set, with its labels, not read yet.

    Entries are plain data: they are sent to other processes, and their order decides that of the corpus.

    Attributes:
        name: Unique in its data set, and fit for a file name; readers make it from the file's path.
        case: Patient, recording, volume or image that must not be split between training and testing.
        image: The image file, or the folder of a DICOM series.
        labels: Files that hold its labels; empty where it has none.
        split: ``"train"``, ``"val"`` or ``"test"`` where the layout itself says so.
        extra: What else the reader needs, such as the annotations of this image; JSON-like values alone. ``problem``
            says why the entry cannot be used at all.
    """

    name: str
    case: str
    image: Path
    labels: tuple[Path, ...] = ()
    split: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Layer:
    """Labels that do not overlap; those that do lie in several layers.

    Attributes:
        values: (Z, Y, X) integers on the voxels of the scan, 0 for background. A reader gives what the file has:
            float, negative and unlisted values are judged later, in one place.
        names: Value -> name of the target, as the source calls it.
        objects: Whether each value is one object that must not be taken apart (an instance map, a polygon), rather
            than a class whose connected parts are objects.
    """

    values: NDArray[Any]
    names: Mapping[int, str]
    objects: bool = False


@dataclass(frozen=True, eq=False)
class Scan:
    """One grey or RGB image, 2-D (one slice) or 3-D, with its labels.

    Attributes:
        name: That of its entry; with the name of the channel or time point (``case1-t2``, ``case1-003``) where an
            entry holds several.
        volume: The voxels, their geometry, and the modality.
        layers: Its labels; empty where nothing is labelled.
        empty: Masks in the files that cover no pixel.
    """

    name: str
    volume: Volume
    layers: tuple[Layer, ...]
    empty: int = 0


def below(path: Path, root: Path) -> str:
    """A path as a corpus names it: relative to ``root`` if it lies below it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def safe_name(path: Path, root: Path) -> str:
    """A file's path below ``root`` as one name: folders joined by ``_``, without its suffix."""
    relative = path.relative_to(root)
    stem = relative.name.split(".nii")[0] if ".nii" in relative.name else relative.stem
    return "_".join([*relative.parts[:-1], stem]).replace(" ", "_")


def one_slice(values: NDArray[Any]) -> NDArray[Any]:
    """(H, W) labels of a picture as (1, H, W)."""
    return np.asarray(values)[None]
