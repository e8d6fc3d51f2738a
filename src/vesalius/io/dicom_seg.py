"""DICOM segmentations: written by highdicom, read for a mask on an image's grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from vesalius import __version__
from vesalius.core.errors import GeometryError, ReadError, VesaliusError, WriteError
from vesalius.core.geometry import Geometry
from vesalius.io.dicom import frame_order, group_of, load_file, load_series, place_of
from vesalius.io.grid import check_shape, decoding


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
    dataset = load_file(path)
    if dataset.get("Modality") != "SEG":
        raise ReadError("is DICOM but no segmentation", path=path, remedy="give a DICOM SEG file")
    frames = int(dataset.get("NumberOfFrames") or 1)
    check_shape((frames, int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)), path)
    with decoding(path, "DICOM segmentation"):
        planes = dataset.pixel_array.reshape(frames, dataset.Rows, dataset.Columns) > 0
    if planes.shape[1:] != size or (geometry is None and frames > 1):
        raise GeometryError(
            f"has {frames} frames of {planes.shape[2]} x {planes.shape[1]} pixels, its image is {size[1]} x {size[0]}",
            path=path,
            remedy="give the segmentation of this image",
        )
    labels = np.zeros((geometry.size[2] if geometry else 1, *size), np.int64)
    for frame, plane in enumerate(planes):
        where = labels[_height(dataset, frame, geometry, path) if geometry else 0]
        if (where[plane] > 0).any():
            raise ReadError("has segments that overlap", path=path, remedy="save each as a file of its own")
        segment = group_of(dataset, frame, "SegmentIdentificationSequence")
        if segment is None:
            raise ReadError(f"does not say which segment frame {frame + 1} shows", path=path)
        where[plane] = int(segment.ReferencedSegmentNumber)
    return labels


def _height(dataset: Dataset, frame: int, geometry: Geometry, path: Path) -> int:
    """The index along z of a frame; GeometryError unless its pixels are those of the grid there."""
    place = place_of(dataset, frame, f"frame {frame + 1}")
    if place is None and geometry.size[2] == 1:
        return 0
    if place is not None:
        matrix = geometry.affine()[:3, :3]
        index = geometry.to_index(place.position)
        height = round(float(index[2]))
        sides = np.stack([place.row * place.spacing[1], place.column * place.spacing[0]], axis=1)
        same = np.abs(index - [0, 0, height]).max() < 0.05 and np.abs(sides - matrix[:, :2]).max() < 1e-3
        if same and 0 <= height < geometry.size[2]:
            return height
    raise GeometryError(
        f"frame {frame + 1} lies on another grid than the image",
        path=path,
        remedy="give the segmentation of this image",
    )
