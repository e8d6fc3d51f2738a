"""COCO: JSON files of instances with polygons and run lengths, beside folders of images.

``labels`` of a recipe is the pattern of the JSON files; by default it is the first of ``annotations/instances_*.json``,
``annotations/*.json``, ``*.json`` and ``*/*.json`` that finds any. ``images`` is the pattern of the image files, where
they do not lie in one of the usual places (beside the JSON, in ``images``, ``train2017``, ``images/train``, ...). A
split is taken from the name of the JSON or of its folder.

An annotation is an object; its ``iscrowd`` makes it a region of its class instead, whose parts are counted one by one.
Images that are written here say their ``case``, for which COCO itself has no place.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from vesalius.core.errors import ConfigError, ReadError
from vesalius.corpus.layers import pack
from vesalius.corpus.layouts.listing import read_member, read_rows
from vesalius.corpus.layouts.support import (
    case_of,
    dataset_name,
    matching,
    name_below,
    numbers,
    read_flat,
    read_json,
    split_named,
    target_name,
    write_png,
    writing,
)
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, Scan
from vesalius.corpus.sorting import SortedRows
from vesalius.io.outlines import mask_of_polygons, mask_of_runs, runs_of_mask
from vesalius.io.regions import CutOut, Region, cut_out

_log = logging.getLogger(__name__)

_PATTERNS = ("annotations/instances_*.json", "annotations/*.json", "*.json", "*/*.json")
_REMEDY = "name the JSON files of instances with the recipe's labels, or copy them again"


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the images that the JSON files list.

    Raises:
        ReadError: There is no JSON file of instances; one is damaged or contradicts itself.
        ConfigError: The recipe's pattern of images is none.
    """
    patterns = (dataset.labels,) if dataset.labels else _PATTERNS
    indexes = next((found for found in (sorted(root.glob(pattern)) for pattern in patterns) if found), [])
    if not indexes:
        raise ReadError("holds no JSON file of instances", path=root, remedy=_REMEDY)
    if dataset.images is not None and (Path(dataset.images).is_absolute() or not Path(dataset.images).parts):
        raise ConfigError(f"images: {dataset.images!r} is no pattern below the root")
    for index in indexes:
        yield from _entries(index, dataset, root)


def read(entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
    """Reads a picture and its annotations.

    Raises:
        ReadError: The picture is missing or damaged, or an annotation is.
        GeometryError: The picture is not of the size that the JSON states.
    """
    stated = entry.extra["size"]
    volume = read_flat(entry, dataset, tuple(stated) if stated else None)
    size = volume.voxels.shape[1:3]
    regions = []
    for number, annotation in zip(numbers(dataset), entry.extra["annotations"], strict=False):
        part = read_segmentation(annotation["segmentation"], size, annotation["id"], entry.labels[0])
        if part is not None:
            regions.append(Region(number, annotation["name"], {0: part}, one=not annotation["crowd"]))
    empty = len(entry.extra["annotations"]) - len(regions)
    yield Scan(entry.name, volume, pack(regions, (1, *size)), empty)


def read_segmentation(segmentation: Any, size: tuple[int, int], number: object, path: Path) -> CutOut | None:
    """The mask of an annotation; None, and a warning, where it covers no pixel.

    Args:
        segmentation: Polygons, or run lengths.
        size: (height, width) of the image.
        number: Of the annotation, as errors name it.
        path: The file it is from.

    Raises:
        ReadError: It is neither, or is damaged.
    """
    try:
        if not segmentation:
            raise ValueError("it has a box and no mask")
        make = mask_of_runs if isinstance(segmentation, dict) else mask_of_polygons
        part = cut_out(make(segmentation, size))
    except (ValueError, TypeError, KeyError) as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        raise ReadError(
            f"annotation {number} cannot be read: {reason}", path=path, remedy="correct or remove it"
        ) from error
    if part is None:
        _log.warning("%s: annotation %s covers no pixel and is left out", path, number)
    return part


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder with JSON files of instances."""
    for pattern in _PATTERNS:
        indexes = sorted(folder.glob(pattern))
        if indexes:
            if all(_is_index(path) for path in indexes):
                return DatasetRecipe(name=dataset_name(folder), layout="coco", root=folder)
            return None
    return None


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:
    """Writes ``annotations/instances_<split>.json`` with compressed run lengths, and PNGs in ``images/<split>``.

    Images without a split lie in ``all``.

    Raises:
        WriteError: The folder holds something or cannot be written, or two images have one name.
    """
    categories: dict[str, int] = {}
    counts: dict[str, dict[str, int]] = {}
    with writing(folder) as part:
        notes = part / "annotations"
        notes.mkdir()
        for image in images:
            split = image.split or "all"
            if split not in counts:
                counts[split] = {"images": 0, "annotations": 0}
                (part / "images" / split).mkdir(parents=True)
            count = counts[split]
            height, width = image.image.size
            file_name = write_png(image, part / "images" / split)
            # Lines go to files at once, so that memory does not grow with the number of images.
            with (notes / f".{split}.images").open("a", encoding="utf-8") as file:
                count["images"] += 1
                row = {
                    "id": count["images"],
                    "file_name": file_name,
                    "height": height,
                    "width": width,
                    "case": image.case,
                }
                file.write(json.dumps(row) + "\n")
            with (notes / f".{split}.annotations").open("a", encoding="utf-8") as file:
                for mask in image.masks:
                    found = cut_out(mask.mask)
                    if found is None:
                        continue
                    count["annotations"] += 1
                    annotation = {
                        "id": count["annotations"],
                        "image_id": count["images"],
                        "category_id": categories.setdefault(mask.target, len(categories) + 1),
                        "iscrowd": 0,
                        "area": int(mask.mask.sum()),
                        "bbox": [found.left, found.top, found.mask.shape[1], found.mask.shape[0]],
                        "segmentation": runs_of_mask(mask.mask),
                    }
                    file.write(json.dumps(annotation) + "\n")
        for split in counts:
            _assemble(notes, split, name, categories)


def _assemble(notes: Path, split: str, name: str, categories: dict[str, int]) -> None:
    """Makes one JSON of the lines of a split."""
    with (notes / f"instances_{split}.json").open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {json.dumps({"description": name})},\n')
        for kind in ("images", "annotations"):
            lines = notes / f".{split}.{kind}"
            file.write(f'"{kind}": [')
            with lines.open(encoding="utf-8") as rows:
                for number, row in enumerate(rows):
                    file.write((",\n" if number else "\n") + row.rstrip("\n"))
            file.write("\n],\n")
            lines.unlink()
        listed = [{"id": number, "name": target} for target, number in categories.items()]
        file.write(f'"categories": {json.dumps(listed)}}}\n')


def _is_index(path: Path) -> bool:
    try:
        content = read_json(path, _REMEDY)
    except ReadError:
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _entries(index: Path, dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    try:
        rows = SortedRows(chain(_annotations(index, dataset), _images(index, dataset, root)))
        # Annotations come before their image.
        for _, group in groupby(rows, key=lambda row: row[0][0]):
            *annotations, image = (row for _, row in group)
            if "path" not in image:
                raise ReadError(
                    f"annotation {image['id']} is of an image that is not listed", path=index, remedy=_REMEDY
                )
            if any("path" in row for row in annotations):
                raise ReadError("lists two images with one id", path=index, remedy="give each its own")
            path = image["path"]
            name = name_below(path, root)
            yield Entry(
                name=name,
                case=case_of(dataset, path, root, image["case"] or name),
                image=path,
                labels=(index,),
                split=split_named(index.relative_to(root)),
                extra={"size": image["size"], "annotations": [row for row in annotations if "name" in row]},
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReadError(f"is not a COCO file of instances ({error!r})", path=index, remedy=_REMEDY) from error


def _annotations(index: Path, dataset: DatasetRecipe) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    """What is needed of each annotation, under its image."""
    names = {int(row["id"]): str(row["name"]) for row in _rows(index, "categories")}
    found = masks = False
    for row in _rows(index, "annotations"):
        category = int(row["category_id"])
        if category not in names:
            raise ReadError(f"annotation {row['id']} is of category {category}, not listed", path=index)
        found, masks = True, masks or bool(row.get("segmentation"))
        about = {
            "id": row["id"],
            "name": target_name(dataset, category, names[category]),
            "crowd": bool(row.get("iscrowd", 0)),
            "segmentation": row.get("segmentation"),
        }
        # One that is ignored must have an image too.
        yield (_key(row["image_id"]), 0), {"id": row["id"]} if category in dataset.ignore else about
    if found and not masks:
        raise ReadError("has boxes and no masks", path=index, remedy="use a file of instances with segmentation")


def _images(index: Path, dataset: DatasetRecipe, root: Path) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    """What is needed of each image, under its number."""
    for row, path in _placed(index, dataset, root):
        size = [int(row["height"]), int(row["width"])] if "height" in row and "width" in row else None
        yield (_key(row["id"]), 1), {"path": path, "size": size, "case": str(row.get("case", ""))}


def _key(number: Any) -> str:
    # Some tools write 7.0 on one side and 7 on the other.
    return json.dumps(int(number) if isinstance(number, float) and number.is_integer() else number)


def _rows(index: Path, name: str) -> Iterator[dict[str, Any]]:
    empty = True
    for row in read_rows(index, name, _REMEDY):
        empty = False
        yield row
    if empty and not isinstance(read_member(index, name, _REMEDY), list):
        raise KeyError(name)


def _placed(index: Path, dataset: DatasetRecipe, root: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """The images that a JSON lists, with the files that they are."""
    if dataset.images is None:
        folder = _folder(index, root)
        yield from ((row, folder / str(row["file_name"])) for row in _rows(index, "images"))
        return
    files = (((path.name, 0), path) for path in matching(root, dataset.images))
    listed = (((Path(str(row["file_name"])).name, 1), row) for row in _rows(index, "images"))
    both: SortedRows[Any] = SortedRows(chain(files, listed))
    for _, group in groupby(both, key=lambda row: row[0][0]):
        found: list[Path] = []
        for (_, is_listed), row in group:
            if is_listed:
                yield row, _matching(str(row["file_name"]), sorted(found), index, dataset.images, root)
            else:
                found.append(row)


def _folder(index: Path, root: Path) -> Path:
    """The usual place that one of the images lies in."""
    stem = index.stem.removeprefix("instances_")
    split = split_named(index.relative_to(root)) or stem
    folders = [
        base / below
        for base in dict.fromkeys([index.parent, *(p for p in index.parents if p == root or root in p.parents)])
        for below in (".", "images", stem, f"images/{stem}", split, f"images/{split}")
    ]
    name = ""
    for row in _rows(index, "images"):
        name = name or str(row["file_name"])
        for folder in dict.fromkeys(folders):
            if (folder / str(row["file_name"])).is_file():
                return folder
    if not name:
        return index.parent
    raise ReadError(
        f"lists images such as {name}, which lie in none of the usual places",
        path=index,
        remedy="name them with the recipe's images, such as pictures/*.png",
    )


def _matching(name: str, found: list[Path], index: Path, pattern: str, root: Path) -> Path:
    ends = Path(name).parts
    matches = [path for path in found if path.parts[-len(ends) :] == ends]
    if len(matches) > 1:
        raise ReadError(f"{name} may be {matches[0]} or {matches[1]}", path=index, remedy="narrow the recipe's images")
    return matches[0] if matches else (root / pattern).parent / name
