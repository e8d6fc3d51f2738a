"""The entries of a data set in their order, checked beside each other, however many there are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from vesalius.core.errors import ReadError
from vesalius.corpus.layouts import label_files, layout
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, below, safe_name
from vesalius.corpus.sorting import SortedRows
from vesalius.io.read import count_slices

# An entry, whether its image has a single slice, and whether the recipe takes it.
_Row = tuple[Entry, bool | None, bool]


@dataclass(frozen=True)
class EntryList:
    """What a layout finds, in the order of the names.

    Attributes:
        entries: To be iterated over once. Those that cannot be used beside the others have a ``problem``: images that
            would have one name, none of which is taken, and single slices among volumes.
        count: Number of all that were found.
        unlabelled: Number of those that are left out, since the recipe takes labelled ones alone.
        divides: Whether labels lie in more than one of the layout's own splits.
    """

    entries: Iterator[Entry]
    count: int
    unlabelled: int
    divides: bool


def list_entries(dataset: DatasetRecipe, folder: Path | None = None, used: SortedRows[int] | None = None) -> EntryList:
    """Lists a data set; memory does not grow with the number of its entries.

    Args:
        dataset: The data set; its root is absolute.
        folder: For temporary files; by default where the system keeps them.
        used: Is given the files of all entries, for `labels_without_image`.

    Raises:
        ReadError: The layout's list of files is missing or damaged, or the folder cannot be listed.
    """
    rows: SortedRows[_Row] = SortedRows(folder=folder)
    count = unlabelled = 0
    volumes = False
    splits: set[str | None] = set()
    try:
        for entry in layout(dataset.layout).find(dataset, dataset.root):
            flat = _is_flat(entry.image)
            wanted = not dataset.labelled_only or all(path.exists() for path in entry.labels)
            rows.add((entry.name, str(entry.image)), (entry, flat, wanted))
            if used is not None:
                for path in (entry.image, *entry.labels):
                    used.add((_file_key(path), False), 0)
            count += 1
            unlabelled += not wanted
            volumes |= flat is False
            # A file of annotations is that of all images, also of those that have none.
            if wanted and entry.extra.get("annotations", entry.labels):
                splits.add(entry.split)
    except OSError as error:
        raise _unlisted(error, dataset) from error
    return EntryList(_checked((row for _, row in rows), volumes, dataset.root), count, unlabelled, len(splits) > 1)


def labels_without_image(datasets: Sequence[DatasetRecipe], used: SortedRows[int]) -> Iterator[tuple[int, Entry]]:
    """Label files that lie where labels do and that no entry of any data set uses, as entries with a ``problem``.

    Args:
        datasets: The data sets; their roots are absolute.
        used: The files of all their entries, from `list_entries`.

    Yields:
        The number of the data set, and the entry.

    Raises:
        ReadError: A folder cannot be listed.
    """
    for number, dataset in enumerate(datasets):
        try:
            for path in label_files(dataset) or ():
                used.add((_file_key(path), True, str(path)), number)
        except OSError as error:
            raise _unlisted(error, dataset) from error
    for _, group in groupby(used, key=lambda row: row[0][0]):
        # Its use by an entry comes before its place.
        (_, unused, *found), number = next(group)
        if unused:
            name = safe_name(Path(found[0]), datasets[number].root)
            yield number, Entry(name, name, Path(found[0]), extra={"problem": "has no image"})


def _file_key(path: Path) -> str:
    """What two paths to one file have in common."""
    return os.path.normcase(os.path.normpath(path))


def _unlisted(error: OSError, dataset: DatasetRecipe) -> ReadError:
    return ReadError(
        f"cannot be listed ({error.strerror or error})",
        path=error.filename or dataset.root,
        remedy="make it readable, or narrow the patterns of the recipe",
    )


def _checked(rows: Iterable[_Row], volumes: bool, root: Path) -> Iterator[Entry]:
    for name, group in groupby(rows, key=lambda row: row[0].name):
        alike = list(group)
        for number, (entry, flat, wanted) in enumerate(alike):
            problem = entry.extra.get("problem")
            if problem is None and len(alike) > 1:
                pair = alike[min(number, len(alike) - 2) :][:2]
                files = " and ".join(below(row[0].image, root) for row in pair)
                problem = f"two images would be named {name}: {files}"
            if problem is None and volumes and flat:
                problem = "is a single slice among volumes"
            if wanted:
                yield replace(entry, extra={**entry.extra, "problem": problem}) if problem else entry


def _is_flat(path: Path) -> bool | None:
    """Whether an image has a single slice, from its header; None if that cannot be said, as of DICOM."""
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        return True
    try:
        slices = count_slices(path)
    except (ReadError, OSError):
        return None  # what is wrong with it is found when it is read
    return None if slices is None else slices == 1
