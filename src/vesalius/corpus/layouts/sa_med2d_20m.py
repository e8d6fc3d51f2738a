"""SA-Med2D-20M: files whose names say modality, data set, case, slice, class and instance.

- ``images/{modality}--{dataset}--{case}--{slice}.png``, the slice being such as ``x_0100``, or ``2d_none``;
- ``masks/{modality}--{dataset}--{case}--{slice}--{class}_{instance}.png``, of 0 and 255, each one object;
- ``SAMed2D_v1.json``: image -> masks; ``SAMed2D_v1_class_mapping_id.json``: data set -> name of a class -> its number.

Written here, there are also the lists of SAM-Med2D's loader (see `sam_med2d`), from which splits are read, and
``cases.json``, since a name holds the scan's name, and a case may have several scans.

Source: SA-Med2D-20M, section 4.3, equations 2 to 5, and the published archive.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from vesalius.core.errors import ReadError
from vesalius.corpus.layouts.listing import Rows, read_cases, read_members
from vesalius.corpus.layouts.sam_med2d import LoaderLists, read, read_lists
from vesalius.corpus.layouts.support import (
    case_of,
    dataset_name,
    eight_bits,
    read_json,
    target_name,
    writing,
)
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry
from vesalius.corpus.sorting import joined
from vesalius.vocabulary.modalities import find_modality

__all__ = ["find", "guess", "read", "write"]

_INDEX, _CLASSES = "SAMed2D_v1.json", "SAMed2D_v1_class_mapping_id.json"
_REMEDY = "copy it again, or choose another layout"
_SLICE = re.compile(r"2d_none|[xyz]_\d{4,}")
_SPLITS = ("train", "val", "test")
# What the published files call these; other names get _00 where they have no sub-modality.
_PUBLISHED = {"xray": "x_ray", "fundus": "fundus_photography"}


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the images of ``SAMed2D_v1.json``.

    Raises:
        ReadError: It or the mapping of classes is missing or damaged; a name has not the parts that it must have.
    """
    index = root / _INDEX
    classes = read_json(root / _CLASSES, _REMEDY)
    listed = joined(read_members(index, _REMEDY), read_cases(root))
    files = ((image.rpartition("/")[2], (image, masks, stated)) for image, masks, stated in listed)
    splits = ((image.rpartition("/")[2], mode) for mode, image, _ in read_lists(root) if mode in _SPLITS)
    try:
        names = {source: {str(number): name for name, number in own.items()} for source, own in classes.items()}
        for _, (image, masks, about), split in joined(files, splits):
            path = root / image
            parts = path.stem.split("--")
            if len(parts) != 4:
                raise ReadError(f"{image} is not named modality--dataset--case--slice", path=index, remedy=_REMEDY)
            modality, source, case, _ = parts
            stated = about or {}
            own = names.get(source, {})
            found = [own.get(Path(mask).stem.rpartition("--")[2].partition("_")[0]) for mask in masks]
            yield Entry(
                name=path.stem,
                case=case_of(dataset, path, root, stated.get("case") or f"{source}--{case}"),
                image=path,
                labels=tuple(root / mask for mask in masks),
                split=split,
                extra={
                    "names": [None if name is None else target_name(dataset, 0, name) for name in found],
                    "modality": stated.get("modality") or read_modality(modality),
                },
            )
    except (AttributeError, TypeError) as error:
        raise ReadError(f"does not map images to masks ({error})", path=index, remedy=_REMEDY) from error


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder with both JSON files."""
    if (folder / _INDEX).is_file() and (folder / _CLASSES).is_file():
        return DatasetRecipe(name=dataset_name(folder), layout="sa-med2d-20m", root=folder)
    return None


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:  # noqa: ARG001
    """Writes images, masks and all lists; SAM-Med2D's loader reads them from the folder above ``folder``.

    Raises:
        WriteError: The folder holds something or cannot be written, two files have one name, or an image has no mask,
            which the published reader does not bear.
    """
    classes: dict[str, dict[str, str]] = defaultdict(dict)
    with writing(folder) as part:
        lists, rows = LoaderLists(part, folder.resolve().name), Rows(part)
        for image in images:
            stem = _stem(image)
            lists.write("images", f"{stem}.png", eight_bits(image.image))
            own = classes[_part(image.dataset)]
            masks = []
            instances: Counter[str] = Counter()
            for mask in image.masks:
                if not mask.mask.any():
                    continue
                number = own.setdefault(mask.target, f"{len(own):04d}")
                masks.append(f"{stem}--{number}_{instances[number]:03d}.png")
                instances[number] += 1
                lists.write("masks", masks[-1], mask.mask.astype(np.uint8) * np.uint8(255))
            lists.add(image, f"{stem}.png", masks)
            rows.put(_INDEX, f"images/{stem}.png", [f"masks/{mask}" for mask in masks])
        lists.finish()
        rows.write_mapping(part / _INDEX, _INDEX)
        (part / _CLASSES).write_text(json.dumps(classes, indent=1, ensure_ascii=False), encoding="utf-8")


def read_modality(name: str) -> str:
    """The modality of a file's name, such as ``ct_00``, ``mr_t1c`` or ``x_ray``.

    A sub-modality that the vocabulary does not know, such as that of ``ct_cbf``, gives the modality that it is of.
    """
    main, _, sub = name.partition("_")
    parent = find_modality(main)
    for candidate in (name, main if sub == "00" else sub, name.removesuffix("_00")):
        found = find_modality(candidate)
        if found and (parent is None or parent.name in found.lineage):
            return found.name
    return parent.name if parent else name.removesuffix("_00").lower()


def write_modality(name: str) -> str:
    """The same, the other way."""
    return _PUBLISHED.get(name, name if "_" in name else f"{name}_00")


def _stem(image: LabelledImage) -> str:
    parts = (image.name or image.path.stem).split("/")
    place = parts.pop() if len(parts) > 1 and _SLICE.fullmatch(parts[-1]) else "2d_none"
    if len(parts) > 1 and parts[0] == image.dataset:
        del parts[0]
    return "--".join([write_modality(_part(image.modality)), _part(image.dataset), _part("_".join(parts)), place])


def _part(name: str) -> str:
    """A part of a name, without what separates parts."""
    return re.sub(r"-{2,}", "-", re.sub(r"[^\w.+-]+", "_", name)).strip("-") or "none"
