"""Labelled images and the objects in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.types import Slice

# SA-Med2D-20M, section 3: masks under 100 pixels of a 256 x 256 image are dropped.
MIN_AREA = 100 / (256 * 256)


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """One object of an image.

    Attributes:
        mask: (H, W) bool.
        target: What it is, such as ``"optic disc"``.
        instance: Number of the object among those of the image, from 1.
        pseudo: Whether a model or an algorithm drew it, not a person.
    """

    mask: NDArray[np.bool_]
    target: str
    instance: int
    pseudo: bool = False


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image with the true masks of its objects.

    Attributes:
        image: The image.
        modality: Lower-case modality.
        dataset: Name of the set it comes from.
        case: Patient, recording, volume or image that must not be split between training and validation.
        path: The image file.
        masks: Its objects.
        name: Of the scan it comes from, unique in its data set.
        split: ``"train"``, ``"val"`` or ``"test"`` where that is decided.
    """

    image: Slice
    modality: str
    dataset: str
    case: str
    path: Path
    masks: list[ObjectMask]
    name: str = ""
    split: str | None = None


def connected_objects(
    labels: NDArray[Any], names: dict[int, str], instances: NDArray[Any] | None = None, min_area: float = MIN_AREA
) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Splits a label map into objects: instances where they are given, else 8-connected components of each label.

    Args:
        labels: (H, W) integers, 0 for background.
        names: Label value to target name; other values are not objects.
        instances: (H, W) integers, one value per object, 0 for background; an object's target is the label that
            most of its pixels have.
        min_area: Objects under this share of the image are left out.

    Yields:
        Mask (H, W) bool and target name.
    """
    import cc3d

    least = min_area * labels.size
    if instances is not None:
        values, areas = np.unique(instances[instances > 0], return_counts=True)
        for value, area in zip(values, areas, strict=True):
            if area < least:
                continue
            mask = instances == value
            label = int(np.bincount(labels[mask].astype(np.int64).ravel()).argmax())
            if label in names:
                yield mask, names[label]
        return
    for label, name in names.items():
        components = cc3d.connected_components((labels == label).astype(np.uint8), connectivity=8)
        for component in range(1, int(components.max()) + 1):
            mask = components == component
            if int(mask.sum()) >= least:
                yield mask, name
