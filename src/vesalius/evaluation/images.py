"""The images that an evaluation measures on: of a corpus, or of sets of image and label pairs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vesalius.core.errors import ReadError
from vesalius.core.files import file_digest
from vesalius.corpus.digest import corpus_digest
from vesalius.corpus.layouts.pairs import find_sets, list_splits, read_pairs
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.store import Corpus, is_corpus

# Images of a corpus that are measured together, in one call.
BLOCK = 16


@dataclass(frozen=True)
class Place:
    """Where an image lies.

    Attributes:
        folder: A corpus, or a set of pairs.
        row: Of the image in the corpus; its place among the set's images.
    """

    folder: Path
    row: int


@dataclass(frozen=True)
class Stack:
    """The stack of slices that an image is of.

    Attributes:
        name: Data set and scan.
        axis: That was cut along.
        index: Of the slice.
        step: Distance between neighbouring slices, in mm; None where unknown.
    """

    name: str
    axis: str
    index: int
    step: float | None


def list_places(folder: Path, split: str) -> list[Place]:
    """The images of a split that may have objects, in order.

    Args:
        folder: A corpus, a set of pairs, or a folder of such sets.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``. Pairs that state none are divided by case into training
            and validation.

    Raises:
        ReadError: The folder is neither, or the split is empty.
    """
    if is_corpus(folder):
        # It may have been curated anew since this process last read it.
        _open.cache_clear()
        table = _open(folder).images
        pairs = enumerate(zip(table["split"].to_pylist(), table["masks"].to_pylist(), strict=True))
        found = [(Place(folder, row), of) for row, (of, masks) in pairs if masks]
    else:
        sets = [(path, list_splits(path).values()) for path in find_sets(folder)]
        found = [(Place(path, row), of) for path, splits in sets for row, of in enumerate(splits)]
    places = [place for place, of in found if split in ("all", of)]
    if not places:
        others = sorted({of for _, of in found if of is not None})
        raise ReadError(
            f"no labelled image is in the split {split!r}", path=folder, remedy=f"use {' or '.join([*others, 'all'])}"
        )
    return places


def datasets_of(folder: Path) -> list[str]:
    """Names of the data sets of a corpus, or of the sets of pairs, in alphabetical order; errors as `list_places`."""
    if is_corpus(folder):
        return sorted(set(Corpus(folder).images["dataset"].to_pylist()))
    return sorted(path.name for path in find_sets(folder))


def stacks_of(folder: Path, places: Sequence[Place]) -> Counter[tuple[str, str]]:
    """How many of some places are of each stack of slices, by the name of the volume and the axis."""
    if not is_corpus(folder):
        return Counter()
    images = _open(folder).images.select(["dataset", "name", "axis"]).take([place.row for place in places])
    return Counter(
        (f"{row['dataset']}/{row['name']}", row["axis"]) for row in images.to_pylist() if row["axis"] != "2d"
    )


def blocks_of(places: Sequence[Place]) -> list[list[Place]]:
    """Places that are read together, in order: some rows of a corpus, or those of one set of pairs."""
    blocks: list[list[Place]] = []
    for place in places:
        room = blocks and blocks[-1][0].folder == place.folder and len(blocks[-1]) < BLOCK
        if room:
            blocks[-1].append(place)
        else:
            blocks.append([place])
    return blocks


def read_places(places: Sequence[Place]) -> Iterator[tuple[Place, LabelledImage, Stack | None]]:
    """The images at some places of one folder, in order, with what they are slices of."""
    folder, wanted = places[0].folder, {place.row for place in places}
    if is_corpus(folder):
        corpus = _open(folder)
        for place in places:
            about = corpus.images.slice(place.row, 1).to_pylist()[0]
            stack = None
            if about["axis"] != "2d":
                name = f"{about['dataset']}/{about['name']}"
                stack = Stack(name, about["axis"], about["index"], about["slice_spacing"])
            yield place, corpus.read(place.row), stack
        return
    for place, labelled in zip(places, read_pairs(folder, rows=wanted), strict=True):
        yield place, labelled, None


def name_of(labelled: LabelledImage) -> str:
    """What an image is called: its name in its corpus, or data set and stem of its file's name."""
    return labelled.name or f"{labelled.dataset}/{labelled.path.stem}"


def digest_of(folder: Path, places: Sequence[Place]) -> str:
    """SHA-256 of what is measured on: a corpus's description, images and masks, or the files of the sets of pairs."""
    if is_corpus(folder):
        return corpus_digest(_open(folder), [place.row for place in places])
    digest = hashlib.sha256()
    for path in dict.fromkeys(place.folder for place in places):
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path.parent).as_posix()}\0".encode())
            digest.update(bytes.fromhex(file_digest(file)))
    return digest.hexdigest()


@cache
def _open(folder: Path) -> Corpus:
    return Corpus(folder)
