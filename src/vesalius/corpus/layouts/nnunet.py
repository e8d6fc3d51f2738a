"""nnU-Net's raw data: ``imagesTr/<case>_0000.nii.gz`` with one file per channel, ``labelsTr/<case>.nii.gz``.

``dataset.json`` names channels and labels: ``channel_names`` and name -> value in version 2, ``modality`` and value ->
name in version 1. A label that is a list of values is a region; regions that share values lie in different layers. The
label ``ignore`` of version 2 is no target: its voxels count as background. Images of ``imagesTs`` are the test split,
with labels where there is a ``labelsTs``. Colour is written as PNG, three channels in one file, as nnU-Net has it; a
data set is grey or colour, not both. ``cases.json``, written here, states the case, modality and split of each image.

Source: https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md and region_based_training.md.
"""

from __future__ import annotations

import glob
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vesalius.core.errors import ReadError, WriteError
from vesalius.corpus.layouts.datalist import channel_names
from vesalius.corpus.layouts.listing import CASES, Rows, about, read_cases
from vesalius.corpus.layouts.support import (
    PICTURES,
    case_of,
    dataset_name,
    matching,
    name_below,
    read_json,
    writing,
    written_name,
)
from vesalius.corpus.layouts.volumes import (
    class_layers,
    label_map,
    label_sets,
    read_channels,
    read_labels,
    write_pair,
)
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, Layer, Scan
from vesalius.corpus.sorting import joined

_INDEX = "dataset.json"
_SPLITS = {"Tr": "train", "Ts": "test"}
_REMEDY = "copy it again, or choose another layout"


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the cases in ``imagesTr`` and ``imagesTs``, or those that the JSON file's ``dataset`` lists for training.

    Raises:
        ReadError: The JSON file is missing or damaged.
    """
    index = root / _INDEX
    content = _read_index(index)
    listed = content.get("labels") or {}
    void = listed.get("ignore", ()) if isinstance(listed, dict) else ()
    shared = {
        "labels": label_sets(dataset, {k: v for k, v in listed.items() if k != "ignore"}, index),
        "void": [void] if isinstance(void, int) else list(void),
    }
    channels = channel_names(content.get("channel_names") or content.get("modality") or {})
    files = ((one[0][0].relative_to(root).as_posix(), one) for one in _files(content, root, len(channels)))
    for _, (images, label, split), about_it in joined(files, read_cases(root)):
        stated = about_it or {}
        name = re.sub(r"_\d{4}$", "", name_below(images[0], images[0].parent))
        extra: dict[str, Any] = shared | {"modality": stated.get("modality")}
        if len(images) > 1:
            extra["images"] = [path.relative_to(root).as_posix() for path in images]
        if len(images) == len(channels):
            extra["channels"] = channels
        yield Entry(
            name=name,
            case=case_of(dataset, images[0], root, stated.get("case") or name),
            image=images[0],
            labels=(label,) if label else (),
            split=stated.get("split") if stated else split,
            extra=extra,
        )


def label_files(dataset: DatasetRecipe, root: Path) -> Iterator[Path]:  # noqa: ARG001
    """The files of ``labelsTr`` and ``labelsTs``, but those of training where the JSON file lists it."""
    content = _read_index(root / _INDEX)
    ending = glob.escape(_ending(content))
    for kind in _SPLITS:
        if kind != "Tr" or not isinstance(content.get("dataset"), dict):
            yield from (path for path in matching(root, f"labels{kind}/*{ending}") if not path.name.startswith("."))


def read(entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
    """Reads the channels of a case, each with its labels and regions.

    Raises:
        ReadError: A file is missing or damaged.
        GeometryError: The label map lies on another grid than a channel.
    """
    for name, volume, time in read_channels(entry, dataset):
        layers: list[Layer] = []
        for path in entry.labels:
            values = read_labels(path, volume, time)
            if entry.extra["void"]:
                values = np.where(np.isin(values, entry.extra["void"]), values.dtype.type(0), values)
            layers += class_layers(values, entry.extra["labels"])
        yield Scan(name, volume, tuple(layers))


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder whose ``dataset.json`` names channels, or whose images are named after channels."""
    try:
        content = _read_index(folder / _INDEX)
    except ReadError:
        return None
    if "channel_names" not in content and not has_channel_files(folder):
        return None
    return DatasetRecipe(name=dataset_name(folder), layout="nnunet", root=folder)


def has_channel_files(folder: Path) -> bool:
    """Whether images are named after channels and labels are not: ``imagesTr/a_0000.nii.gz``, ``labelsTr/a.nii.gz``."""
    images = (folder / "imagesTr").glob("*_0000.*")
    return any((folder / "labelsTr" / image.name.replace("_0000.", ".")).is_file() for image in images)


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:
    """Writes ``dataset.json`` of version 2, and images and label maps of one slice.

    Validation images and those without a split lie in ``imagesTr``, test images in ``imagesTs``.

    Raises:
        WriteError: The folder holds something or cannot be written, two images have one name, targets overlap, or grey
            and colour are mixed.
    """
    classes: dict[str, int] = {}
    modalities: dict[str, None] = {}
    counts: Counter[str] = Counter()
    ending = ""
    with writing(folder) as part:
        rows = Rows(part)
        for image in images:
            kind = "Ts" if image.split == "test" else "Tr"
            for kept in ("images", "labels"):
                (part / f"{kept}{kind}").mkdir(exist_ok=True)
            stem = written_name(image)
            labels = label_map(image, classes, "nnunet")
            suffix = write_pair(image, labels, part / f"images{kind}" / f"{stem}_0000", part / f"labels{kind}" / stem)
            if suffix != (ending := ending or suffix):
                raise WriteError(
                    f"{image.name or image.path} is {'colour' if suffix == '.png' else 'grey'}, the images before it "
                    "are not, and a data set of the layout nnunet is of one kind",
                    path=folder,
                    remedy="export grey and colour images one by one",
                )
            modalities[image.modality] = None
            counts[kind] += 1
            rows.put(CASES, f"images{kind}/{stem}_0000{suffix}", about(image))
        grey = {"0": " or ".join(modalities)}
        content = {
            "name": name,
            "channel_names": {"0": "red", "1": "green", "2": "blue"} if ending == ".png" else grey,
            "labels": {"background": 0} | classes,
            "numTraining": counts["Tr"],
            "file_ending": ending or ".nii.gz",
        }
        (part / _INDEX).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        rows.write_mapping(part / CASES, CASES)


def _read_index(path: Path) -> dict[str, Any]:
    content = read_json(path, _REMEDY)
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise ReadError("does not name the labels", path=path, remedy=_REMEDY)
    return content


def _files(content: dict[str, Any], root: Path, channels: int) -> Iterator[tuple[list[Path], Path | None, str]]:
    """The channels of each case, its label map, and its split."""
    ending = _ending(content)
    listed = content.get("dataset")
    if isinstance(listed, dict):
        for case, row in listed.items():
            try:
                yield [root / image for image in row["images"]], root / row["label"], "train"
            except (KeyError, TypeError) as error:
                raise ReadError(f"{case} of dataset has no images or label", path=root / _INDEX) from error
    for kind, split in _SPLITS.items():
        if isinstance(listed, dict) and kind == "Tr":
            continue
        labelled = (root / f"labels{kind}").is_dir()
        pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}")
        for path in matching(root, f"images{kind}/*{glob.escape(ending)}"):
            match = pattern.fullmatch(path.name)
            case = match[1] if match else ""
            # One of its channels stands for a case: the first that is there.
            if match is None or any(_channel(path, case, before, ending).exists() for before in range(int(match[2]))):
                continue
            # A colour picture holds all its channels in one file.
            single = ending in PICTURES and not _channel(path, case, 1, ending).exists()
            count = 1 if single else max(channels, 1)
            images = [_channel(path, case, number, ending) for number in range(count)]
            yield images, root / f"labels{kind}" / f"{case}{ending}" if labelled else None, split


def _ending(content: dict[str, Any]) -> str:
    return str(content.get("file_ending", ".nii.gz"))


def _channel(path: Path, case: str, number: int, ending: str) -> Path:
    """The file of another channel beside that of one."""
    return path.with_name(f"{case}_{number:04d}{ending}")
