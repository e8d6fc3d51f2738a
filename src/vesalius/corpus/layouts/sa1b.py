"""SA-1B: a JSON beside each image, with the run lengths of objects that have no names: each is ``"unknown"``.

Source: Kirillov et al., Segment Anything, 2023; the form of the files is that of the published data set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vesalius.core.errors import ReadError
from vesalius.corpus.layers import pack
from vesalius.corpus.layouts.coco import read_segmentation
from vesalius.corpus.layouts.support import (
    PICTURES,
    case_of,
    dataset_name,
    matching,
    numbers,
    read_flat,
    read_json,
    target_name,
    write_png,
    writing,
)
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, Scan, safe_name
from vesalius.io.outlines import runs_of_mask
from vesalius.io.regions import Region, cut_out

_UNKNOWN = "unknown"
_SUFFIXES = [form(suffix) for suffix in PICTURES for form in (str.lower, str.upper, str.title)]
_REMEDY = "copy it again, or remove it with its image"


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the images below ``root`` with the JSON beside them, and JSONs whose image is not there.

    Raises:
        ReadError: A case cannot be found.
    """
    for path in matching(root, "**/*"):
        note = path.with_suffix(".json")
        if path.suffix.lower() in PICTURES and path.is_file():
            yield _entry(path, (note,) if note.exists() else (), dataset, root)
        elif path.suffix == ".json" and not any(path.with_suffix(suffix).is_file() for suffix in _SUFFIXES):
            yield _entry(path.with_suffix(".jpg"), (path,), dataset, root)


def read(entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
    """Reads a picture and its objects.

    Raises:
        ReadError: One of the two files is missing or damaged.
        GeometryError: The picture is not of the size that the JSON states.
    """
    stated, annotations = None, []
    if entry.labels:
        content = read_json(entry.labels[0], _REMEDY)
        try:
            stated = int(content["image"]["height"]), int(content["image"]["width"])
            annotations = [(row["id"], row["segmentation"]) for row in content["annotations"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ReadError(f"is no JSON of SA-1B ({error!r})", path=entry.labels[0], remedy=_REMEDY) from error
    volume = read_flat(entry, dataset, stated)
    size = volume.voxels.shape[1:3]
    name = target_name(dataset, 1, _UNKNOWN)
    regions = []
    for number, (own, segmentation) in zip(numbers(dataset), annotations, strict=False):
        part = read_segmentation(segmentation, size, own, entry.labels[0])
        if part is not None:
            regions.append(Region(number, name, {0: part}, one=True))
    yield Scan(entry.name, volume, pack(regions, (1, *size)))


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder with a JSON of SA-1B beside each image."""
    note = next(iter(sorted(folder.rglob("*.json"))), None)
    if note is None or not any(note.with_suffix(suffix).is_file() for suffix in PICTURES):
        return None
    try:
        content = read_json(note, _REMEDY)
    except ReadError:
        return None
    if not isinstance(content, dict) or not {"image", "annotations"} <= content.keys():
        return None
    return DatasetRecipe(name=dataset_name(folder), layout="sa1b", root=folder)


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:  # noqa: ARG001
    """Writes a PNG and a JSON for each image; names, cases and splits have no place in this layout.

    Raises:
        WriteError: The folder holds something or cannot be written, or two images have one name.
    """
    objects = 0
    with writing(folder) as part:
        for number, image in enumerate(images, 1):
            height, width = image.image.size
            file_name = write_png(image, part)
            annotations: list[dict[str, Any]] = []
            for mask in image.masks:
                found = cut_out(mask.mask)
                if found is None:
                    continue
                objects += 1
                box = [found.left, found.top, found.mask.shape[1], found.mask.shape[0]]
                annotations.append(
                    {
                        "id": objects,
                        "bbox": box,
                        "area": int(mask.mask.sum()),
                        "segmentation": runs_of_mask(mask.mask),
                        "crop_box": [0, 0, width, height],
                    }
                )
            about = {"image_id": number, "width": width, "height": height, "file_name": file_name}
            content = {"image": about, "annotations": annotations}
            (part / file_name).with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")


def _entry(path: Path, labels: tuple[Path, ...], dataset: DatasetRecipe, root: Path) -> Entry:
    name = safe_name(path, root)
    return Entry(name=name, case=case_of(dataset, path, root, name), image=path, labels=labels)
