from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from made_listing import listed
from vesalius.core.types import Slice
from vesalius.corpus.layouts import layout
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.corpus.recipe import DatasetRecipe, LayoutName
from vesalius.corpus.scans import Entry, Scan

Masks = list[tuple[str, bytes]]


@pytest.fixture
def labelled() -> list[LabelledImage]:
    """Pictures with objects that overlap, have holes, fall into parts, and touch in corners; one picture has none."""
    rng = np.random.default_rng(7)
    images = []
    for number in range(4):
        height, width = 40 + number, 51 - 3 * number
        colours = (3,) if number == 1 else ()
        pixels = rng.integers(0, 256, (height, width, *colours), dtype=np.uint8)
        ring = np.zeros((height, width), bool)
        ring[4:24, 6:30] = True
        ring[9:15, 11:17] = False
        two = np.zeros_like(ring)
        two[20:30, 0:9] = two[30:39, 9:25] = two[2:5, -3:] = True
        dots = rng.random(ring.shape) < 0.2
        objects = [(ring, "liver"), (two, "tumour"), (dots, "liver")] if number != 2 else []
        images.append(
            LabelledImage(
                image=Slice(pixels, spacing=(0.5, 0.75) if number == 0 else None, modality="mr_t1"),
                modality="mr_t1",
                dataset="made",
                case=f"patient {number // 2}",
                path=Path(f"scan{number}.png"),
                masks=[ObjectMask(mask, name, i) for i, (mask, name) in enumerate(objects, 1)],
                name=f"made/scan {number}/z_000{number}",
                split=("train", "val", "test", None)[number],
            )
        )
    return images


@pytest.fixture
def apart(labelled: list[LabelledImage]) -> list[LabelledImage]:
    """The same with objects that do not overlap, in grey, and with one in every picture."""
    images = []
    for image in labelled:
        taken = np.zeros(image.image.size, bool)
        masks = []
        for mask in image.masks or [ObjectMask(np.eye(*image.image.size, dtype=bool), "tumour", 1)]:
            masks.append(replace(mask, mask=mask.mask & ~taken))
            taken |= mask.mask
        pixels = image.image.pixels if image.image.pixels.ndim == 2 else image.image.pixels[..., 0]
        images.append(replace(image, masks=masks, image=replace(image.image, pixels=pixels)))
    return images


@pytest.fixture
def round_trip(tmp_path: Path) -> Callable[[LayoutName, list[LabelledImage]], list[tuple[Entry, Scan]]]:
    """Writes images in a layout, guesses its recipe, and reads it all again."""

    def write_and_read(name: LayoutName, images: list[LabelledImage]) -> list[tuple[Entry, Scan]]:
        folder = tmp_path / f"{name}-set"
        layout(name).write(iter(images), folder, "made")
        assert sorted(tmp_path.iterdir()) == [folder]
        recipe = layout(name).guess(folder)
        assert recipe is not None
        assert (recipe.layout, recipe.name, recipe.root) == (name, f"{name}-set", folder)
        entries = listed(recipe)
        found = []
        for entry in entries:
            (scan,) = layout(name).read(entry, recipe)
            found.append((entry, scan))
        return found

    return write_and_read


@pytest.fixture
def masks_of() -> Callable[[Scan], Masks]:
    """All masks of a scan, with their names."""

    def masks(scan: Scan) -> Masks:
        return sorted(
            (layer.names[value], (layer.values[0] == value).tobytes())
            for layer in scan.layers
            for value in np.unique(layer.values).tolist()
            if value
        )

    return masks


@pytest.fixture
def classes_of() -> Callable[[Scan], dict[str, bytes]]:
    """Target -> all that has it, of a scan."""

    def classes(scan: Scan) -> dict[str, bytes]:
        found: dict[str, np.ndarray] = {}
        for layer in scan.layers:
            for value in np.unique(layer.values).tolist():
                if value:
                    mask = found.setdefault(layer.names[value], np.zeros(layer.values.shape[1:], bool))
                    mask |= layer.values[0] == value
        return {name: mask.tobytes() for name, mask in found.items()}

    return classes


@pytest.fixture
def true_classes() -> Callable[[LabelledImage], dict[str, bytes]]:
    """The same of a labelled image."""

    def classes(image: LabelledImage) -> dict[str, bytes]:
        found: dict[str, np.ndarray] = {}
        for mask in image.masks:
            found[mask.target] = found.get(mask.target, np.zeros_like(mask.mask)) | mask.mask
        return {name: mask.tobytes() for name, mask in found.items()}

    return classes


@pytest.fixture
def true_masks() -> Callable[[LabelledImage], Masks]:
    """The same of a labelled image."""
    return lambda image: sorted((mask.target, mask.mask.tobytes()) for mask in image.masks)


@pytest.fixture
def recipe() -> Callable[..., DatasetRecipe]:
    def make(name: LayoutName, root: Path, **about: object) -> DatasetRecipe:
        return DatasetRecipe(name="made", layout=name, root=root, **about)

    return make
