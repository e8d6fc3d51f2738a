"""DICOM segmentations: written by highdicom, read for a mask on an image's grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels import iter_pixels  # type: ignore[attr-defined]

from vesalius import __version__
from vesalius.core.errors import GeometryError, ReadError, VesaliusError, WriteError
from vesalius.core.geometry import Geometry
from vesalius.io.dicom import frame_order, group_of, load_file, load_series, long_string, place_of
from vesalius.io.grid import MAX_VALUES, check_shape, decoding
from vesalius.io.regions import CutOut, Region, cut_out
from vesalius.vocabulary.targets import Target, target_of


def write_segmentation(temporary: Path, labels: NDArray[Any], source: Path | None, path: Path) -> None:
    """Writes object numbers as a binary DICOM segmentation that refers to the images they were drawn on.

    Args:
        temporary: The file to write.
        labels: (Z, Y, X) uint8 or uint16, 0 for background; each number becomes the segment of that number.
        source: The DICOM file or series folder that the image was read from; it is read again.
        path: The output that errors name.

    Raises:
        WriteError: The source is not DICOM any more, no object was marked, or the source lacks attributes.
    """
    images, order = source_images(source, labels.shape, path, "segmentation")
    numbers = range(1, int(labels.max()) + 1)
    _write(temporary, labels[order], [_described(number, f"object {number}") for number in numbers], images, path)


def write_segments(
    temporary: Path,
    regions: Sequence[Region],
    shape: tuple[int, int, int],
    source: Path | None,
    path: Path,
    files: Sequence[Path] | None = None,
) -> None:
    """Writes named regions, which may overlap, as a binary DICOM segmentation.

    The regions that mark anything become segments 1, 2, ... in their order, labelled by their names; the vocabulary
    gives the codes of those that it knows, with the side as modifier of the type.

    Args:
        temporary: The file to write.
        regions: On the slices of the image along z.
        shape: (Z, Y, X) of the image.
        source: The DICOM file or series folder that the image was read from; it is read again.
        path: The output that errors name.
        files: The files of the series, where the folder holds more than it.

    Raises:
        WriteError: As `write_segmentation`.
    """
    images, order = source_images(source, shape, path, "segmentation", files)
    marked = [region for region in regions if region.planes]
    labels = np.zeros(shape, np.uint8 if len(marked) < 256 else np.uint16)
    overlap = False
    for number, region in enumerate(marked, 1):
        for height, part in region.planes.items():
            where = labels[height][part.where]
            overlap = overlap or bool(where[part.mask].any())
            where[part.mask] = number
    pixels = labels[order]
    if overlap:
        if pixels.size * len(marked) > MAX_VALUES:
            raise WriteError(
                f"{len(marked)} objects that overlap are too many for a segmentation of so large a volume",
                path=path,
                remedy="remove the overlaps",
            )
        pixels = np.zeros((*shape, len(marked)), np.uint8)
        for place, height in enumerate(order):
            for number, region in enumerate(marked):
                shown = region.planes.get(int(height))
                if shown is not None:
                    pixels[place][shown.where][..., number][shown.mask] = 1
    described = [_described(number, region.name) for number, region in enumerate(marked, 1)]
    _write(temporary, pixels, described, images, path)


def source_images(
    source: Path | None,
    shape: tuple[int, ...],
    path: Path,
    kind: str,
    files: Sequence[Path] | None = None,
) -> tuple[list[Dataset], NDArray[np.int64]]:
    """The DICOM images that a volume was read from, and the slice of the volume that each of their frames is.

    Args:
        source: The file or series folder; it is read again.
        shape: (Z, Y, X) of the volume.
        path: The output that errors name.
        kind: What the output is, as errors call it.
        files: The files of the series, where the folder holds more than it.

    Raises:
        WriteError: The source is not DICOM any more, or is of another shape.
    """
    if source is None:
        raise WriteError(f"a DICOM {kind} needs an image that was read from DICOM", path=path, remedy="use .nii.gz")
    try:
        one = [load_file(source)] if source.is_file() else None
        images = one or [dataset for _, dataset in load_series(source, files)[0]]
    except VesaliusError as error:
        raise WriteError(
            f"a DICOM {kind} needs the DICOM images it belongs to, but {error}", path=path, remedy="use .nii.gz"
        ) from error
    frames = sum(int(image.get("NumberOfFrames") or 1) for image in images)
    stated = frames, int(images[0].get("Rows") or 0), int(images[0].get("Columns") or 0)
    if shape != stated:
        raise WriteError(
            f"the mask is {' x '.join(map(str, shape))} and its DICOM source {' x '.join(map(str, stated))} "
            "(frames, rows, columns), as happens where frames state no positions",
            path=path,
            remedy="use .png or .tif",
        )
    order = np.arange(frames)
    if len(images) == 1:  # highdicom takes planes in the order of the file's frames
        order = np.argsort(frame_order(images[0], source))
    for image in images:
        if not image.get("SpecificCharacterSet"):  # highdicom refuses the empty value, which DICOM allows
            image.pop("SpecificCharacterSet", None)
    return images, order


def _described(number: int, name: str) -> Any:
    """What a segment is, in codes where the vocabulary has them."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    category = kind = codes.SCT.Tissue
    target = target_of(name)
    if target.snomed is not None:
        kind = hd.sr.CodedConcept(target.snomed, "SCT", _name_of_type(target)[:64])
        lesion = target.group == "lesion"
        category = codes.SCT.MorphologicallyAbnormalStructure if lesion else codes.SCT.AnatomicalStructure
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=long_string(name),
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="Vesalius", version=__version__, family=codes.cid7162.ArtificialIntelligence
        ),
    )
    if target.snomed is not None and target.laterality is not None:
        side = codes.SCT.Left if target.laterality == "left" else codes.SCT.Right
        coded = described.SegmentedPropertyTypeCodeSequence[0]
        coded.SegmentedPropertyTypeModifierCodeSequence = [
            hd.sr.CodedConcept(side.value, side.scheme_designator, side.meaning)
        ]
    return described


def _name_of_type(target: Target) -> str:
    """The name of a target without its side, which is coded apart, as its code has none."""
    side = target.laterality
    return target.name if side is None else target.name.removeprefix(f"{side} ")


def _write(temporary: Path, pixels: NDArray[Any], segments: Sequence[Any], images: list[Dataset], path: Path) -> None:
    """Writes (frames, rows, columns[, segments]) in the order of the images' frames."""
    import highdicom as hd

    if not segments or not pixels.any():
        raise WriteError("a DICOM segmentation cannot hold an empty mask", path=path, remedy="use .nii.gz")
    try:
        with decoding(path, "DICOM image that a segmentation can refer to"):
            segmentation = hd.seg.Segmentation(
                source_images=images,
                pixel_array=pixels,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=segments,
                series_instance_uid=hd.UID(),
                series_number=1000 + int(images[0].get("SeriesNumber") or 0),
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="Vesalius",
                manufacturer_model_name="Vesalius",
                software_versions=__version__,
                device_serial_number="0",
                specific_character_set="ISO_IR 192",  # UTF-8, whatever the names are written in
            )
            segmentation.save_as(temporary)
            hd.seg.segread(temporary)  # an incomplete source can make a file that no one can read again
    except VesaliusError as error:
        raise WriteError(
            f"no DICOM segmentation can be made of its source ({error.__cause__ or error})",
            path=path,
            remedy="use .nii.gz or .nrrd",
        ) from error


def read_segmentation(path: Path, geometry: Geometry | None, size: tuple[int, int]) -> NDArray[np.int64]:
    """Object numbers of a DICOM segmentation on the grid of an image.

    Args:
        path: The segmentation.
        geometry: Geometry of the image; None if it has none, and then the segmentation must have one frame.
        size: (height, width) of a slice of the image along z.

    Returns:
        (Z, Y, X) segment numbers, 0 outside.

    Raises:
        ReadError: It is no segmentation, or is damaged, or its segments overlap.
        GeometryError: Its frames lie on another grid.
    """
    labels = np.zeros((geometry.size[2] if geometry else 1, *size), np.int64)
    for segment in read_segments(path, geometry, size):
        for height, part in segment.planes.items():
            where = labels[height][part.where]
            if where[part.mask].any():
                raise ReadError("has segments that overlap", path=path, remedy="save each as a file of its own")
            where[part.mask] = segment.value
    return labels


def read_segments(
    path: Path,
    geometry: Geometry | None,
    size: tuple[int, int],
    image: Path | None = None,
    tolerance: float = 0.05,
) -> list[Region]:
    """The segments of a DICOM segmentation on the grid of an image; they may overlap.

    A segment is named by its label, or else by the meaning of its coded type. One that is tracked (it has a Tracking
    UID, DICOM PS3.3 C.8.20.2) is one object. A fractional segment is where its fraction is at least a half.

    Args:
        path: The segmentation.
        geometry: Geometry of the image; None if it has none, and then the segmentation shows one slice.
        size: (height, width) of a slice of the image along z.
        image: The image, as errors name it.
        tolerance: Largest distance of a frame's corners from those of the image's slice, in pixels.

    Returns:
        The segments in the order of the file.

    Raises:
        ReadError: It is no segmentation, or is damaged.
        GeometryError: Its frames lie on another grid.
    """
    dataset = load_file(path)
    if dataset.get("Modality") != "SEG":
        raise ReadError("is DICOM but no segmentation", path=path, remedy="give a DICOM SEG file")
    frames = int(dataset.get("NumberOfFrames") or 1)
    shape = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    check_shape((frames, *shape), path)
    if shape != size or (geometry is None and any(place_of(dataset, frame, "") for frame in range(frames))):
        raise GeometryError(
            f"has {frames} frames of {shape[1]} x {shape[0]} pixels, {image or 'its image'} is {size[1]} x {size[0]}",
            path=path,
            remedy="give the segmentation of this image",
        )
    heights = [_height(dataset, frame, geometry, path, image, tolerance) if geometry else 0 for frame in range(frames)]
    with decoding(path, "DICOM segmentation"):
        described = {int(about.SegmentNumber): about for about in dataset.SegmentSequence}
        found: dict[int, dict[int, CutOut]] = {number: {} for number in described}
        for frame, plane in enumerate(_frames(dataset, frames, shape)):
            height = heights[frame]
            for number, mask in _segments_of(dataset, frame, plane, path):
                if number not in found:
                    raise ReadError(f"does not describe segment {number}, which frame {frame + 1} shows", path=path)
                part = cut_out(mask)
                if part is None:
                    continue
                if height in found[number]:
                    raise ReadError(f"shows segment {number} twice in slice {height + 1}", path=path)
                found[number][height] = part
        return [
            Region(number, _label_of(about), found[number], one=bool(about.get("TrackingUID")))
            for number, about in described.items()
        ]


def _frames(dataset: Dataset, frames: int, shape: tuple[int, int]) -> Iterator[NDArray[Any]]:
    """The frames one by one, so that a long file is not unpacked at once."""
    if dataset.BitsAllocated != 1 or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from iter_pixels(dataset)
        return
    # pydicom (3.0) cannot take single frames that do not begin with a whole byte.
    content = np.frombuffer(dataset.PixelData, np.uint8)
    size = shape[0] * shape[1]
    for frame in range(frames):
        first = frame * size
        bits = np.unpackbits(content[first // 8 : -(-(first + size) // 8)], bitorder="little")
        yield bits[first % 8 : first % 8 + size].reshape(shape)


def _segments_of(
    dataset: Dataset, frame: int, plane: NDArray[Any], path: Path
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Numbers and masks of what a frame shows."""
    kind = dataset.get("SegmentationType", "BINARY")
    if kind == "LABELMAP":
        yield from ((int(number), plane == number) for number in np.unique(plane) if number)
        return
    segment = group_of(dataset, frame, "SegmentIdentificationSequence")
    if segment is None:
        raise ReadError(f"does not say which segment frame {frame + 1} shows", path=path)
    half = int(dataset.MaximumFractionalValue) / 2 if kind == "FRACTIONAL" else 0.5
    yield int(segment.ReferencedSegmentNumber), plane >= half


def _label_of(about: Dataset) -> str:
    label = str(about.get("SegmentLabel") or "").strip()
    if label:
        return label
    kinds = about.get("SegmentedPropertyTypeCodeSequence")
    return str(kinds[0].CodeMeaning).strip() if kinds else f"segment {about.SegmentNumber}"


def _height(dataset: Dataset, frame: int, geometry: Geometry, path: Path, image: Path | None, tolerance: float) -> int:
    """The index along z of a frame; GeometryError unless its pixels are those of the grid there."""
    place = place_of(dataset, frame, f"frame {frame + 1}")
    if place is None and geometry.size[2] == 1:
        return 0
    if place is not None:
        corners = np.array([[x, y] for x in (0, geometry.size[0] - 1) for y in (0, geometry.size[1] - 1)])
        steps = np.stack([place.row * place.spacing[1], place.column * place.spacing[0]])
        index = geometry.to_index(place.position + corners @ steps)
        height = round(float(index[0, 2]))
        aside, above = np.abs(index[:, :2] - corners).max(), np.abs(index[:, 2] - height).max()
        # Slices may lie a little off the regular grid that was made of them.
        if aside <= tolerance and above < 0.05 and 0 <= height < geometry.size[2]:
            return height
    raise GeometryError(
        f"frame {frame + 1} lies on another grid than {image or 'the image'}",
        path=path,
        remedy="give the segmentation of this image",
    )
