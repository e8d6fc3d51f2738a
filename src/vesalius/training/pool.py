"""The images that samples are drawn from: lists of their objects, and their pixels on demand."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vesalius.corpus.interactive_masks import TARGET as UNNAMED
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.corpus.split import lent_cases
from vesalius.corpus.store import Corpus

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of all images; those of one image follow each other.

    Attributes:
        first: (I + 1,) int64, row of each image's first object, and at the end the number of objects.
        modality: (I,) int, place of each image's modality among ``modalities``.
        dataset: (I,) int, place of its data set among ``datasets``.
        target: (N,) int, place of each object's target among ``targets``.
        wanted: (I,) bool, whether the image is to be drawn.
        modalities: Their names.
        datasets: Their names.
        targets: Their names.
    """

    first: NDArray[np.int64]
    modality: NDArray[np.integer]
    dataset: NDArray[np.integer]
    target: NDArray[np.integer]
    wanted: NDArray[np.bool_]
    modalities: tuple[str, ...]
    datasets: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Crop:
    """The part of a mask that holds its object.

    Attributes:
        mask: (h, w) bool.
        top: Its first row in the image.
        left: Its first column in the image.
        target: What it is; empty where that is unknown.
        pseudo: Whether a model or an algorithm drew it.
        joined: Whether it is all objects of its target.
    """

    mask: NDArray[np.bool_]
    top: int
    left: int
    target: str
    pseudo: bool
    joined: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1), half-open, in pixels of the image."""
        return self.left, self.top, self.left + self.mask.shape[1], self.top + self.mask.shape[0]


@dataclass(frozen=True, eq=False)
class Item:
    """An image and some of its objects.

    Attributes:
        pixels: (H, W) grey or (H, W, 3) RGB, uint8.
        crops: Objects by their number in the image.
    """

    pixels: NDArray[np.uint8]
    crops: dict[int, Crop]

    @property
    def size(self) -> int:
        """Bytes of its pixels and masks."""
        return self.pixels.nbytes + sum(crop.mask.nbytes for crop in self.crops.values())


class Pool(ABC):
    """Images by number."""

    objects: Objects

    @abstractmethod
    def item(self, index: int, numbers: Sequence[int]) -> Item:
        """Image ``index`` with at least the objects of these numbers, but those that are empty."""

    @abstractmethod
    def pseudo(self, index: int) -> list[Crop]:
        """Its pseudo masks that lie apart from the true ones."""

    def limit(self, processes: int) -> None:  # noqa: B027
        """Leaves each of several processes its share of the room for what is kept."""


class ListPool(Pool):
    """Images that are in memory.

    Args:
        images: The images. Where they say which split they are of, those of another are not drawn.
        split: The split.
    """

    def __init__(self, images: Sequence[LabelledImage], split: str) -> None:
        self._items = [
            Item(
                image.image.rgb() if image.image.pixels.ndim == 3 else image.image.rgb()[:, :, 0].copy(),
                dict(enumerate(_crops(image.masks))),
            )
            for image in images
        ]
        modalities, modality = np.unique([image.modality for image in images], return_inverse=True)
        datasets, dataset = np.unique([image.dataset for image in images], return_inverse=True)
        names = [crop.target for item in self._items for crop in item.crops.values()]
        targets, target = np.unique(np.array(names, str), return_inverse=True)
        self.objects = Objects(
            first=np.cumsum([0, *(len(item.crops) for item in self._items)], dtype=np.int64),
            modality=modality,
            dataset=dataset,
            target=target,
            wanted=np.array([image.split in (None, split) for image in images], bool),
            modalities=tuple(map(str, modalities)),
            datasets=tuple(map(str, datasets)),
            targets=tuple(map(str, targets)),
        )

    def item(self, index: int, numbers: Sequence[int]) -> Item:  # noqa: ARG002
        """See `Pool`."""
        return self._items[index]

    def pseudo(self, index: int) -> list[Crop]:  # noqa: ARG002
        """See `Pool`."""
        return []


class CorpusPool(Pool):
    """Images of a corpus: decoded when first asked for, and kept as long as there is room.

    What no longer fits is read anew every time: images are asked for at random, so that none is worth more room than
    another.

    Args:
        corpus: The corpus.
        split: The split that is drawn from.
        room: Bytes of pixels and masks to keep.
    """

    def __init__(self, corpus: Corpus, split: str, room: int) -> None:
        # Its own open files: the caller's may be read by another thread.
        self._corpus, self._room = copy.copy(corpus), room
        self._empty()
        images = self._corpus.images
        modalities, modality = _codes(images["modality"], "unknown")
        datasets, dataset = _codes(images["dataset"])
        targets, target = _codes(self._corpus.masks(["target"])["target"])
        self.objects = Objects(
            first=np.concatenate([[0], np.cumsum(images["masks"].to_numpy(), dtype=np.int64)]),
            modality=modality,
            dataset=dataset,
            target=target,
            wanted=rows_of(self._corpus, split),
            modalities=modalities,
            datasets=datasets,
            targets=targets,
        )

    def _empty(self) -> None:
        self._items: dict[int, Item] = {}
        self._pseudo: dict[int, list[Crop]] = {}
        self._used = 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_items", "_pseudo", "_used")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._empty()

    def limit(self, processes: int) -> None:
        """See `Pool`."""
        self._room //= processes

    def item(self, index: int, numbers: Sequence[int]) -> Item:
        """See `Pool`."""
        if index in self._items:
            return self._items[index]
        keep = self._used < self._room
        first = self.objects.first
        which = range(int(first[index + 1] - first[index])) if keep else numbers
        labelled = self._corpus.read(index, which)
        crops = {number: crop for number, mask in zip(which, labelled.masks, strict=True) if (crop := _crop(mask))}
        item = Item(labelled.image.pixels, crops)
        if keep:
            self._items[index] = item
            self._used += item.size
        return item

    def pseudo(self, index: int) -> list[Crop]:
        """See `Pool`."""
        if index in self._pseudo:
            return self._pseudo[index]
        crops = _crops(self._corpus.pseudo_masks(index))
        if self._used < self._room:
            self._pseudo[index] = crops
            self._used += sum(crop.mask.nbytes for crop in crops)
        return crops


def rows_of(corpus: Corpus, split: str) -> NDArray[np.bool_]:
    """(I,) which images of a corpus belong to a split.

    Where no split is for validation (SA-Med2D-20M's rules make training and test alone), it is the images of
    `lent_cases`, and these do not train.
    """
    splits, in_split = _codes(corpus.images["split"])

    def within(name: str) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = in_split == (splits.index(name) if name in splits else -1)
        return found

    if split == "test" or "val" in splits:
        return within(split)
    cases, case = _codes(corpus.images["case"])
    train = within("train")
    lent = lent_cases(cases[i] for i in np.unique(case[train]))
    held_out = train & np.isin(case, [i for i, name in enumerate(cases) if name in lent])
    return held_out if split == "val" else within(split) & ~held_out


def pool_of(images: Corpus | Sequence[LabelledImage], split: str, room: int) -> Pool:
    """Images of one split of a corpus, or of a list.

    Args:
        images: The corpus or the list.
        split: Name of the split; an image of a list that says nothing of splits is drawn whatever it is.
        room: Bytes of a corpus to keep decoded.
    """
    return CorpusPool(images, split, room) if isinstance(images, Corpus) else ListPool(images, split)


def joined(crops: Sequence[Crop]) -> Crop:
    """All objects of one target as one."""
    boxes = np.array([crop.box for crop in crops])
    (left, top), (right, bottom) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
    mask = np.zeros((bottom - top, right - left), bool)
    for crop in crops:
        x0, y0, x1, y1 = crop.box
        mask[y0 - top : y1 - top, x0 - left : x1 - left] |= crop.mask
    return Crop(mask, top, left, crops[0].target, crops[0].pseudo, joined=True)


def _crops(masks: Iterable[ObjectMask]) -> list[Crop]:
    return [crop for mask in masks if (crop := _crop(mask))]


def _crop(entry: ObjectMask) -> Crop | None:
    """What holds the object, or None if there is none."""
    rows, columns = np.flatnonzero(entry.mask.any(1)), np.flatnonzero(entry.mask.any(0))
    if not rows.size:
        return None
    top, left = int(rows[0]), int(columns[0])
    # A pseudo mask's name says only that it has none.
    target = "" if entry.pseudo and entry.target == UNNAMED else entry.target
    return Crop(entry.mask[top : rows[-1] + 1, left : columns[-1] + 1].copy(), top, left, target, entry.pseudo)


def _codes(column: pa.ChunkedArray, missing: str = "") -> tuple[tuple[str, ...], NDArray[np.integer]]:
    """The sorted words of a column, and the place of each row's among them; ``missing`` stands for null."""
    import pyarrow as pa

    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    array = encoded.combine_chunks()
    words = [*array.dictionary.to_pylist(), missing]
    rows = array.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
    used = np.unique(rows)
    names, places = np.unique(np.array([words[i] for i in used], str), return_inverse=True)
    return tuple(map(str, names)), places[np.searchsorted(used, rows)].astype(np.int32)
