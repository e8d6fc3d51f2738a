"""COSMOS 1050K: ``<object>/images`` and ``<object>/labels`` with equal names, and a JSON file of colours per object.

``data_infor_json/<object>.json`` gives the grey value (``color``) and the name (``info``) of each target. It lies in
the root or in one of the two folders above it, as in the published repository. An object without one takes the names of
the recipe's ``targets``. The folder of an object may be the root itself; images that lie in none, as the published
``train_data``, belong to the object that their name begins with.

The case is the object with the number that follows it in the name, such as ``22_Heart_2`` of ``22_Heart_2_10.png``. A
split is taken from a folder such as ``train_data``. ``cases.json``, written here, states case, modality and split.

Source: https://github.com/yuhoo0302/Segment-Anything-Model-for-Medical-Images, data and data_infor_json.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vesalius.core.errors import ReadError, WriteError
from vesalius.corpus.layouts.listing import CASES, Rows, about, read_cases
from vesalius.corpus.layouts.support import (
    PICTURES,
    case_of,
    dataset_name,
    matching,
    name_below,
    read_flat,
    read_json,
    split_named,
    write_png,
    writing,
)
from vesalius.corpus.layouts.volumes import class_layers, label_map, label_sets, read_labels, write_picture
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, Scan
from vesalius.corpus.sorting import joined

_COLOURS = "data_infor_json"
_OBJECT = re.compile(r"\d+_\w+")
_REMEDY = "copy it again, or correct it"


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the pictures in all folders ``images`` that have ``labels`` beside them.

    Raises:
        ReadError: There are none; a JSON file of colours is damaged.
    """
    folders = [path for path in matching(root, "**/images") if (path.parent / "labels").is_dir()]
    if not folders:
        raise ReadError("holds no folders images and labels", path=root, remedy="give the folder of the objects")
    colours = _colours(root)
    # Two objects may share a JSON file's sets; they are computed once for each.
    sets = {name: label_sets(dataset, _named(colours[name]), colours[name]) for name in colours}
    unnamed = label_sets(dataset, {}, root)
    images = (path for folder in folders for path in matching(folder, "*") if path.suffix.lower() in PICTURES)
    names = ((image.relative_to(root).as_posix(), None) for image in images)
    for below, _, stated in joined(names, read_cases(root)):
        image, stated = root / below, stated or {}
        folder = image.parent.parent
        thing = _object(folder.name, image.stem, colours)
        place = folder.relative_to(root)
        yield Entry(
            name="_".join([*place.parts, name_below(image, image.parent)]),
            case=case_of(dataset, image, root, stated.get("case") or _case(thing, image.stem)),
            image=image,
            labels=(folder / "labels" / f"{image.stem}.png",),
            split=stated.get("split") if stated else split_named(place / image.name),
            extra={"labels": sets.get(thing, unnamed), "modality": stated.get("modality")},
        )


def label_files(dataset: DatasetRecipe, root: Path) -> Iterator[Path]:  # noqa: ARG001
    """The pictures in all folders ``labels``."""
    return (path for path in matching(root, "**/labels/*.png") if not path.name.startswith("."))


def read(entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
    """Reads a picture and its label map.

    Raises:
        ReadError: A file is missing or damaged.
        GeometryError: The label map is of another size.
    """
    modality = entry.extra.get("modality") or dataset.modality
    volume = read_flat(entry, dataset.model_copy(update={"modality": modality}))
    yield Scan(entry.name, volume, class_layers(read_labels(entry.labels[0], volume), entry.extra["labels"]))


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder with colours, or whose folders of images are named as objects: ``22_Heart``."""
    things = [path.parent.name for path in folder.glob("*/images") if (path.parent / "labels").is_dir()]
    if (folder / _COLOURS).is_dir() or (things and all(_OBJECT.fullmatch(name) for name in things)):
        return DatasetRecipe(name=dataset_name(folder), layout="cosmos", root=folder)
    return None


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:  # noqa: ARG001
    """Writes a folder ``<data set>/images`` and ``labels`` for each data set, as an object, and its colours.

    Raises:
        WriteError: The folder holds something or cannot be written, two images have one name, targets overlap, or a
            data set has more than 255 of them.
    """
    classes: dict[str, dict[str, int]] = defaultdict(dict)
    with writing(folder) as part:
        rows = Rows(part)
        for image in images:
            thing = re.sub(r"[^\w.+-]+", "_", image.dataset).strip(".") or "object"
            for kind in ("images", "labels"):
                (part / thing / kind).mkdir(parents=True, exist_ok=True)
            labels = label_map(image, classes[thing], "cosmos")
            if len(classes[thing]) > 255:
                raise WriteError(f"{image.dataset} has more than the 255 targets that pictures hold", path=folder)
            file_name = write_png(image, part / thing / "images")
            write_picture(part / thing / "labels" / file_name, labels.astype("uint8"))
            rows.put(CASES, f"{thing}/images/{file_name}", about(image))
        (part / _COLOURS).mkdir()
        for thing, own in classes.items():
            content = {
                "info": {str(value): target for target, value in own.items()},
                "color": {str(value): value for value in own.values()},
            }
            path = part / _COLOURS / f"{thing}.json"
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        rows.write_mapping(part / CASES, CASES)


def _colours(root: Path) -> dict[str, Path]:
    """Object -> its JSON file."""
    for folder in (root, *root.parents[:2]):
        if (folder / _COLOURS).is_dir():
            return {path.stem: path for path in sorted((folder / _COLOURS).glob("*.json"))}
    return {}


def _named(path: Path) -> dict[str, str]:
    """Grey value -> name, of a JSON file."""
    content: Any = read_json(path, _REMEDY)
    try:
        return {str(int(value)): str(content["info"][key]) for key, value in content["color"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ReadError(f"does not give the colours of targets ({error!r})", path=path, remedy=_REMEDY) from error


def _object(folder: str, stem: str, colours: dict[str, Path]) -> str:
    """The object that an image shows: that of its folder, else the longest that its name begins with."""
    if folder in colours or not any(stem.startswith(f"{name}_") for name in colours):
        return folder
    return max((name for name in colours if stem.startswith(f"{name}_")), key=len)


def _case(thing: str, stem: str) -> str:
    match = re.match(rf"({re.escape(thing)}_\d+)_", stem)
    return match[1] if match else f"{thing}_{stem}"
