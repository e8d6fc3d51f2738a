"""Made DICOM series, segmentations and structure sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from vesalius.core.geometry import Geometry

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"


def structure_set(
    path: Path,
    geometry: Geometry,
    contours: dict[str, Sequence[Sequence[tuple[float, float, float]]]],
    *,
    kind: str = "CLOSED_PLANAR",
    series: str = "",
    frame: str = "1.2.3",
    first: int = 1,
    change: Callable[[Dataset], None] | None = None,
) -> Path:
    """Writes a structure set whose contours are given in voxels (x, y, z) of a grid."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = RTSTRUCT
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    reference = Dataset()
    reference.FrameOfReferenceUID = frame
    if series:
        study, own = Dataset(), Dataset()
        own.SeriesInstanceUID = series
        study.RTReferencedSeriesSequence = Items([own])
        reference.RTReferencedStudySequence = Items([study])
    dataset.ReferencedFrameOfReferenceSequence = Items([reference])
    regions, drawn = [], []
    for number, (name, polygons) in enumerate(contours.items(), first):
        region, outline = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        outline.ReferencedROINumber = number
        items = []
        for polygon in polygons:
            item = Dataset()
            item.ContourGeometricType = kind
            item.NumberOfContourPoints = len(polygon)
            item.ContourData = [f"{value:.6f}" for value in geometry.to_world(np.array(polygon)).ravel()]
            items.append(item)
        if items:
            outline.ContourSequence = Items(items)
        regions.append(region)
        drawn.append(outline)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Items(regions), Items(drawn)
    if change is not None:
        change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path


def made_series(folder: Path, count: int = 4, series: str | None = None, **tags: Any) -> str:
    """Writes a CT series of 20 x 24 pixels, whose stored values begin with the slice's number; returns its UID."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = series or generate_uid()
    for i in range(count):
        dataset = dcmread(get_testdata_file("CT_small.dcm"))
        pixels = dataset.pixel_array[:20, :24].copy()
        pixels[0, 0] = i
        dataset.Rows, dataset.Columns, dataset.PixelData = 20, 24, pixels.tobytes()
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = uid, "1.2.9", "1.2.3"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [-10, 20, 30 + 2.5 * i]
        dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.9], 2.5
        dataset.PatientID = "patient 7"
        for name, value in tags.items():
            if value is None:
                del dataset[name]
            else:
                setattr(dataset, name, value)
        dataset.save_as(folder / f"{folder.name}{count - i:03}.dcm")
    return uid


def made_film(path: Path, frames: NDArray[np.uint8], positions: Sequence[float] = ()) -> None:
    """Writes (N, Y, X) frames of one file, which state their positions along z, or none as ultrasound does."""
    dataset = dcmread(get_testdata_file("CT_small.dcm"))
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"):
        del dataset[name]
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.PixelSpacing = 7, 0, [1, 1]
    content = frames.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB"
    groups = []
    for z in positions:
        frame, place, turn = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient, turn.ImageOrientationPatient = [0, 0, z], [1, 0, 0, 0, 1, 0]
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = Items([place]), Items([turn])
        groups.append(frame)
    if groups:
        dataset.PerFrameFunctionalGroupsSequence = Items(groups)
    dataset.save_as(path)


def segmentation(
    path: Path,
    source: Path,
    masks: dict[str, NDArray[np.bool_]],
    *,
    kind: str = "BINARY",
    tracked: bool = False,
    change: Callable[[Dataset], None] | None = None,
) -> Path:
    """Writes a segmentation of the series in a folder, or of one file; masks are (Z, Y, X), or fractions."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    files = sorted(source.glob("*.dcm"), reverse=True) if source.is_dir() else [source]
    images = [dcmread(file) for file in files]
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
            tracking_uid=generate_uid() if tracked else None,
            tracking_id=str(number) if tracked else None,
        )
        for number, name in enumerate(masks, 1)
    ]
    pixels = np.stack(list(masks.values()), axis=-1)
    if kind == "LABELMAP":
        pixels = (pixels * np.arange(1, len(masks) + 1)).max(axis=-1)
    dataset = hd.seg.Segmentation(
        source_images=images,
        pixel_array=pixels.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="made",
        manufacturer_model_name="made",
        software_versions="1",
        device_serial_number="0",
        **({"max_fractional_value": 200} if kind == "FRACTIONAL" else {}),
    )
    if change is not None:
        change(dataset)
    dataset.save_as(path)
    return path
