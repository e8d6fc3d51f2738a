"""JSON files with lists of images and labels, as the Medical Segmentation Decathlon, MONAI and IMIS-Bench have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vesalius.core.errors import ReadError
from vesalius.corpus.layouts.listing import Rows, about, read_member, read_rows
from vesalius.corpus.layouts.support import case_of, name_below, read_json, writing, written_name
from vesalius.corpus.layouts.volumes import (
    class_layers,
    label_map,
    label_sets,
    read_channels,
    read_labels,
    write_pair,
)
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe, LayoutName
from vesalius.corpus.scans import Entry, Scan

# Lists and the split they mean; the last is written here for images that are in none.
LISTS = {"training": "train", "validation": "val", "test": "test", "testing": "test", "unsplit": None}
_FOLDERS = {"train": "Tr", "val": "Va", "test": "Ts", None: "Un"}
_IMAGES = re.compile(r"images?(Tr|Va|Ts|Un)?", re.IGNORECASE)
_REMEDY = "copy it again, or choose another layout"


def read_index(path: Path) -> dict[str, Any]:
    """The content of a JSON file with lists.

    Raises:
        ReadError: It is missing, damaged, or has no list.
    """
    content = read_json(path, _REMEDY)
    if not isinstance(content, dict) or not any(isinstance(content.get(key), list) for key in LISTS):
        raise ReadError(f"has none of the lists {', '.join(LISTS)}", path=path, remedy=_REMEDY)
    return content


def index_at(path: Path) -> dict[str, Any] | None:
    """The same, or None if it is no such file."""
    try:
        return read_index(path) if path.is_file() else None
    except ReadError:
        return None


def entries(index: Path, dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """The images that a JSON file lists; a row may also state ``case`` and ``modality``.

    Raises:
        ReadError: It is missing or damaged.
    """
    stated = {key: read_member(index, key, _REMEDY) for key in ("labels", "modality", "tensorImageSize")}
    shared = {
        "labels": label_sets(dataset, stated["labels"] or {}, index),
        "channels": channel_names(stated["modality"] or {}),
        # What is stated to be volumes and is not, is a mistake; "4D" is a volume with channels.
        "solid": str(stated["tensorImageSize"] or "").upper() in ("3D", "4D"),
    }
    found = False
    for key, split in LISTS.items():
        for number, row in enumerate(read_rows(index, key, _REMEDY)):
            found = True
            try:
                if isinstance(row, str):
                    row = {"image": row}
                images = row["image"] if isinstance(row["image"], list) else [row["image"]]
                paths = [_path(index, image) for image in images]
                labels = row.get("label") or []
                files = tuple(_path(index, label) for label in ([labels] if isinstance(labels, str) else labels))
                case, modality = row.get("case"), row.get("modality")
            except (KeyError, TypeError, AttributeError) as error:
                raise ReadError(f"row {number + 1} of {key} names no files", path=index, remedy=_REMEDY) from error
            if not paths or len(files) > 1:
                raise ReadError(
                    f"row {number + 1} of {key} has {len(paths)} images and {len(files)} label files",
                    path=index,
                    remedy="give each row an image and at most one label file",
                )
            name = short_name(paths[0], root)
            several = {"images": [path.relative_to(root).as_posix() for path in paths]} if len(paths) > 1 else {}
            yield Entry(
                name=name,
                case=case_of(dataset, paths[0], root, str(case or name)),
                image=paths[0],
                labels=files,
                split=split,
                extra=shared | several | ({"modality": modality} if modality else {}),
            )
    if not found:
        read_index(index)


def read(entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
    """Reads the channels of an image, each with the labels.

    Raises:
        ReadError: A file is missing or damaged; a single slice where the JSON file states volumes.
        GeometryError: The label map lies on another grid than the image.
    """
    for name, volume, time in read_channels(entry, dataset):
        if entry.extra["solid"] and volume.voxels.shape[0] == 1:
            raise ReadError("has one slice among volumes", path=entry.image, remedy="take it out of the list")
        layers = [class_layers(read_labels(path, volume, time), entry.extra["labels"]) for path in entry.labels]
        yield Scan(name, volume, layers[0] if layers else ())


def write_lists(
    images: Iterable[LabelledImage],
    folder: Path,
    name: str,
    layout: LayoutName,
    index: str,
    lists: dict[str | None, str],
) -> None:
    """Writes a JSON file with lists, and images and label maps of one slice: NIfTI, or PNG for colour.

    Args:
        images: The images.
        folder: Where to write.
        name: Of the data set.
        layout: Its name, for errors.
        index: Name of the JSON file.
        lists: Split -> name of its list.

    Raises:
        WriteError: The folder holds something or cannot be written, two images have one name, or targets overlap.
    """
    classes: dict[str, int] = {}
    modalities: dict[str, None] = {}
    with writing(folder) as part:
        rows = Rows(part)
        for image in images:
            stem, ending = written_name(image), _FOLDERS[image.split]
            for kind in ("images", "labels"):
                (part / f"{kind}{ending}").mkdir(exist_ok=True)
            labels = label_map(image, classes, layout)
            suffix = write_pair(image, labels, part / f"images{ending}" / stem, part / f"labels{ending}" / stem)
            stated = about(image)
            modalities[stated["modality"] or "unknown"] = None
            rows.add(
                lists[image.split],
                {
                    "image": f"./images{ending}/{stem}{suffix}",
                    "label": f"./labels{ending}/{stem}{suffix}",
                    "case": stated["case"],
                    "modality": stated["modality"],
                },
            )
        head = {
            "name": name,
            "tensorImageSize": "2D",
            "modality": {"0": " or ".join(modalities)},
            "labels": {"0": "background"} | {str(value): target for target, value in classes.items()},
            "numTraining": rows.count["training"],
            "numTest": rows.count[lists["test"]],
        }
        used = {key: key for key in lists.values() if rows.count[key] or key == "training"}
        rows.write_lists(part / index, head, used)


def channel_names(stated: Any) -> list[str]:
    """Names of channels, of a mapping from their numbers or a list."""
    if isinstance(stated, dict):
        return [str(stated[key]) for key in sorted(stated, key=lambda key: (len(str(key)), str(key)))]
    return [str(name) for name in stated] if isinstance(stated, list) else [str(stated)]


def short_name(path: Path, root: Path) -> str:
    """`name_below` without a leading folder that says no more than that it holds images."""
    inner = root / path.relative_to(root).parts[0] if path.is_relative_to(root) else root
    return name_below(path, inner if inner != path and _IMAGES.fullmatch(inner.name) else root)


def _path(index: Path, name: str) -> Path:
    """A listed path, without ``.`` and ``..``."""
    parts: list[str] = []
    for part in (index.parent / name).parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return Path(*parts)
