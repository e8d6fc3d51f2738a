"""A first recipe for folders that nobody has described yet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from heapq import nsmallest
from pathlib import Path

import numpy as np

from vesalius.core.errors import ReadError, VesaliusError
from vesalius.corpus.layouts import layout, layout_names, pairs
from vesalius.corpus.recipe import DatasetRecipe, Recipe

# What a recipe says of the profile that it has if it names none.
ABOUT_PROFILE = (
    "# Stretches grey values to 8 bits, leaves out masks under 0.15 % of the image, and has a class take in what lies "
    "inside it; others: docs/profiles.md"
)

# Folders below the given one that are looked into.
_DEPTH = 3
# Label maps of a data set that are looked into, and values in them that are said.
_LOOKED_AT, _SAID = 5, 8


def guess_recipe(folder: Path) -> tuple[Recipe, list[str]]:
    """A recipe for the data sets in a folder, and what it assumes, in sentences for the person who corrects it.

    A folder that a layout recognises is one data set; of others the subfolders are looked into.

    Raises:
        ReadError: There is no such folder, or no layout recognises anything in it.
    """
    if not folder.is_dir():
        raise ReadError("is not a folder", path=folder)
    found = _look(folder, folder, _DEPTH)
    if not found:
        raise ReadError(
            f"none of the layouts is recognised here: {', '.join(layout_names())}",
            path=folder,
            remedy="write a recipe for the layout pairs, with patterns of the image and label files",
        )
    names: dict[str, int] = {}
    datasets = []
    for dataset in found:
        names[dataset.name] = names.get(dataset.name, 0) + 1
        again = names[dataset.name]
        datasets.append(dataset.model_copy(update={"name": f"{dataset.name}-{again}"}) if again > 1 else dataset)
    recipe = Recipe(name=_fit(folder.resolve().name), datasets=tuple(datasets))
    return recipe, [sentence for dataset in datasets for sentence in _assumptions(dataset, folder)]


def _look(folder: Path, top: Path, depth: int) -> list[DatasetRecipe]:
    for name in layout_names():
        dataset = layout(name).guess(folder) if name != "dicom" else None
        if dataset is not None:
            return [_placed(dataset, folder, top)]
    children = [child for child in sorted(folder.iterdir()) if child.is_dir()] if depth else []
    below = [found for child in children for found in _look(child, top, depth - 1)]
    if any(dataset.layout != "dicom" for dataset in below):
        return below
    # DICOM files lie anywhere below their data set's folder, one folder per patient and series.
    dataset = layout("dicom").guess(folder)
    return [_placed(dataset, folder, top)] if dataset else []


def _placed(dataset: DatasetRecipe, folder: Path, top: Path) -> DatasetRecipe:
    return dataset.model_copy(update={"root": folder.relative_to(top), "name": _fit(dataset.name)})


def _fit(name: str) -> str:
    """A name with nothing in it that a data set's name may not have."""
    fit = re.sub(r"[^A-Za-z0-9_.+-]+", "_", name).lstrip("_.+-")
    return fit or "data"


def _assumptions(dataset: DatasetRecipe, top: Path) -> list[str]:
    about = [f"{dataset.name}: {dataset.root} has the layout {dataset.layout}"]
    if dataset.modality is None:
        about.append(f"{dataset.name}: the modality is not stated; add it unless the files say it themselves")
    else:
        about.append(f"{dataset.name}: the modality is {dataset.modality}")
    if dataset.case is None:
        about.append(
            f"{dataset.name}: every image is a case of its own unless the layout says otherwise; if patients have "
            "several, add a pattern for case, or they will lie on both sides of the split"
        )
    if dataset.targets:
        named = ", ".join(f"{value} is {target}" for value, target in dataset.targets.items())
        about.append(f"{dataset.name}: {named}")
    if dataset.layout == "pairs":
        about.append(f"{dataset.name}: the labels of {dataset.images} are {dataset.labels}")
        about.extend(f"{dataset.name}: {sentence}" for sentence in _labels_seen(dataset, top))
    return about


def _labels_seen(dataset: DatasetRecipe, top: Path) -> Iterator[str]:
    """How many images of a data set of pairs lack label maps, and what is wrong with the first of these."""
    placed = dataset.model_copy(update={"root": top / dataset.root})
    found = [(entry, all(path.is_file() for path in entry.labels)) for entry in pairs.find(placed, placed.root)]
    entries = [entry for entry, is_labelled in found if is_labelled]
    if len(entries) < len(found):
        yield f"{len(found) - len(entries)} of {len(found)} images have no labels of such a name"
    unnamed: dict[int, Path] = {}
    for entry in nsmallest(_LOOKED_AT, entries, key=lambda entry: entry.name):
        try:
            layers = [layer for scan in pairs.read(entry, placed) for layer in scan.layers]
        except VesaliusError as error:
            yield str(error)
            continue
        for layer in layers:
            values = (value for value in np.unique(layer.values).tolist() if value and value not in layer.names)
            unnamed.update((value, entry.labels[0]) for value in values if value not in unnamed)
    if unnamed:
        listed = ", ".join(f"{value:g}" for value in sorted(unnamed)[:_SAID]) + ", ..." * (len(unnamed) > _SAID)
        yield (
            f"{next(iter(unnamed.values()))} has values that nothing names: {listed}; say what each of them means in a "
            f'table [datasets.targets] below the data set\'s lines, such as {min(unnamed):g} = "liver", or leave it '
            f"out by a line ignore = [{min(unnamed):g}] among them"
        )
