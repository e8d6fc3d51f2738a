"""What the readers and writers of several layouts need."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import translate
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ConfigError, GeometryError, ReadError, WriteError
from vesalius.core.types import Slice, Volume, to_8_bits
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, safe_name

# What makes a part of a path a pattern.
WILD = re.compile(r"[*?\[]")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def case_of(dataset: DatasetRecipe, path: Path, root: Path, default: str) -> str:
    """The case of a file: what the recipe's ``case`` finds in its path below ``root``, or ``default`` without one.

    Raises:
        ConfigError: ``case`` is no regular expression with a group.
        ReadError: It does not match.
    """
    if dataset.case is None:
        return default
    try:
        match = re.search(dataset.case, path.relative_to(root).as_posix())
    except re.error as error:
        raise ConfigError(f"case: {dataset.case!r} is no regular expression ({error})") from error
    if match is None:
        raise ReadError(f"does not match the recipe's case {dataset.case!r}", path=path, remedy="correct the recipe")
    if not match.groups() or match.group(1) is None:
        raise ConfigError(f"case: {dataset.case!r} finds no group", remedy="put the case in parentheses")
    return match.group(1)


def name_below(path: Path, root: Path) -> str:
    """`safe_name`; ReadError if the file lies elsewhere than below ``root``."""
    if not path.is_relative_to(root):
        raise ReadError(f"does not lie below {root}", path=path, remedy="give the recipe a root that holds all files")
    return safe_name(path, root)


def split_named(path: str | Path) -> str | None:
    """The split that the last part of a path to name one names: ``instances_train2017.json``, ``valid/a.json``."""
    for part in reversed(Path(path).with_suffix("").parts):
        found = {_SPLITS[word] for word in re.split(r"[^a-z]+", part.lower()) if word in _SPLITS}
        if len(found) == 1:
            return found.pop()
    return None


def matching(root: Path, pattern: str) -> Iterator[Path]:
    """What `Path.glob` finds, in no order and in memory that does not grow with the number of files.

    Raises:
        ValueError: It is no pattern below the root.
        OSError: A folder cannot be listed.
    """
    path = Path(pattern)
    if not path.parts or path.is_absolute():
        raise ValueError("it is empty or absolute")
    # Folders that two ** reach twice would have to be remembered.
    return root.glob(pattern) if path.parts.count("**") > 1 else _walk(root, path.parts)


def _walk(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    if not parts:
        yield folder
    elif parts[0] == "**":
        yield from _walk(folder, parts[1:])
        with os.scandir(folder) as children:
            for child in children:
                if child.is_dir(follow_symlinks=False):
                    yield from _walk(folder / child.name, parts)
    elif not WILD.search(parts[0]):
        if (folder / parts[0]).is_dir() if parts[1:] else (folder / parts[0]).exists():
            yield from _walk(folder / parts[0], parts[1:])
    else:
        fits = re.compile(translate(os.path.normcase(parts[0]))).match
        with os.scandir(folder) as children:
            for child in children:
                if fits(os.path.normcase(child.name)) and (len(parts) == 1 or child.is_dir()):
                    yield from _walk(folder / child.name, parts[1:])


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file; ReadError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReadError(f"cannot be read ({error.strerror})", path=path, remedy=remedy) from error
    except ValueError as error:
        raise ReadError(f"is not JSON, or is damaged or cut short ({error})", path=path, remedy=remedy) from error


def read_flat(entry: Entry, dataset: DatasetRecipe, size: tuple[int, int] | None = None) -> Volume:
    """The picture of an entry.

    Args:
        entry: The entry.
        dataset: Says the modality.
        size: (height, width) that the labels state.

    Raises:
        ReadError: It is missing, damaged, or of several slices.
        GeometryError: It is of another size than the labels state.
    """
    from vesalius.io.read import read_volume

    volume = read_volume(entry.image, modality=dataset.modality)
    slices, height, width = volume.voxels.shape[:3]
    if slices != 1:
        raise ReadError(f"has {slices} slices, but its labels are those of a picture", path=entry.image)
    if size is not None and size != (height, width):
        raise GeometryError(
            f"is {width} x {height} pixels, but {entry.labels[0]} was made for {size[1]} x {size[0]}",
            path=entry.image,
            remedy="find the picture that was labelled",
        )
    return volume


def numbers(dataset: DatasetRecipe) -> Iterator[int]:
    """Numbers for objects, from 1, without those that the recipe ignores: they mean labels, not objects."""
    return (number for number in count(1) if number not in dataset.ignore)


def target_name(dataset: DatasetRecipe, value: int, name: str) -> str:
    """What the recipe makes of a label that the files name: by its name, by its value, or else the name itself."""
    return dataset.targets.get(name, dataset.targets.get(str(value), name))


def dataset_name(folder: Path) -> str:
    """The name of a folder as that of a data set."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", folder.resolve().name).lstrip("_.+-") or "dataset"


def written_name(image: LabelledImage) -> str:
    """The name of an image as that of its file, without suffix."""
    return re.sub(r"[^\w.+-]+", "_", image.name or image.path.stem).lstrip(".") or "image"


def eight_bits(image: Slice) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) uint8: pixels as they are, or their window in 256 greys."""
    if image.pixels.dtype == np.uint8 and (image.pixels.ndim == 3 or image.window == (0.0, 255.0)):
        return image.pixels
    return to_8_bits(image.pixels, image.window)


def write_png(image: LabelledImage, folder: Path) -> str:
    """Writes an image as PNG of 8 bits; returns the name of the file.

    Raises:
        WriteError: The folder has an image of that name.
    """
    from PIL import Image

    path = folder / f"{written_name(image)}.png"
    if path.exists():
        raise WriteError(f"two images are named {path.name}", path=path, remedy="give each its own name")
    Image.fromarray(eight_bits(image.image)).save(path)
    return path.name


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` that becomes it when the block ends without an error, and is removed after one.

    Raises:
        WriteError: ``folder`` holds something, or cannot be written.
    """
    part = folder.with_name(f".part-{folder.name}")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise WriteError("is there already", path=folder, remedy="choose another folder, or delete this one")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            if folder.exists():
                folder.rmdir()
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise WriteError(f"cannot be written ({error.strerror or error})", path=folder) from error
