"""DICOM segmentations: written by highdicom, read for a mask on an image's grid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels import iter_pixels  # type: ignore[attr-defined]

from vesalius import __version__
from vesalius.core.errors import GeometryError, ReadError, VesaliusError, WriteError
from vesalius.core.geometry import Geometry
from vesalius.io.dicom import frame_order, group_of, load_file, load_series, place_of
from vesalius.io.grid import check_shape, decoding
from vesalius.io.regions import CutOut, Region, cut_out


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
    import highdicom as hd
    from pydicom.sr.codedict import codes

    if source is None:
        raise WriteError(
            "a DICOM segmentation needs an image that was read from DICOM", path=path, remedy="use .nii.gz"
        )
    try:
        images = [dataset for _, dataset in load_series(source)[0]] if source.is_dir() else [load_file(source)]
    except VesaliusError as error:
        raise WriteError(
            f"a DICOM segmentation needs the DICOM images it belongs to, but {error}", path=path, remedy="use .nii.gz"
        ) from error
    frames = sum(int(image.get("NumberOfFrames") or 1) for image in images)
    shape = frames, int(images[0].get("Rows") or 0), int(images[0].get("Columns") or 0)
    if labels.shape != shape:
        raise WriteError(
            f"the mask is {' x '.join(map(str, labels.shape))} and its DICOM source {' x '.join(map(str, shape))} "
            "(frames, rows, columns), as happens where frames state no positions",
            path=path,
            remedy="use .png or .tif",
        )
    if len(images) == 1:  # highdicom takes planes in the order of the file's frames
        labels = labels[np.argsort(frame_order(images[0], source))]
    for image in images:
        if not image.get("SpecificCharacterSet"):  # highdicom refuses the empty value, which DICOM allows
            image.pop("SpecificCharacterSet", None)
    if not labels.any():
        raise WriteError("a DICOM segmentation cannot hold an empty mask", path=path, remedy="use .nii.gz")
    algorithm = hd.AlgorithmIdentificationSequence(
        name="Vesalius", version=__version__, family=codes.cid7162.ArtificialIntelligence
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"object {number}",
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number in range(1, int(labels.max()) + 1)
    ]
    try:
        with decoding(source, "DICOM image that a segmentation can refer to"):
            segmentation = hd.seg.Segmentation(
                source_images=images,
                pixel_array=labels,
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
