"""Annotations as files: one image's at a time, or all that is done in a folder."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vesalius.core.errors import VesaliusError, WriteError
from vesalius.core.types import AXES, Volume
from vesalius.corpus.layouts import layout
from vesalius.corpus.layouts.support import writing
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.io.dicom_seg import write_segments
from vesalius.io.outlines import runs_of_mask
from vesalius.io.read import suffix_of
from vesalius.io.regions import Region
from vesalius.io.rtstruct import write_structures
from vesalius.io.write import write_mask
from vesalius.prompts.sample import tight_box
from vesalius.server.documents import Annotation, State
from vesalius.server.masks import block_of, label_map, mask_in_block, region_of
from vesalius.server.workspace import Item

# Format -> how names of its files end, which are never those of images, and media type.
FORMATS = {
    "nifti": ("-labels.nii.gz", "application/gzip"),
    "nrrd": ("-labels.nrrd", "application/octet-stream"),
    "png": ("-labels.png", "image/png"),
    "dicom-seg": ("-seg.dcm", "application/dicom"),
    "rtstruct": ("-rtstruct.dcm", "application/dicom"),
    "coco": ("-coco.json", "application/json"),
    "prompts": ("-prompts.jsonl", "application/x-ndjson"),
}


@dataclass(frozen=True, eq=False)
class Annotated:
    """An image and what was said about it.

    Attributes:
        item: Where it is.
        load: Gives the image, which is not kept here: there may be more of them than memory holds.
        state: Its annotations.
        log: Its prompt log.
    """

    item: Item
    load: Callable[[], Volume]
    state: State
    log: Path

    @property
    def volume(self) -> Volume:
        """The image."""
        return self.load()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        depth, height, width = self.volume.voxels.shape[:3]
        return depth, height, width

    @property
    def stem(self) -> str:
        """How the names of files made of it begin: its own name, as that of its log has it, without its suffix."""
        name = self.log.stem.rsplit("-", 1)[0]
        suffix = "" if self.item.files is not None else suffix_of(self.item.path)
        at = name.lower().rfind(suffix)
        # DICOM files may be called by numbers, which are no suffix; that of a time point comes after the suffix.
        return name if at < 0 or suffix[1:].isdecimal() else name[:at] + name[at + len(suffix) :]

    def regions(self) -> list[Region]:
        """The objects, numbered in their order."""
        return [region_of(number, thing, self.shape) for number, thing in enumerate(self.state.objects.values(), 1)]


def formats_of(item: Item) -> list[str]:
    """The formats in which the annotations of an image can be had."""
    dicom = item.files is not None or item.path.suffix.lower() in (".dcm", ".dicom", ".ima", "")
    dicom = dicom and item.time is None  # what DICOM says of one frame of several would be said of all
    return [name for name in FORMATS if dicom or name not in ("dicom-seg", "rtstruct")]


def export_image(one: Annotated, kind: str, axis: str | None = None, index: int | None = None) -> bytes:
    """The annotations of one image in a format.

    Args:
        one: The image.
        kind: One of `FORMATS`.
        axis: Of the slice that a picture shows.
        index: Of the slice that a picture shows; None for an image of one slice.

    Raises:
        WriteError: The format cannot hold them.
        GeometryError: There is no such slice.
    """
    if kind == "prompts":
        return _whole_lines(one.log)
    if kind == "coco":
        return json.dumps(coco_of(one), ensure_ascii=False).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{one.stem}{FORMATS[kind][0]}"
        write_labels(one, kind, path, axis, index)
        return path.read_bytes()


def write_labels(one: Annotated, kind: str, path: Path, axis: str | None = None, index: int | None = None) -> None:
    """Writes the annotations of one image as a label map, segmentation or structure set; see `export_image`."""
    regions = one.regions()
    source = one.volume.source
    if kind == "dicom-seg":
        write_segments(path, regions, one.shape, source, path, one.item.files)
    elif kind == "rtstruct":
        if one.volume.geometry is None:
            raise WriteError("its image states no geometry, which contours need", path=path, remedy="use .png")
        colours = [rgb_of(thing.colour) for thing in one.state.objects.values()]
        write_structures(path, regions, one.volume.geometry, source, path, files=one.item.files, colours=colours)
    elif kind == "png":
        cut = one.volume.slice(axis or "z", index)
        labels = label_map(regions, one.shape)
        write_mask(path, np.take(labels, cut.index, axis=2 - AXES.index(cut.axis)), like=cut)
    else:
        write_mask(path, label_map(regions, one.shape), like=one.volume)


def coco_of(one: Annotated) -> dict[str, Any]:
    """The annotations of one image as COCO's JSON: each slice with objects is an image."""
    categories: dict[str, int] = {}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(labelled(one), 1):
        height, width = image.image.size
        about = {"axis": image.image.axis, "index": image.image.index}
        images.append({"id": number, "file_name": one.item.name, "width": width, "height": height, **about})
        for mask in image.masks:
            x0, y0, x1, y1 = tight_box(mask.mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": categories.setdefault(mask.target, len(categories) + 1),
                    "iscrowd": 0,
                    "area": int(mask.mask.sum()),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": runs_of_mask(mask.mask),
                }
            )
    listed = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": listed}


def main_axis(things: Iterable[Annotation]) -> str:
    """The axis on which most was said about some objects."""
    counts = Counter(axis for thing in things for axis, _ in thing.planes)
    return max(AXES[::-1], key=lambda name: counts[name])


def labelled(one: Annotated) -> Iterator[LabelledImage]:
    """Each slice with objects, along the axis on which most was said."""
    volume = one.volume
    axis = main_axis(one.state.objects.values())
    blocks = {number: block_of(thing, one.shape) for number, thing in one.state.objects.items()}
    stem = one.item.name
    for index in range(one.shape[2 - AXES.index(axis)]):
        masks = []
        for number, thing in one.state.objects.items():
            mask = mask_in_block(blocks[number], axis, index, one.shape)
            if mask.any():
                masks.append((mask, thing.name or "object"))
        if not masks:
            continue
        yield LabelledImage(
            image=volume.slice(axis, index),
            modality=volume.modality or "unknown",
            dataset="annotations",
            case=one.item.id,
            path=one.item.path,
            masks=[ObjectMask(mask, name, place) for place, (mask, name) in enumerate(masks, 1)],
            name=stem if one.shape[0] == 1 else f"{stem}/{axis}_{index:04}",
        )


def export_all(images: Sequence[Annotated], kind: str, folder: Path) -> dict[str, Any]:
    """Writes the annotations of several images to a new folder.

    Args:
        images: What to write.
        kind: ``corpus`` (see `corpora.write_corpus`), ``coco``, ``labels`` (a label map of each image in its own
            geometry) or ``prompts`` (the logs).
        folder: The new folder.

    Returns:
        How many ``images`` and ``objects`` were written, and what was ``left_out``, with the reason.

    Raises:
        WriteError: The folder is there already or cannot be written, or there is nothing to write.
    """
    marked = [
        one
        for one in images
        if any(plane.area for thing in one.state.objects.values() for plane in thing.planes.values())
    ]
    left_out = [{"name": one.item.name, "reason": "nothing is outlined"} for one in images if one not in marked]
    if not marked:
        raise WriteError("there is nothing to export", remedy="outline something, and mark it as done")
    if kind == "corpus":
        from vesalius.server.corpora import write_corpus

        images_written, objects_written = write_corpus(marked, folder)
        return {"folder": str(folder), "images": images_written, "objects": objects_written, "left_out": left_out}
    count = {"images": 0, "objects": 0}

    def counted() -> Iterator[LabelledImage]:
        for one in marked:
            for image in labelled(one):
                count["images"] += 1
                count["objects"] += len(image.masks)
                yield image

    if kind == "coco":
        layout("coco").write(counted(), folder, folder.name)
    else:
        with writing(folder) as part:
            stems = Counter(one.stem.casefold() for one in marked)
            for one in marked:
                # Images of several folders, or whose names differ in a space, may have one stem.
                stem = one.stem if stems[one.stem.casefold()] == 1 else f"{one.stem}-{one.item.id}"
                if kind == "prompts":
                    (part / f"{stem}{FORMATS['prompts'][0]}").write_bytes(_whole_lines(one.log))
                else:
                    try:
                        write_labels(one, "nifti", part / f"{stem}{FORMATS['nifti'][0]}")
                    except VesaliusError as error:
                        left_out.append({"name": one.item.name, "reason": error.reason})
                        continue
                    names = {number: thing.name for number, thing in enumerate(one.state.objects.values(), 1)}
                    told = json.dumps(names, indent=1, ensure_ascii=False)
                    (part / f"{stem}-labels.json").write_text(told, encoding="utf-8")
                count["images"] += 1
                count["objects"] += len(one.state.objects)
    return {"folder": str(folder), **count, "left_out": left_out}


def _whole_lines(log: Path) -> bytes:
    """What a log holds, without a line that is being written."""
    content = log.read_bytes() if log.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def rgb_of(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of ``#rrggbb``."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
