"""Images and label maps that lie in files of their own: reading their channels and labels, and writing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import GeometryError, ReadError, WriteError
from vesalius.core.geometry import Geometry
from vesalius.core.types import Volume
from vesalius.corpus.layouts.support import eight_bits, target_name
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, Layer
from vesalius.io.grid import Grid, decoding
from vesalius.io.read import count_times, read_grid, read_volume
from vesalius.vocabulary.modalities import find_modality

# Name of a target and the values that mean it; values of several targets are regions that overlap.
LabelSet = tuple[str, Sequence[int]]

# Largest distance between the corners of a label map and of its image, as a share of the spacing.
_TOLERANCE = 1e-4


def label_sets(dataset: DatasetRecipe, listed: Mapping[str, Any], path: Path) -> list[LabelSet]:
    """The targets that a JSON file lists, under the recipe's names, and those that the recipe adds.

    Args:
        dataset: The recipe.
        listed: Value -> name, or name -> value or list of values; 0 and the background are passed over.
        path: The JSON file.

    Raises:
        ReadError: What is listed is neither.
    """
    found: dict[str, list[int]] = {}
    try:
        for key, meaning in listed.items():
            if isinstance(meaning, str):
                name, values = meaning, [int(key)]
            else:
                name, values = str(key), [int(value) for value in (meaning if isinstance(meaning, list) else [meaning])]
            values = [value for value in values if value]
            if values:
                named = target_name(dataset, values[0], name) if len(values) == 1 else dataset.targets.get(name, name)
                found.setdefault(named, []).extend(values)
    except (AttributeError, TypeError, ValueError) as error:
        raise ReadError(f"its labels cannot be read ({error})", path=path, remedy="list them as value: name") from error
    known = {value for values in found.values() for value in values}
    for key, name in dataset.targets.items():
        if key.lstrip("-").isdigit() and int(key) not in known:
            found.setdefault(name, []).append(int(key))
    return list(found.items())


def read_channels(entry: Entry, dataset: DatasetRecipe) -> Iterator[tuple[str, Volume, int | None]]:
    """The channels or time points of an entry, read one by one.

    ``images`` of the entry's ``extra`` names several files (below the root), one per channel; else its image may hold
    several. ``channels`` names them, unless the recipe does; ``modality`` is that of the entry.

    Yields:
        Name of the scan, its volume, and its number where one file holds several.

    Raises:
        ReadError: A file is missing or damaged, or there are not as many channels as names.
    """
    files = [dataset.root / name for name in entry.extra.get("images", ())] or [entry.image]
    several = len(files) == 1 and (times := count_times(files[0])) > 1
    places = [(files[0], time) for time in range(times)] if several else [(path, None) for path in files]
    names = list(dataset.channels or entry.extra.get("channels", ()))
    # A single name is that of the modality, whose time points have numbers.
    if len(names) == 1 or not names:
        modalities, names = names * len(places) or [""] * len(places), [f"{i:03d}" for i in range(len(places))]
    elif len(names) == len(places):
        modalities = names
    else:
        raise ReadError(
            f"has {len(places)} channels, but {len(names)} are named: {', '.join(names)}",
            path=entry.image,
            remedy="correct the recipe's channels",
        )
    for (path, time), name, channel in zip(places, names, modalities, strict=True):
        modality = entry.extra.get("modality") or known_modality(channel) or dataset.modality
        volume = read_volume(path, modality=modality, time=time)
        yield entry.name if len(places) == 1 else f"{entry.name}-{_file_name(name)}", volume, time


def known_modality(name: str) -> str | None:
    """The modality that a channel's name means, or None where it means none."""
    found = find_modality(name)
    return found.name if found else None


def read_labels(path: Path, volume: Volume, time: int | None = None) -> NDArray[Any]:
    """The values of a label map, as its file has them.

    Args:
        path: The label map; a palette picture counts by its indices, a colour picture by its equal channels.
        volume: Its image.
        time: Time point of the image; a label map of several is taken there, one of a single one is that of all.

    Returns:
        (Z, Y, X), of any dtype.

    Raises:
        ReadError: It is missing, damaged, or a colour picture.
        GeometryError: It lies on another grid than the image.
    """
    grid = _label_grid(path, time if time is not None and count_times(path) > 1 else None)
    values, image = grid.values, volume.source
    if values.ndim == 4:
        if values.shape[-1] == 2 or (values[..., :3] != values[..., :1]).any():
            raise ReadError("is a colour picture, not a label map", path=path, remedy="save its values as grey")
        values = values[..., 0]
    if values.shape != volume.voxels.shape[:3]:
        sizes = [" x ".join(map(str, reversed(shape))) for shape in (values.shape, volume.voxels.shape[:3])]
        raise GeometryError(
            f"is {sizes[0]} voxels, but its image {image} is {sizes[1]}",
            path=path,
            remedy="find the image that was labelled",
        )
    if grid.geometry and volume.geometry and not grid.geometry.close_to(volume.geometry, _TOLERANCE):
        raise GeometryError(
            f"lies elsewhere in the patient than its image {image} (origin, spacing or direction differ)",
            path=path,
            remedy="resample it to the image's grid",
        )
    return values


def _label_grid(path: Path, time: int | None) -> Grid:
    if path.suffix.lower() == ".png" and path.is_file():
        from PIL import Image

        with decoding(path, "PNG image"), Image.open(path) as image:
            if image.mode == "P":
                return Grid(np.asarray(image)[None])
    return read_grid(path, time)


def class_layers(values: NDArray[Any], sets: Iterable[LabelSet]) -> tuple[Layer, ...]:
    """Layers of a label map; targets that share values overlap and lie in different layers.

    Args:
        values: (Z, Y, X) labels.
        sets: The targets; a value that none of them means stays as it is, in the first layer.
    """
    groups: list[dict[str, set[int]]] = [{}]
    for name, values_of in sets:
        own = set(values_of)
        group = next((group for group in groups if all(map(own.isdisjoint, group.values()))), None)
        if group is None:
            groups.append(group := {})
        group[name] = own
    if len(groups) == 1:
        return (Layer(values, {value: name for name, own in groups[0].items() for value in own}),)
    known = [value for group in groups for own in group.values() for value in own]
    layers = []
    for number, group in enumerate(groups):
        out = np.zeros_like(values)
        for own in group.values():
            out[np.isin(values, list(own))] = min(own)
        if number == 0:
            out = np.where(np.isin(values, known), out, values)
        layers.append(Layer(out, {min(own): name for name, own in group.items()}))
    return tuple(layers)


def label_map(image: LabelledImage, classes: dict[str, int], layout: str) -> NDArray[np.uint16]:
    """(H, W) label map of an image; objects of one target become one label.

    Args:
        image: The image.
        classes: Target -> value, from 1; new targets are added.
        layout: Name of the layout, for the error.

    Raises:
        WriteError: Masks of two targets overlap.
    """
    out = np.zeros(image.image.size, np.uint16)
    for mask in image.masks:
        value = classes.setdefault(mask.target, len(classes) + 1)
        taken = out[mask.mask]
        if ((taken != 0) & (taken != value)).any():
            raise WriteError(
                f"{mask.target} overlaps another target in {image.name or image.path}, "
                f"which a label map of the layout {layout} cannot hold",
                remedy="choose a layout that keeps masks apart: coco, sa1b, yolo, imis, sam-med2d or sa-med2d-20m",
            )
        out[mask.mask] = value
    return out


def write_pair(image: LabelledImage, labels: NDArray[np.uint16], image_stem: Path, label_stem: Path) -> str:
    """Writes an image and its label map: grey ones as NIfTI of one slice, in their own values; colour as PNG.

    Args:
        image: The image; where its spacing is unknown, the file states 1.
        labels: (H, W).
        image_stem: Path of the image without suffix.
        label_stem: The same of the label map.

    Returns:
        The suffix of both.

    Raises:
        WriteError: One is there already.
    """
    grey = image.image.pixels.ndim == 2
    suffix = ".nii.gz" if grey else ".png"
    kept = labels.astype(np.uint8) if labels.max(initial=0) < 256 else labels
    paths = [stem.with_name(stem.name + suffix) for stem in (image_stem, label_stem)]
    for path in paths:
        if path.exists():
            raise WriteError(f"two images are named {path.name}", path=path, remedy="give each its own name")
    if grey:
        spacing = image.image.spacing
        write_nifti(paths[0], image.image.pixels, spacing)
        write_nifti(paths[1], kept, spacing)
    else:
        write_picture(paths[0], eight_bits(image.image))
        write_picture(paths[1], kept)
    return suffix


def write_nifti(path: Path, plane: NDArray[Any], spacing: tuple[float, float] | None) -> None:
    """Writes (H, W) values as a NIfTI of one slice; ``spacing`` is along (rows, columns), in mm."""
    import nibabel

    height, width = plane.shape
    row, column = spacing or (1.0, 1.0)
    affine = Geometry(size=(width, height, 1), spacing=(column, row, 1.0)).affine("RAS")
    file = nibabel.Nifti1Image(plane.T[:, :, None], affine)
    file.header.set_xyzt_units("mm" if spacing else "unknown")
    nibabel.save(file, path)


def write_picture(path: Path, plane: NDArray[Any]) -> None:
    """Writes (H, W) of 8 or 16 bits, or (H, W, 3) of 8, as PNG."""
    from PIL import Image

    Image.fromarray(plane).save(path)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_.+-" else "_" for letter in name)
