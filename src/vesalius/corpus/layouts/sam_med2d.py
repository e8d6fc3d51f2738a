"""SAM-Med2D: PNG images, one PNG per mask, ``image2label_<mode>.json`` and ``label2image_<mode>.json``.

``image2label`` maps an image to its masks and is what the published training set reads; ``label2image`` maps a mask to
its image and is what the published test set reads. The mode is the split; images without one are of mode ``all``. A
mask is named ``<image>_<target>_<number>.png``, and is one object.

Paths in these files are relative to where the program runs: the folder above the data, in the published example
(``data_demo/images/...``). They are taken as relative to the root here, without as many leading folders as it takes to
find the first image. ``cases.json``, written here, states the case and modality of each image.

Source: https://github.com/OpenGVLab/SAM-Med2D, DataLoader.py and data_demo.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ReadError, WriteError
from vesalius.corpus.layers import pack
from vesalius.corpus.layouts.listing import CASES, Rows, about, read_cases, read_members
from vesalius.corpus.layouts.support import (
    case_of,
    dataset_name,
    eight_bits,
    name_below,
    numbers,
    read_flat,
    target_name,
    writing,
    written_name,
)
from vesalius.corpus.layouts.volumes import read_labels, write_picture
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, Scan, below
from vesalius.corpus.sorting import SortedRows, joined
from vesalius.io.regions import Region, cut_out

_log = logging.getLogger(__name__)

_TO_LABELS, _TO_IMAGE = "image2label_", "label2image_"
_SPLITS = ("train", "val", "test")
_REMEDY = "copy it again, or choose another layout"
# Characters of a target that may stand in a file's name on every system; others are written as %2F and so on.
_PLAIN = " ()+,;=&'"


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the images of all modes.

    Raises:
        ReadError: There are no lists, or they are damaged.
    """
    if not any(next(root.glob(f"{kind}*.json"), None) for kind in (_TO_LABELS, _TO_IMAGE)):
        raise ReadError(f"holds no {_TO_LABELS}<mode>.json and no {_TO_IMAGE}<mode>.json", path=root, remedy=_REMEDY)
    drop = _leading([image for _, image, _ in islice(read_lists(root), 100)], root)
    rows = ((below(_below(image, drop, root), root), (mode, image, masks)) for mode, image, masks in read_lists(root))
    for _, (mode, image, masks), about_it in joined(rows, read_cases(root)):
        path, stated = _below(image, drop, root), about_it or {}
        name = name_below(path, root / "images" if path.is_relative_to(root / "images") else root)
        paths = [_below(mask, drop, root) for mask in masks]
        yield Entry(
            name=name,
            case=case_of(dataset, path, root, stated.get("case") or name),
            image=path,
            labels=tuple(paths),
            split=mode if mode in _SPLITS else None,
            extra={
                "names": [target_name(dataset, 0, _target(mask, path)) for mask in paths],
                "modality": stated.get("modality"),
            },
        )


def read(entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
    """Reads an image and its masks, each one object, whose ``names`` the entry's ``extra`` has.

    Raises:
        ReadError: A file is missing or damaged, or a mask has more than one value besides 0, or no name.
        GeometryError: A mask is of another size than the image.
    """
    modality = entry.extra.get("modality") or dataset.modality
    volume = read_flat(entry, dataset.model_copy(update={"modality": modality}))
    regions = []
    empty = 0
    for number, path, name in zip(numbers(dataset), entry.labels, entry.extra["names"], strict=False):
        if name is None:
            raise ReadError("is of a class that the JSON file does not name", path=path, remedy="name it there")
        values = read_labels(path, volume)
        found = np.unique(values)
        if np.count_nonzero(found) > 1:
            raise ReadError(
                f"is not the mask of one object: it has {len(found)} different values",
                path=path,
                remedy="save it as 0 and 255",
            )
        part = cut_out(values[0] != 0)
        if part is None:
            _log.warning("%s: covers no pixel and is left out", path)
            empty += 1
        else:
            regions.append(Region(number, name, {0: part}, one=True))
    yield Scan(entry.name, volume, pack(regions, volume.voxels.shape[:3]), empty)


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder with ``image2label`` or ``label2image``."""
    if any(folder.glob(f"{_TO_LABELS}*.json")) or any(folder.glob(f"{_TO_IMAGE}*.json")):
        return DatasetRecipe(name=dataset_name(folder), layout="sam-med2d", root=folder)
    return None


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:  # noqa: ARG001
    """Writes PNGs in ``images`` and ``masks``, and the lists; programs read them from the folder above ``folder``.

    Raises:
        WriteError: The folder holds something or cannot be written, two files have one name, or an image has no mask,
            which the published reader does not bear.
    """
    with writing(folder) as part:
        lists = LoaderLists(part, folder.resolve().name)
        for image in images:
            stem = written_name(image)
            lists.write("images", f"{stem}.png", eight_bits(image.image))
            masks = []
            numbers: Counter[str] = Counter()
            for mask in image.masks:
                if not mask.mask.any():
                    continue
                target = quote(mask.target, safe=_PLAIN)
                masks.append(f"{stem}_{target}_{numbers[target]:03d}.png")
                numbers[target] += 1
                lists.write("masks", masks[-1], mask.mask.astype(np.uint8) * np.uint8(255))
            lists.add(image, f"{stem}.png", masks)
        lists.finish()


class LoaderLists:
    """Writes masks and the lists that the published loader reads.

    Args:
        part: Folder to write to; ``images`` and ``masks`` are made in it.
        place: Name that the folder will have.
    """

    def __init__(self, part: Path, place: str) -> None:
        self._part, self._place = part, place
        self._rows = Rows(part)
        self._modes: set[str] = set()
        for kind in ("images", "masks"):
            (part / kind).mkdir()

    def write(self, kind: str, name: str, pixels: NDArray[np.uint8]) -> None:
        """Writes a PNG in ``images`` or ``masks``; WriteError if there is one of that name."""
        path = self._part / kind / name
        if path.exists():
            raise WriteError(f"two {kind} are named {name}", path=path, remedy="give each image its own name")
        write_picture(path, pixels)

    def add(self, image: LabelledImage, file_name: str, masks: Sequence[str]) -> None:
        """Lists an image and its masks.

        Raises:
            WriteError: It has none.
        """
        if not masks:
            raise WriteError(
                f"{image.name or image.path} has no mask, which the readers of this layout do not bear",
                path=self._part.parent / self._place,
                remedy="leave the image out, or choose another layout",
            )
        mode = image.split or "all"
        self._modes.add(mode)
        place = f"{self._place}/images/{file_name}"
        if mode == "test":
            for mask in masks:
                self._rows.put(mode, f"{self._place}/masks/{mask}", place)
        else:
            self._rows.put(mode, place, [f"{self._place}/masks/{mask}" for mask in masks])
        self._rows.put(CASES, f"images/{file_name}", about(image))

    def finish(self) -> None:
        """Writes the lists."""
        for mode in self._modes:
            kind = _TO_IMAGE if mode == "test" else _TO_LABELS
            self._rows.write_mapping(self._part / f"{kind}{mode}.json", mode)
        self._rows.write_mapping(self._part / CASES, CASES)


def read_lists(root: Path) -> Iterator[tuple[str, str, list[str]]]:
    """The mode, image and masks of each image, as the files have them.

    Raises:
        ReadError: A file is damaged.
    """
    for path in sorted(root.glob(f"{_TO_LABELS}*.json")):
        for image, masks in read_members(path, _REMEDY):
            if not isinstance(masks, list):
                raise ReadError(f"{image} has no list of masks", path=path, remedy=_REMEDY)
            yield path.stem.removeprefix(_TO_LABELS), image, [str(mask) for mask in masks]
    for path in sorted(root.glob(f"{_TO_IMAGE}*.json")):
        mode = path.stem.removeprefix(_TO_IMAGE)
        masks_first = ((str(image), mask) for mask, image in read_members(path, _REMEDY))
        found = (
            (image, [mask for _, mask in rows]) for image, rows in groupby(SortedRows(masks_first), key=itemgetter(0))
        )
        # A mode may have both files, which then say the same.
        both = root / f"{_TO_LABELS}{mode}.json"
        for image, masks, again in joined(found, read_members(both, _REMEDY) if both.is_file() else ()):
            if again is None:
                yield mode, image, masks


def _leading(images: Sequence[str], root: Path) -> int:
    """How many leading folders the listed paths have that do not lie below the root."""
    for image in images:
        for drop in range(len(_parts(image))):
            path = _below(image, drop, root)
            if path.is_relative_to(root) and path.is_file():
                return drop
    # None is there; the paths of the published example have one.
    return 1


def _below(listed: str, drop: int, root: Path) -> Path:
    return root.joinpath(*_parts(listed)[drop:])


def _parts(listed: str) -> tuple[str, ...]:
    return PurePosixPath(listed.replace("\\", "/")).parts


def _target(mask: Path, image: Path) -> str:
    """``liver`` of ``image_liver_000.png``."""
    return unquote(re.sub(r"_\d+$", "", mask.stem.removeprefix(f"{image.stem}_")))
