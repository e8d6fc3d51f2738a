"""Labelled images and the objects in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.types import Slice

# SA-Med2D-20M, section 4.3, step 3: masks under 100 pixels of a 256 x 256 image are dropped.
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
        name: Unique in its corpus: data set, scan and slice, such as ``btcv/img0001/z_0042``.
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


def consolidated(labels: NDArray[Any]) -> dict[int, NDArray[np.bool_]]:
    """Masks of the classes of a label map; a class takes in what lies inside it.

    A part lies inside a class if nothing else touches it from outside, the image's edge included: a kidney takes in its
    tumour, oedema takes in the enhancing tumour with its necrosis. What is taken in also stays a mask of its own: the
    published corpus has the masks of both (its figure 5).

    Source: SA-Med2D-20M, section 4.3, step 2, and figure 8b.

    Args:
        labels: (H, W) integers, 0 for background.

    Returns:
        Label value -> mask (H, W) bool, by value.
    """
    import cc3d
    from scipy import ndimage

    masks = {int(value): labels == value for value in np.unique(labels) if value}
    if len(masks) < 2:
        return masks
    out = {value: mask.copy() for value, mask in masks.items()}
    for value, mask in masks.items():
        # Several classes side by side may lie inside a third: what they make together is looked at.
        others = cc3d.connected_components(((labels != 0) & ~mask).astype(np.uint8), connectivity=8)
        for number, box in enumerate(ndimage.find_objects(others), 1):
            rows, columns = box
            if rows.start == 0 or columns.start == 0 or rows.stop == labels.shape[0] or columns.stop == labels.shape[1]:
                continue
            around = (slice(rows.start - 1, rows.stop + 1), slice(columns.start - 1, columns.stop + 1))
            filled = ndimage.binary_fill_holes(others[around] == number)
            ring = ndimage.binary_dilation(filled, np.ones((3, 3))) & ~filled
            if mask[around][ring].all():
                out[value][around] |= filled & (labels[around] != 0)
    return out
