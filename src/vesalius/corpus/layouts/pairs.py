"""Paired folders: images and label maps found by patterns, or described by a ``set.json``.

A recipe names the files: ``images = "STS_*/CT_image.nii.gz"``, ``labels = "{case}/CT_mask.nii.gz"``. A ``set.json``
describes ``images/<stem>.png|jpg``, ``labels/<stem>.png`` and, where it says so, ``labels_instances/<stem>.png``.
A folder such as ``train`` or ``test`` below the root is the split of the images in it, and ``{split}`` stands for its
name in a pattern of labels: ``images = "*/images/*"``, ``labels = "{split}/masks/{stem}.png"``. ``cases.json``, written
here, states the case, modality and split of each image.

An instance map has one value per object; the target of an object is the label that most of its pixels have, or the
recipe's only one where there are no labels. Labels outside all objects lie in a layer of their own.
"""

from __future__ import annotations

import glob
import json
import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ConfigError, ReadError, WriteError
from vesalius.core.types import Volume
from vesalius.corpus.layouts.listing import CASES, Rows, about, read_cases
from vesalius.corpus.layouts.support import (
    PICTURES,
    WILD,
    case_of,
    dataset_name,
    eight_bits,
    matching,
    numbers,
    read_json,
    split_named,
    writing,
    written_name,
)
from vesalius.corpus.layouts.volumes import (
    class_layers,
    label_map,
    label_sets,
    read_channels,
    read_labels,
    write_picture,
)
from vesalius.corpus.objects import MIN_AREA, LabelledImage, ObjectMask, connected_objects
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, Layer, Scan, safe_name
from vesalius.corpus.sorting import joined
from vesalius.corpus.split import SPLITS, lent_cases, split_of
from vesalius.io.read import read_volume

# Parts of a pattern of labels that an image fills in; several in a row would be a glob's **.
_PLACE = re.compile(r"(\{stem\}|\{case\}|\{split\})+")
# Files that describe a data set.
_LISTS = ("*.json", "*.yaml", "*.yml")
# Images whose names are compared with those of label files.
_SHOWING = 100
_DIGITS = re.compile(r"[^A-Za-z0-9.+-]+")


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the images that match the recipe's pattern.

    Raises:
        ConfigError: The recipe has no pattern of images, or none of labels.
        ReadError: A case cannot be found.
    """
    if dataset.images is None or not (dataset.labels or dataset.instances):
        raise ConfigError(
            f"{dataset.name}: the layout pairs needs patterns of images, and of labels or instances",
            remedy='such as images = "images/*.png" and labels = "labels/{stem}.png"',
        )
    try:
        images = matching(root, dataset.images)
    except ValueError as error:
        raise ConfigError(f"images: {dataset.images!r} is no pattern below the root ({error})") from error
    return _entries(images, dataset, root)


def label_files(dataset: DatasetRecipe, root: Path) -> Iterator[Path]:
    """The files that match the recipe's patterns of labels and instances, whatever the image."""
    for pattern in (dataset.labels, dataset.instances):
        # Files that lie elsewhere may be those of other data sets too.
        if pattern and _PLACE.search(pattern) and not Path(pattern).is_absolute():
            for path in matching(root, _PLACE.sub("*", glob.escape(pattern))):
                if path.is_file() and not path.name.startswith("."):
                    yield path


def read(entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
    """Reads the channels of an image, each with its labels.

    Raises:
        ReadError: A file is missing or damaged.
        GeometryError: A label map lies on another grid than the image.
    """
    for name, volume, time in read_channels(entry, dataset):
        yield Scan(name, volume, _layers(entry, dataset, volume, time))


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder with a ``set.json``, or with folders of images and labels and no description at all.

    Raises:
        ReadError: ``set.json`` is damaged, or the names of files do not show its cases.
    """
    if (folder / "set.json").is_file():
        described = _description(folder)
        return DatasetRecipe(
            name=dataset_name(folder),
            layout="pairs",
            root=folder,
            modality=described["modality"],
            images="images/*",
            labels="labels/{stem}.png",
            instances="labels_instances/{stem}.png" if described["instances"] else None,
            case=None if (folder / CASES).is_file() else _case_pattern(folder),
            targets={str(value): str(name) for value, name in described["labels"].items()},
        )
    for images, labels in product(("images", "*/images", "images/*"), ("labels", "masks")):
        below = images.replace("images", labels).replace("*", "{split}")
        pattern = _guess_pattern(folder, images, below)
        if pattern is not None:
            images, labels = f"{images}/*", f"{below}/{pattern}"
            return DatasetRecipe(name=dataset_name(folder), layout="pairs", root=folder, images=images, labels=labels)
    return None


def _guess_pattern(folder: Path, images: str, labels: str) -> str | None:
    """The pattern of the names of label files, or None where folders do not lie so or have a description.

    Args:
        folder: The root.
        images: Pattern of the folders of images; those that a wildcard finds are to name several splits.
        labels: The folders of labels, with ``{split}`` where the other has a wildcard.
    """
    places = {path: _split_folder(path.relative_to(folder)) for path in folder.glob(images) if path.is_dir()}
    if not places:
        return None
    names = set(places.values())
    if "*" in images and (None in names or len({split_named(str(name)) for name in names}) < 2):
        return None
    around = {folder, *(path.parent for path in places)}
    if any(list(place.glob(kind)) for place in around for kind in _LISTS):
        return None
    pairs = [(path, folder / labels.replace("{split}", name or "")) for path, name in sorted(places.items())]
    if not all(place.is_dir() for _, place in pairs):
        return None
    found = [_label_pattern(_visible(path), _visible(place)) for path, place in pairs]
    return found[0] if len(set(found)) == 1 else None


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:
    """Writes ``set.json``, and PNGs in ``images``, ``labels`` and ``labels_instances``.

    Names of files begin with the case, as `list_cases` wants it.

    Raises:
        WriteError: The folder holds something or cannot be written, two images have one name, or objects overlap.
    """
    classes: dict[str, int] = {}
    cases: set[str] = set()
    modalities: set[str | None] = set()
    with writing(folder) as part:
        rows = Rows(part)
        for kind in ("images", "labels", "labels_instances"):
            (part / kind).mkdir()
        for image in images:
            case = _DIGITS.sub("-", image.case).strip("-.") or "case"
            file_name = f"{case}_{written_name(image)}.png"
            labels = label_map(image, classes, "pairs")
            instances = np.zeros(labels.shape, np.uint16)
            if len(image.masks) > 65535:
                raise WriteError(f"{image.name or image.path} has more than 65535 objects", path=folder)
            for number, mask in enumerate(image.masks, 1):
                if instances[mask.mask].any():
                    raise WriteError(
                        f"objects of {mask.target} overlap in {image.name or image.path}, "
                        "which an instance map of the layout pairs cannot hold",
                        path=folder,
                        remedy="choose a layout that keeps masks apart: coco, sa1b, yolo, sam-med2d or sa-med2d-20m",
                    )
                instances[mask.mask] = number
            if (part / "images" / file_name).exists():
                raise WriteError(f"two images are named {file_name}", path=folder, remedy="give each its own name")
            write_picture(part / "images" / file_name, eight_bits(image.image))
            write_picture(part / "labels" / file_name, labels.astype(np.uint8) if labels.max() < 256 else labels)
            write_picture(part / "labels_instances" / file_name, instances)
            row = about(image)
            rows.put(CASES, f"images/{file_name}", row)
            cases.add(case)
            modalities.add(row["modality"])
        content = {
            "name": name,
            "modality": modalities.pop() if len(modalities) == 1 else None,
            "labels": {str(value): target for target, value in classes.items()},
            "cases": len(cases),
            "pairs": rows.count[CASES],
            "instances": True,
        }
        (part / "set.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        rows.write_mapping(part / CASES, CASES)


def _entries(images: Iterator[Path], dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    fixed = root.joinpath(*_fixed(Path(dataset.images or "").parts))
    sets = label_sets(dataset, {}, root)
    names = ((path.relative_to(root).as_posix(), None) for path in images if not path.name.startswith("."))
    for below, _, stated in joined(names, read_cases(root)):
        image, stated = root / below, stated or {}
        name = safe_name(image, fixed)
        case = case_of(dataset, image, root, stated.get("case") or name)
        folder = _split_folder(Path(below).parent)
        patterns = [pattern for pattern in (dataset.labels, dataset.instances) if pattern]
        extra = {"labels": sets, "modality": stated.get("modality")}
        if folder is None and any("{split}" in pattern for pattern in patterns):
            extra["problem"] = (
                "lies in no folder that names a split, as train and test do, so {split} stands for nothing"
            )
            yield Entry(name, case, image, extra=extra)
            continue
        files = [_place(root, pattern, _stem(image), case, folder or "") for pattern in patterns]
        split = stated.get("split") if stated else folder and split_named(folder)
        yield Entry(name, case, image, tuple(files), split, extra)


def _layers(entry: Entry, dataset: DatasetRecipe, volume: Volume, time: int | None) -> tuple[Layer, ...]:
    files = list(entry.labels)
    labels = read_labels(files.pop(0), volume, time) if dataset.labels else None
    if not files:
        assert labels is not None
        return class_layers(labels, entry.extra["labels"])
    instances = read_labels(files[0], volume, time)
    if labels is None:
        values = {value for _, members in entry.extra["labels"] for value in members}
        if len(values) != 1:
            raise ConfigError(
                f"{dataset.name}: without labels, targets must name one target of all objects",
                remedy='such as targets = { 1 = "cell nucleus" }',
            )
        labels = (instances != 0) * np.int64(values.pop())
    objects = _objects(labels, instances, dataset, entry)
    rest = np.where(instances == 0, labels, labels.dtype.type(0))
    return (objects, *class_layers(rest, entry.extra["labels"])) if rest.any() else (objects,)


def _objects(labels: NDArray[Any], instances: NDArray[Any], dataset: DatasetRecipe, entry: Entry) -> Layer:
    """The objects of an instance map, numbered anew: their numbers are no labels, which a recipe may ignore."""
    names = {value: name for name, members in entry.extra["labels"] for value in members}
    found, places = np.unique(instances, return_inverse=True)
    kinds, codes = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(found), len(kinds)), np.int64)
    np.add.at(counts, (places.ravel(), codes.ravel()), 1)
    # Pixels of an object that have no label say nothing about its target.
    counts[:, kinds == 0] = 0
    new = np.zeros(len(found), np.int64)
    targets: dict[int, str] = {}
    number = numbers(dataset)
    for place, value in enumerate(found):
        if value == 0:
            continue
        label = kinds[counts[place].argmax()] if counts[place].any() else 0
        if label in dataset.ignore:
            continue
        if label not in names:
            raise ReadError(
                f"object {value} has the label {label}, which nothing names",
                path=entry.labels[-1],
                remedy="name it in the recipe's targets or ignore",
            )
        new[place] = next(number)
        targets[int(new[place])] = names[label]
    values = new[places].reshape(instances.shape)
    return Layer(values.astype(np.min_scalar_type(int(new.max(initial=0)))), targets, objects=True)


def _stem(path: Path) -> str:
    """What ``{stem}`` stands for; file names may have dots of their own, as those that are UIDs."""
    return path.name.split(".nii")[0] if ".nii" in path.name else path.stem


def _visible(folder: Path) -> list[Path]:
    """The files of a folder by name, but those that systems hide there, such as ``.DS_Store``."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _label_pattern(images: list[Path], labels: list[Path]) -> str | None:
    """What most images make their label file's name of, such as ``{stem}_mask.png``; None if no name has another's."""
    found: Counter[str] = Counter()
    # Some images show it; all of them would be compared with all label files.
    for image in images[:: math.ceil(len(images) / _SHOWING) or 1]:
        for label in labels:
            before, stem, after = label.name.partition(_stem(image))
            if stem:
                found[f"{before}{{stem}}{after}"] += 1
    return min(found, key=lambda pattern: (-found[pattern], len(pattern), pattern), default=None)


def _fixed(parts: tuple[str, ...]) -> list[str]:
    """The leading folders of a pattern that have no wildcard."""
    fixed: list[str] = []
    for part in parts[:-1]:
        if WILD.search(part):
            break
        fixed.append(part)
    return fixed


def _place(root: Path, pattern: str, stem: str, case: str, split: str) -> Path:
    return root / pattern.replace("{stem}", stem).replace("{case}", case).replace("{split}", split)


def _split_folder(folder: Path) -> str | None:
    """The last part of a path below the root that names a split; whole names alone, such as ``train`` and ``val``."""
    return next((part for part in reversed(folder.parts) if part.isalpha() and split_named(part)), None)


def _case_pattern(folder: Path) -> str:
    """The regular expression that finds in a path what `list_cases` finds in the names of all files."""
    cases = list_cases(folder)
    length = max(case.count("_") for case in cases.values())
    more = rf"(?:_[^_]*?){{0,{length}}}" if length else ""
    return rf"^images/([^_]*?{more})(?:_|\.[^.]+$)"


def find_sets(folder: Path) -> list[Path]:
    """The folder itself if it is a paired set (it has a ``set.json``), else the paired sets in it, by name.

    Raises:
        ReadError: There is no such folder, or no set in it.
    """
    if not folder.is_dir():
        raise ReadError("there is no such folder", path=folder, remedy="give a corpus, or a folder with a set.json")
    if (folder / "set.json").exists():
        return [folder]
    sets = sorted(path.parent for path in folder.glob("*/set.json"))
    if not sets:
        raise ReadError(
            "is no corpus, and there is no set of image and label pairs",
            path=folder,
            remedy=f"describe your images (vesalius curate --guess {folder} -o recipe.toml), make a corpus of them "
            f"(vesalius curate recipe.toml --root {folder} -o corpus) and give that; or give a folder with a set.json",
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
    found = (folder / "images").glob("[!.]*")
    images = sorted(path for path in found if path.suffix.lower() in PICTURES)
    if not images:
        raise ReadError("there are no images", path=folder / "images", remedy=f"put {', '.join(PICTURES)} files there")
    count = _description(folder)["cases"]
    parts = [path.stem.split("_") for path in images]
    for length in range(1, max(map(len, parts)) + 1):
        cases = ["_".join(part[:length]) for part in parts]
        if len(set(cases)) == count:
            return dict(zip(images, cases, strict=True))
    raise ReadError(f"the file names do not show the {count} cases that set.json states", path=folder)


def list_splits(folder: str | Path) -> dict[Path, str]:
    """Image files of a paired set as `list_cases` has them, each with its split.

    It is what `stated_splits` says; of what that does not have, training or validation by the name of the case
    (`split_of`). Where splits are stated and none is validation, some training cases are lent to it (`lent_cases`).
    Each set is divided by itself, so it does not matter with which others it is given.

    Raises:
        ReadError: See `list_cases` and `stated_splits`.
    """
    cases, stated = list_cases(folder), stated_splits(folder)
    splits = {path: stated.get(path) or split_of(case) for path, case in cases.items()}
    if stated and "val" not in splits.values():
        lent = lent_cases(case for path, case in cases.items() if splits[path] == "train")
        splits |= {path: "val" for path, case in cases.items() if case in lent}
    return splits


def stated_splits(folder: str | Path) -> dict[Path, str]:
    """The splits that ``cases.json`` of a paired set states, by image file, also for other images of the same case.

    Raises:
        ReadError: ``cases.json`` is damaged, has an unknown split, or splits but of no image of the set, or divides a
            case; see also `list_cases`.
    """
    folder = Path(folder)
    rows = [(folder / below, row.get("split")) for below, row in read_cases(folder)]
    rows = [(path, split) for path, split in rows if split is not None]
    if not rows:
        return {}

    def wrong(what: str, remedy: str) -> ReadError:
        return ReadError(what, path=folder / CASES, remedy=f"{remedy}, or delete it: then cases are divided by name")

    cases = list_cases(folder)
    of: dict[str, str] = {}
    for path, split in rows:
        if split not in SPLITS:
            raise wrong(f"has {path.name} in the split {split!r}", f"call it one of {', '.join(SPLITS)}, or null")
        if (case := cases.get(path)) is not None and of.setdefault(case, split) != split:
            raise wrong(f"has the case {case} in the splits {of[case]} and {split}", "correct it")
    if not of:
        raise wrong(f"names no image that is there, but {rows[0][0].relative_to(folder)}", "correct it")
    return {path: of[case] for path, case in cases.items() if case in of}


def read_pairs(
    folder: str | Path, *, min_area: float = MIN_AREA, rows: Container[int] | None = None
) -> Iterator[LabelledImage]:
    """Reads a set of image and label pairs, in the order of file names.

    Pixels and grey window are those of `read_volume`, which is not told the modality: the windows of CT are for
    Hounsfield units, and pictures hold none.

    Args:
        folder: Holds ``set.json``, ``images/``, ``labels/``, and ``labels_instances/`` if set.json says so.
        min_area: Objects under this share of the image are left out.
        rows: Which images, by their place in the order; all if left out.

    Yields:
        Each image with its objects; an image may have none.

    Raises:
        ReadError: A file is missing or damaged, a label map is a colour picture, or it has a value that ``set.json``
            does not name.
        GeometryError: A label map is not of its image's size.
    """
    folder = Path(folder)
    about = _description(folder)
    names = {int(value): name for value, name in about["labels"].items() if int(value)}
    for row, (path, case) in enumerate(list_cases(folder).items()):
        if rows is not None and row not in rows:
            continue
        volume = read_volume(path)
        stem = f"{path.stem}.png"
        labels = _named_labels(folder / "labels" / stem, volume, names)
        instances = read_labels(folder / "labels_instances" / stem, volume)[0] if about["instances"] else None
        found = connected_objects(labels, names, instances, min_area)
        yield LabelledImage(
            image=replace(volume.slice(), modality=about["modality"]),
            modality=about["modality"] or "unknown",
            dataset=folder.name,
            case=case,
            path=path,
            masks=[ObjectMask(mask, target, number) for number, (mask, target) in enumerate(found, 1)],
        )


def _named_labels(path: Path, volume: Volume, names: Container[int]) -> NDArray[Any]:
    """(H, W) labels of a picture; ReadError if one of them has no name."""
    labels: NDArray[Any] = read_labels(path, volume)[0]
    unnamed = [str(value) for value in np.unique(labels) if value and value not in names]
    if unnamed:
        raise ReadError(
            f"has values that set.json does not name: {', '.join(unnamed[:8])}{', ...' if unnamed[8:] else ''}",
            path=path,
            remedy='name them under "labels" in set.json, or make them 0 where they mean the background',
        )
    return labels


def _description(folder: Path) -> dict[str, Any]:
    """What ``set.json`` says; ReadError if it lacks something."""
    path = folder / "set.json"
    remedy = (
        'describe the set there: {"modality": "ct", "labels": {"1": "liver"}, "cases": 20, "instances": false}, '
        "with the number of patients as cases, and null for a modality that is not known"
    )
    about = read_json(path, remedy)
    if not isinstance(about, dict):
        raise ReadError("does not describe a set", path=path, remedy=remedy)
    missing = [key for key in ("modality", "labels", "cases", "instances") if key not in about]
    if missing:
        raise ReadError(f"does not state {', '.join(missing)}", path=path, remedy=remedy)
    labels = about["labels"]
    if not isinstance(labels, dict) or not all(
        re.fullmatch("[0-9]+", value) and isinstance(name, str) for value, name in labels.items()
    ):
        raise ReadError(f"its labels are not values with their names: {labels}", path=path, remedy=remedy)
    return about
