"""Paired folders: ``images/<stem>.png|jpg`` and ``labels/<stem>.png``, described by a ``set.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import GeometryError, ReadError
from vesalius.core.types import Slice
from vesalius.corpus.objects import MIN_AREA, LabelledImage, ObjectMask, connected_objects


def find_sets(folder: Path) -> list[Path]:
    """The folder itself if it is a paired set (it has a ``set.json``), else the paired sets in it, by name.

    Raises:
        ReadError: There is none.
    """
    if (folder / "set.json").exists():
        return [folder]
    sets = sorted(path.parent for path in folder.glob("*/set.json"))
    if not sets:
        raise ReadError(
            "there is no set of image and label pairs", path=folder, remedy="give a folder that holds a set.json"
        )
    return sets


def list_cases(folder: str | Path) -> dict[Path, str]:
    """Image files of a paired set, sorted, each with the name of its case.

    ``set.json`` counts the cases; a stem begins with its case, so the case is the fewest leading parts of the stem
    (between underscores) that give as many different names as there are cases.

    Raises:
        ReadError: There is no readable ``set.json`` or no image, or no part of the names gives that many cases.
    """
    folder = Path(folder)
    images = sorted(path for path in (folder / "images").glob("*") if path.suffix in (".png", ".jpg"))
    if not images:
        raise ReadError("there are no images", path=folder / "images", remedy="put .png or .jpg files there")
    count = _description(folder)["cases"]
    parts = [path.stem.split("_") for path in images]
    for length in range(1, max(map(len, parts)) + 1):
        cases = ["_".join(part[:length]) for part in parts]
        if len(set(cases)) == count:
            return dict(zip(images, cases, strict=True))
    raise ReadError(f"the file names do not show the {count} cases that set.json states", path=folder)


def read_pairs(folder: str | Path, *, min_area: float = MIN_AREA) -> Iterator[LabelledImage]:
    """Reads a set of image and label pairs, in the order of file names.

    Args:
        folder: Holds ``set.json``, ``images/``, ``labels/``, and ``labels_instances/`` if set.json says so.
        min_area: Objects under this share of the image are left out.

    Yields:
        Each image with its objects; an image may have none.

    Raises:
        ReadError: A file is missing or damaged.
        GeometryError: A label map is not of its image's size.
    """
    folder = Path(folder)
    about = _description(folder)
    names = {int(value): name for value, name in about["labels"].items()}
    for path, case in list_cases(folder).items():
        pixels = _read(path)
        labels = _read(folder / "labels" / f"{path.stem}.png")
        instances = _read(folder / "labels_instances" / f"{path.stem}.png") if about["instances"] else None
        for kind, array in (("label", labels), ("instance", instances)):
            if array is not None and array.shape != pixels.shape[:2]:
                raise GeometryError(f"the {kind} map is {array.shape}, the image {pixels.shape[:2]}", path=path)
        found = connected_objects(labels, names, instances, min_area)
        yield LabelledImage(
            image=Slice(pixels, modality=about["modality"], source=path),
            modality=about["modality"],
            dataset=folder.name,
            case=case,
            path=path,
            masks=[ObjectMask(mask, target, number) for number, (mask, target) in enumerate(found, 1)],
        )


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "set.json"
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        about["cases"], about["labels"], about["instances"], about["modality"]
    except (OSError, ValueError, KeyError) as error:
        raise ReadError(f"cannot be read ({error})", path=path, remedy="describe the set there") from error
    return about


def _read(path: Path) -> NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.array(picture)
    except OSError as error:
        raise ReadError(f"cannot be read ({error})", path=path) from error
