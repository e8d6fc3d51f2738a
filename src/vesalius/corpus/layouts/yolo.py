"""YOLO segmentation: a ``data.yaml``, ``images/<split>``, and a text file of polygons for each image.

A line of ``labels/<split>/<stem>.txt`` is an object: the number of its class, then x and y of the corners of one
polygon as shares of the image's width and height. An image without such a file, or with an empty one, has no objects.
``labels`` of a recipe is the name of the YAML file, where it is another.

A polygon holds what it can by one closed line: parts and holes of an object are joined to the largest outline by lines
that run there and back. Filled by the even-odd rule, as here, such a polygon gives the mask back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vesalius.core.errors import ReadError
from vesalius.corpus.layers import pack
from vesalius.corpus.layouts.support import (
    PICTURES,
    case_of,
    dataset_name,
    matching,
    name_below,
    numbers,
    read_flat,
    target_name,
    write_png,
    writing,
)
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, Scan
from vesalius.io.outlines import mask_of_polygons, polygon_of_mask
from vesalius.io.regions import Region, cut_out

_log = logging.getLogger(__name__)

_INDEX = "data.yaml"
# Keys of the YAML file and the split they mean; the last is written here for images that are in none.
_SPLITS = {"train": "train", "val": "val", "test": "test", "unsplit": None}
# Corners may lie this share of the image beside it, as the tools of the layout allow.
_BESIDE = 0.01
_REMEDY = "correct it, or name another file with the recipe's labels"


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the images of the folders, and of the lists of files, that the YAML file names.

    Raises:
        ReadError: The YAML file is missing, damaged or names folders that are not there.
    """
    path = root / (dataset.labels or _INDEX)
    content = _index(path)
    names = {str(value): target_name(dataset, value, name) for value, name in _names(content, path).items()}
    for split, place in _places(content, path):
        for image in _images(place, content, path):
            name = name_below(image, root)
            label = _label(image)
            yield Entry(
                name=name,
                case=case_of(dataset, image, root, name),
                image=image,
                labels=(label,) if label.is_file() else (),
                split=split,
                extra={"names": names},
            )


def label_files(dataset: DatasetRecipe, root: Path) -> Iterator[Path]:
    """The text files in the folders of labels, where they are not those of the images."""
    path = root / (dataset.labels or _INDEX)
    for _, place in _places(_index(path), path):
        labels = _label(place / "image").parent
        if place.is_dir() and labels != place and labels.is_dir():
            # Tools for drawing put a list of the classes there.
            yield from (file for file in matching(labels, "**/*.txt") if file.name != "classes.txt")


def read(entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
    """Reads a picture and its objects.

    Raises:
        ReadError: The picture is missing or damaged, or a line is no polygon of a class that the YAML file names.
    """
    volume = read_flat(entry, dataset)
    size = volume.voxels.shape[1:3]
    regions = []
    empty = 0
    number = numbers(dataset)
    for path in entry.labels:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ReadError(f"cannot be read ({error})", path=path) from error
        for place, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value, polygon = _polygon(line, size)
                if str(value) not in entry.extra["names"]:
                    raise ValueError(f"there is no class {value}")
                part = cut_out(mask_of_polygons([polygon], size))
            except ValueError as error:
                raise ReadError(f"line {place}: {error}", path=path, remedy="correct or remove it") from error
            if part is None:
                _log.warning("%s: line %d covers no pixel and is left out", path, place)
                empty += 1
            elif value not in dataset.ignore:
                regions.append(Region(next(number), entry.extra["names"][str(value)], {0: part}, one=True))
    yield Scan(entry.name, volume, pack(regions, (1, *size)), empty)


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder with a YAML file that names classes and a folder of training images."""
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            content = _index(path)
            _names(content, path)
        except ReadError:
            continue
        if content.keys() & _SPLITS.keys():
            labels = None if path.name == _INDEX else path.name
            return DatasetRecipe(name=dataset_name(folder), layout="yolo", root=folder, labels=labels)
    return None


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:
    """Writes ``data.yaml``, PNGs in ``images/<split>`` and polygons in ``labels/<split>``.

    Images without a split lie in ``unsplit``.

    Raises:
        WriteError: The folder holds something or cannot be written, or two images have one name.
    """
    import yaml  # type: ignore[import-untyped]

    classes: dict[str, int] = {}
    splits = set()
    with writing(folder) as part:
        for image in images:
            split = image.split or "unsplit"
            splits.add(split)
            for kind in ("images", "labels"):
                (part / kind / split).mkdir(parents=True, exist_ok=True)
            height, width = image.image.size
            file_name = write_png(image, part / "images" / split)
            lines = []
            for mask in image.masks:
                if not mask.mask.any():
                    continue
                corners = polygon_of_mask(mask.mask) / [width, height]
                shares = " ".join(f"{value:.7g}" for value in corners.ravel())
                lines.append(f"{classes.setdefault(mask.target, len(classes))} {shares}\n")
            label = (part / "labels" / split / file_name).with_suffix(".txt")
            label.write_text("".join(lines), encoding="utf-8")
        content: dict[str, Any] = {"path": "."}
        content |= {split: f"images/{split}" for split in _SPLITS if split in splits}
        content["names"] = {value: target for target, value in classes.items()}
        (part / _INDEX).write_text(
            f"# {name}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )


def _index(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReadError(f"cannot be read ({error.strerror})", path=path, remedy=_REMEDY) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ReadError(f"is not YAML ({' '.join(str(error).split())})", path=path, remedy=_REMEDY) from error
    if not isinstance(content, dict):
        raise ReadError("does not describe a data set", path=path, remedy=_REMEDY)
    return content


def _names(content: dict[str, Any], path: Path) -> dict[int, str]:
    """Names of the classes, which are a list or a mapping from their numbers."""
    names = content.get("names")
    if isinstance(names, list):
        return {value: str(name) for value, name in enumerate(names)}
    if isinstance(names, dict) and all(isinstance(value, int) for value in names):
        return {value: str(name) for value, name in names.items()}
    raise ReadError("does not name the classes", path=path, remedy=_REMEDY)


def _places(content: dict[str, Any], path: Path) -> Iterator[tuple[str | None, Path]]:
    """The folders and lists of images that a YAML file names, each with its split.

    ``path`` in the file is often where the data lay on another machine, and ``../`` is often one level too high: both
    are then taken from the folder of the YAML file.
    """
    for key, split in _SPLITS.items():
        given = content.get(key) or []
        for name in map(str, given if isinstance(given, list) else [given]):
            tried = [base / rest for rest in (name, name.removeprefix("../")) for base in _bases(content, path)]
            found = next((candidate for candidate in tried if candidate.exists()), None)
            if found is None:
                raise ReadError(f"names {name}, which is not there", path=path, remedy=_REMEDY)
            yield split, found.resolve() if ".." in found.parts and found.is_dir() else found


def _bases(content: dict[str, Any], path: Path) -> list[Path]:
    return [path.parent / str(content.get("path") or "."), path.parent]


def _images(place: Path, content: dict[str, Any], path: Path) -> Iterator[Path]:
    """The images in a folder, or in a list of files."""
    if place.is_file():
        try:
            with place.open(encoding="utf-8") as file:
                for line in filter(None, map(str.strip, file)):
                    yield (place.parent if line.startswith("./") else _bases(content, path)[0]) / line
        except (OSError, UnicodeDecodeError) as error:
            raise ReadError(f"is no list of images ({error})", path=place, remedy=_REMEDY) from error
    else:
        yield from (image for image in matching(place, "**/*") if image.suffix.lower() in PICTURES)


def _label(image: Path) -> Path:
    """The text file of an image: the last folder named ``images`` becomes ``labels``; else it lies beside the image."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _polygon(line: str, size: tuple[int, int]) -> tuple[int, list[float]]:
    """Class and corners, in pixels, of a line; ValueError with the reason if it is none."""
    words = line.split()
    try:
        value, shares = int(words[0]), np.array([float(word) for word in words[1:]])
    except ValueError:
        raise ValueError("is not a class and numbers") from None
    if len(shares) == 4:
        raise ValueError("is a box, not a polygon")
    if len(shares) < 6 or len(shares) % 2:
        raise ValueError("is not a polygon of three points or more")
    if not ((shares >= -_BESIDE) & (shares <= 1 + _BESIDE)).all():
        raise ValueError("has corners that are not shares from 0 to 1")
    height, width = size
    return value, (shares.reshape(-1, 2) * [width, height]).ravel().tolist()
