"""DICOM structure sets: contours, filled on the slices of the series that they were drawn on, and written for them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from vesalius import __version__
from vesalius.core.errors import ReadError, WriteError
from vesalius.core.geometry import Geometry
from vesalius.io.dicom import load_file, long_string
from vesalius.io.grid import decoding
from vesalius.io.outlines import edges_of_mask
from vesalius.io.regions import CutOut, Region, cut_out

_log = logging.getLogger(__name__)

# Contours are areas if they are of these types (DICOM PS3.3 C.8.8.6.3).
_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# Coordinates are rounded; a contour this share of a slice away from it lies on no slice.
_SLICE_TOLERANCE = 0.1
# Detached Study Management SOP Class (retired), by which structure sets refer to their study (PS3.3 C.8.8.5).
_STUDY = "1.2.840.10008.3.1.2.3.1"


def read_structures(path: Path, geometry: Geometry, image: Path | None = None) -> list[Region]:
    """The regions of interest of a structure set on the voxels of a series.

    A voxel belongs to a region if its centre lies inside an odd number of the region's contours on its slice, so that
    a contour inside another is a hole. Contours that lie on no slice of the series, cross several, or are no areas are
    left out, and a warning counts them for each region.

    Args:
        path: The structure set.
        geometry: Of the series.
        image: The series, as warnings name it.

    Returns:
        The regions in the order of the file, valued by ROI Number, or by their place from 1 if a number is below 1.
        A region with no contour on the series is not among them.

    Raises:
        ReadError: It is no structure set, or is damaged.
    """
    dataset = load_structures(path)
    with decoding(path, "DICOM structure set"):
        names = {int(roi.ROINumber): str(roi.get("ROIName") or "").strip() for roi in dataset.StructureSetROISequence}
        contours = {int(roi.ReferencedROINumber): roi.get("ContourSequence") or [] for roi in _contours(dataset)}
        regions = []
        for place, (number, name) in enumerate(names.items(), 1):
            drawn = contours.get(number, [])
            planes, outside, others = _planes(drawn, geometry)
            if outside or others:
                _log.warning(
                    "%s: of the %d contours of %s, %d lie on no slice of %s and %d are no areas; they are left out",
                    path,
                    len(drawn),
                    name or f"ROI {number}",
                    outside,
                    image or "the series",
                    others,
                )
            if planes:
                value = number if min(names) > 0 else place
                regions.append(Region(value, name or f"ROI {number}", planes))
        return regions


def write_structures(
    temporary: Path,
    regions: Sequence[Region],
    geometry: Geometry,
    source: Path | None,
    path: Path,
    *,
    files: Sequence[Path] | None = None,
    colours: Sequence[tuple[int, int, int]] = (),
) -> None:
    """Writes a structure set whose contours run along the edges of pixels, so that reading gives the same masks.

    Contours of a region with holes are of the type CLOSEDPLANAR_XOR (DICOM PS3.3 C.8.8.6.3): a pixel is inside if an
    odd number of them is around it.

    Args:
        temporary: The file to write.
        regions: On the slices of the image along z; those that mark nothing are left out.
        geometry: Of the image.
        source: The DICOM file or series folder that the image was read from; it is read again.
        path: The output that errors name.
        files: The files of the series, where the folder holds more than it.
        colours: RGB of each region.

    Raises:
        WriteError: The source is not DICOM any more, no region marks anything, or the source lacks attributes.
    """
    from vesalius.io.dicom_seg import source_images

    images, order = source_images(source, geometry.size[::-1], path, "structure set", files)
    if not any(region.planes for region in regions):
        raise WriteError("a DICOM structure set cannot hold an empty mask", path=path, remedy="use .nii.gz")
    lacking = [name for name in ("FrameOfReferenceUID", "StudyInstanceUID") if not images[0].get(name)]
    if lacking:
        raise WriteError(f"its source has no {lacking[0]}", path=path, remedy="use .nii.gz or .nrrd")
    try:
        with decoding(path, "DICOM image that a structure set can refer to"):
            _structures(images, order, regions, geometry, colours).save_as(temporary, enforce_file_format=True)
    except ReadError as error:
        raise WriteError(
            f"no DICOM structure set can be made of its source ({error.__cause__ or error})",
            path=path,
            remedy="use .nii.gz or .nrrd",
        ) from error


def _structures(
    images: Sequence[Dataset],
    order: NDArray[np.int64],
    regions: Sequence[Region],
    geometry: Geometry,
    colours: Sequence[tuple[int, int, int]],
) -> Dataset:
    """The structure set of regions on images whose frames are the slices that ``order`` says."""
    pictures = []
    for frame in np.argsort(order):
        image = images[min(int(frame), len(images) - 1)]
        picture = Dataset()
        picture.ReferencedSOPClassUID, picture.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        if len(images) == 1 and len(order) > 1:
            picture.ReferencedFrameNumber = int(frame) + 1
        pictures.append(picture)
    dataset = _structure_set(images[0], pictures)
    structures, drawn, observed = [], [], []
    for number, region in enumerate([region for region in regions if region.planes], 1):
        structure, outline, observation = Dataset(), Dataset(), Dataset()
        structure.ROINumber, structure.ROIName = number, long_string(region.name)
        structure.ReferencedFrameOfReferenceUID = images[0].FrameOfReferenceUID
        structure.ROIGenerationAlgorithm = "SEMIAUTOMATIC"
        outline.ReferencedROINumber = number
        if len(colours) >= region.value:
            outline.ROIDisplayColor = list(colours[region.value - 1])
        outline.ContourSequence = _drawn(region, geometry, pictures)
        observation.ObservationNumber = observation.ReferencedROINumber = number
        observation.RTROIInterpretedType = observation.ROIInterpreter = ""
        structures.append(structure)
        drawn.append(outline)
        observed.append(observation)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Items(structures), Items(drawn)
    dataset.RTROIObservationsSequence = Items(observed)
    return dataset


def _structure_set(image: Dataset, pictures: Sequence[Dataset]) -> Dataset:
    """A structure set without regions, of the patient and study of an image, about the images of a series."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, whatever the names are written in
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    for name in (
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyID",
        "PositionReferenceIndicator",
    ):
        if name in image:
            dataset.add(image[name])  # as it is, even if it is longer than DICOM allows
        else:
            setattr(dataset, name, "")
    now = datetime.now()
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    dataset.SeriesNumber, dataset.InstanceNumber = 1000 + int(image.get("SeriesNumber") or 0), 1
    dataset.Manufacturer = dataset.ManufacturerModelName = "Vesalius"
    dataset.SoftwareVersions, dataset.OperatorsName = __version__, ""
    dataset.FrameOfReferenceUID = image.FrameOfReferenceUID
    dataset.StructureSetLabel = "Vesalius"
    dataset.StructureSetDate = dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.StructureSetTime = dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.ApprovalStatus = "UNAPPROVED"
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = image.SeriesInstanceUID
    series.ContourImageSequence = Items(pictures)
    study.ReferencedSOPClassUID = _STUDY
    study.ReferencedSOPInstanceUID = image.StudyInstanceUID
    study.RTReferencedSeriesSequence = Items([series])
    frame.FrameOfReferenceUID = image.FrameOfReferenceUID
    frame.RTReferencedStudySequence = Items([study])
    dataset.ReferencedFrameOfReferenceSequence = Items([frame])
    return dataset


def _drawn(region: Region, geometry: Geometry, pictures: Sequence[Dataset]) -> Items:
    """The contours of a region."""
    contours, holes = [], False
    for height, part in sorted(region.planes.items()):
        for loop in edges_of_mask(part.mask):
            x, y = loop.T
            # Around a hole it runs the other way.
            holes = holes or float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) < 0
            # Corners are counted from the outer edge of the first pixel, indices from its centre.
            corners = np.column_stack([x + part.left - 0.5, y + part.top - 0.5, np.full(len(loop), height)])
            contour = Dataset()
            contour.ContourImageSequence = Items([pictures[height]])
            contour.NumberOfContourPoints = len(loop)
            contour.ContourData = [f"{value:.6f}" for value in geometry.to_world(corners).ravel()]
            contours.append(contour)
    for contour in contours:
        contour.ContourGeometricType = "CLOSEDPLANAR_XOR" if holes else "CLOSED_PLANAR"
    return Items(contours)


def load_structures(path: Path) -> Dataset:
    """The data set of a structure set; ReadError if the file is none."""
    dataset = load_file(path)
    if dataset.get("Modality") != "RTSTRUCT" or "StructureSetROISequence" not in dataset:
        raise ReadError("is DICOM but no structure set", path=path, remedy="give a DICOM RTSTRUCT file")
    return dataset


def fill(contours: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres lie inside an odd number of polygons.

    Args:
        contours: (N, 2) corners (x, y) of each polygon, in pixels, with whole numbers at pixel centres.
        size: (height, width) of the image.

    Returns:
        (H, W) bool. Of pixels with their centre on an edge, those on the left and the top are inside.
    """
    height, width = size
    start = np.concatenate(contours)
    end = np.concatenate([np.roll(contour, -1, axis=0) for contour in contours])
    # An edge crosses the rows from its upper end to before its lower one, so that a corner is crossed once.
    down = start[:, 1] <= end[:, 1]
    upper, lower = np.where(down[:, None], start, end), np.where(down[:, None], end, start)
    first = np.clip(np.ceil(upper[:, 1]), 0, height).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1]), 0, height).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(start)), counts)
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
    crossings = upper[edge, 0] + (rows - upper[edge, 1]) * slope
    columns = np.clip(np.ceil(crossings), 0, width).astype(np.int64)
    crossed = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1)).reshape(height, width + 1)
    return np.asarray(np.cumsum(crossed, axis=1)[:, :width] % 2 == 1)


def _contours(dataset: Dataset) -> Sequence[Dataset]:
    found: Sequence[Dataset] = dataset.get("ROIContourSequence") or []
    return found


def _planes(contours: Sequence[Dataset], geometry: Geometry) -> tuple[dict[int, CutOut], int, int]:
    """What each slice has of a region, the number of contours on no slice, and of those that are no areas."""
    on_slice: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    outside = others = 0
    for contour in contours:
        points = np.array([float(value) for value in contour.ContourData]).reshape(-1, 3)
        if contour.get("ContourGeometricType") not in _AREAS or len(points) < 3:
            others += 1
            continue
        index = geometry.to_index(points)
        height = round(float(index[0, 2]))
        if not 0 <= height < geometry.size[2] or np.abs(index[:, 2] - height).max() > _SLICE_TOLERANCE:
            outside += 1
            continue
        on_slice[height].append(index[:, :2])
    planes = {}
    for height, drawn in sorted(on_slice.items()):
        part = cut_out(fill(drawn, (geometry.size[1], geometry.size[0])))
        if part is not None:
            planes[height] = part
    return planes, outside, others
