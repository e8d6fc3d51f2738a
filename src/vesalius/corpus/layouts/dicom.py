"""DICOM: series with their segmentations (SEG) and structure sets (RTSTRUCT), wherever they lie below the root.

A label file belongs to the series that it names, or, where it names none, to the one series of its frame of reference.
A file that states no position (most X-ray, a multi-frame file) is an image of its own. The case is the patient's ID,
else the study. Images without labels are listed too.

Files that are DICOM by their suffix alone, and label files whose series is not there, are entries that cannot be read,
so that they are rejected with their reason and not lost. Other objects (reports, doses, plans) are left aside.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vesalius.core.errors import GeometryError, ReadError, WriteError
from vesalius.corpus.layers import pack
from vesalius.corpus.layouts.support import (
    case_of,
    dataset_name,
    eight_bits,
    matching,
    target_name,
    writing,
    written_name,
)
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, Layer, Scan
from vesalius.corpus.sorting import SortedRows
from vesalius.vocabulary.modalities import DICOM_MODALITIES, find_modality, modality_name

if TYPE_CHECKING:
    from pydicom import Dataset

_log = logging.getLogger(__name__)

_SUFFIXES = (".dcm", ".dicom", ".ima")
_LABELS = ("SEG", "RTSTRUCT")
# Largest distance between the corners of a segmentation's frame and its image's slice, in pixels.
_TOLERANCE = 1e-4


# The files of one image: the parts of their folder's path, their series, and the name of a file that is an image of its
# own.
_Group = tuple[tuple[str, ...], str, str]


@dataclass(frozen=True)
class _Header:
    """What the header of a file says.

    Attributes:
        path: The file.
        kind: Its modality, as DICOM codes it.
        image: Whether it is an image (and neither a label nor anything else).
        series: UID of its series.
        instance: UID of its own.
        frame: UID of its frame of reference.
        case: Patient or study.
        placed: Whether it states its position.
        references: UIDs of the series that it names.
        instances: UIDs of the images that it names.
    """

    path: Path
    kind: str
    image: bool
    series: str
    instance: str
    frame: str
    case: str
    placed: bool
    references: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Image:
    """The files of one image.

    Attributes:
        group: What they have in common.
        first: Header of the first.
        names: Their names.
        alone: Whether their folder holds no other image.
    """

    group: _Group
    first: _Header
    names: tuple[str, ...]
    alone: bool


def find(dataset: DatasetRecipe, root: Path) -> Iterator[Entry]:
    """Lists the series below ``root`` by reading the headers of all DICOM files.

    Raises:
        ReadError: A case cannot be found.
    """
    headers: SortedRows[_Header] = SortedRows()
    labels: SortedRows[_Header] = SortedRows()
    for path, header in _headers(root):
        if header is None:
            yield _problem(dataset, root, path, "is not a DICOM file, or is damaged or cut short")
        elif header.image:
            headers.add((path.parent.parts, header.series, "" if header.placed else path.name), header)
        elif header.kind in _LABELS:
            labels.add(path.parts, header)
    # Labels, then images, of each series and of each frame of reference; and whether each label belongs anywhere.
    ends: SortedRows[_Header | _Image] = SortedRows()
    belongs: SortedRows[Path] = SortedRows()
    for _, header in labels:
        for end in _ends(header):
            ends.add((end, False), header)
        belongs.add((header.path.parts, True), header.path)
    found: SortedRows[_Image | Path] = SortedRows()
    for image in _images(headers):
        found.add((image.group, False), image)
        ends.add((("series", image.first.series), True), image)
        if image.first.frame:
            ends.add((("frame", image.first.frame), True), image)
    for label, group in _pairs(ends):
        found.add((group, True), label)
        belongs.add((label.parts, False), label)
    for _, rows in groupby(found, key=lambda row: row[0][0]):
        both = [row for _, row in rows]
        image = next(row for row in both if isinstance(row, _Image))
        paths = (row for row in both if isinstance(row, Path))
        folder = image.first.path.parent
        named = folder if image.alone and folder != root else image.first.path
        yield Entry(
            name=_name(named, root),
            case=case_of(dataset, image.first.path, root, image.first.case or _name(named, root)),
            image=image.first.path if len(image.names) == 1 else folder,
            labels=tuple(sorted(paths, key=lambda path: path.parts)),
            extra={"files": list(image.names), "modality": modality_name(image.first.kind)},
        )
    for _, rows in groupby(belongs, key=lambda row: row[0][0]):
        (_, unmatched), path = next(rows)
        if unmatched:
            yield _problem(dataset, root, path, "its series of images is not there, or is not the only one it fits")


def read(entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
    """Reads a series and its labels; regions that overlap lie in several layers.

    Raises:
        ReadError: A file is damaged.
        GeometryError: The series makes no volume, or a segmentation lies on another grid.
    """
    from vesalius.io.dicom import read_file, read_series
    from vesalius.io.read import volume_of

    files = entry.extra["files"]
    if len(files) == 1:
        grid = read_file(entry.image, None)
    else:
        grid = read_series(entry.image, None, [entry.image / name for name in files])
    volume = volume_of(grid, entry.image, modality=entry.extra["modality"] or dataset.modality)
    layers = [layer for path in entry.labels for layer in _layers(path, entry, dataset, volume.geometry, grid.values)]
    yield Scan(entry.name, volume, tuple(layers))


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder that has a DICOM file below it."""
    if any(_is_dicom(path) for path in _candidates(folder)):
        return DatasetRecipe(name=dataset_name(folder), layout="dicom", root=folder)
    return None


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:
    """Writes each image as a Secondary Capture of 8 bits with a segmentation of one segment per object.

    The image states its pixel spacing where it is known, and no position: a slice that was cut from a volume, and
    perhaps resampled, is not claimed to lie anywhere. A segment's label is the target's name and it is tracked, which
    marks it as one object. An image without objects has no segmentation, since none can be empty. Splits have no place
    in this layout.

    Raises:
        WriteError: The folder holds something or cannot be written, two images have one name, or a name of a target
            is longer than DICOM's 64 characters.
    """
    with writing(folder) as part:
        for image in images:
            place = part / written_name(image)
            if place.exists():
                raise WriteError(f"two images are named {place.name}", path=folder, remedy="give each its own name")
            place.mkdir()
            captured = _capture(image, name)
            captured.save_as(place / "image.dcm", enforce_file_format=True)
            if any(mask.mask.any() for mask in image.masks):
                _segmentation(place / "image.dcm", image, folder).save_as(place / "seg.dcm")


def _layers(
    path: Path, entry: Entry, dataset: DatasetRecipe, geometry: Any, values: np.ndarray[Any, Any]
) -> tuple[Layer, ...]:
    """The layers of one label file."""
    from vesalius.io.dicom import load_file
    from vesalius.io.dicom_seg import read_segments
    from vesalius.io.regions import Region
    from vesalius.io.rtstruct import read_structures

    slices, height, width = values.shape[:3]
    if load_file(path).get("Modality") == "SEG":
        regions = read_segments(path, geometry, (height, width), entry.image, _TOLERANCE)
    elif geometry is None:
        raise GeometryError(
            f"has contours in mm, but {entry.image} states no pixel spacing", path=path, remedy="leave it out"
        )
    else:
        regions = read_structures(path, geometry, entry.image)
    named = [Region(r.value, target_name(dataset, r.value, r.name), r.planes, r.one) for r in regions]
    return pack(named, (slices, height, width))


def _headers(root: Path) -> Iterator[tuple[Path, _Header | None]]:
    """DICOM files in the order of their paths, with their headers; None for files that should be DICOM and are not."""
    others = 0
    for path in _candidates(root):
        header = _header(path)
        if header is not None or path.suffix.lower() in _SUFFIXES or _is_dicom(path):
            yield path, header
        else:
            others += 1
    if others:
        _log.info("%s: %d files are not DICOM and are left aside", root, others)


def _header(path: Path) -> _Header | None:
    """What a file's header says; None if it is not DICOM or is damaged."""
    from pydicom import dcmread

    from vesalius.io.grid import decoding

    tags = [
        "SOPClassUID",
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "StudyInstanceUID",
        "PatientID",
        "Modality",
        "FrameOfReferenceUID",
        "ImagePositionPatient",
        "Rows",
        "ReferencedSeriesSequence",
        "ReferencedFrameOfReferenceSequence",
    ]
    if path.suffix.lower() not in _SUFFIXES and not _is_dicom(path):
        return None
    try:
        with decoding(path, "DICOM file"):
            # Files from before the standard's part 10 have no preamble.
            dataset = dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
            if "SOPClassUID" not in dataset and "Rows" not in dataset:
                return None
            kind = str(dataset.get("Modality") or "")
            series = list(dataset.get("ReferencedSeriesSequence") or [])
            instances = [item for one in series for item in one.get("ReferencedInstanceSequence") or []]
            frame = str(dataset.get("FrameOfReferenceUID") or "")
            for reference in dataset.get("ReferencedFrameOfReferenceSequence") or []:
                frame = frame or str(reference.get("FrameOfReferenceUID") or "")
                for study in reference.get("RTReferencedStudySequence") or []:
                    series += study.get("RTReferencedSeriesSequence") or []
            return _Header(
                path=path,
                kind=kind,
                image="Rows" in dataset and kind not in (*_LABELS, "RTDOSE"),
                series=str(dataset.get("SeriesInstanceUID") or ""),
                instance=str(dataset.get("SOPInstanceUID") or ""),
                frame=frame,
                case=str(dataset.get("PatientID") or dataset.get("StudyInstanceUID") or "").strip(),
                placed=bool(dataset.get("ImagePositionPatient")),
                references=tuple(str(one.SeriesInstanceUID) for one in series),
                instances=tuple(str(one.ReferencedSOPInstanceUID) for one in instances),
            )
    except ReadError:
        return None


def _candidates(folder: Path) -> Iterator[Path]:
    """Files below a folder that may be DICOM: by their suffix, without one, or named by a UID (``1.2.840.5``)."""
    for _, path in SortedRows((path.parts, path) for path in matching(folder, "**/*")):
        suffix = path.suffix.lower()
        beside = path.name.startswith(".") or path.name.upper() == "DICOMDIR"
        if not beside and (suffix in _SUFFIXES or re.fullmatch(r"|\.\d+", suffix)) and path.is_file():
            yield path


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _ends(label: _Header) -> list[tuple[str, str]]:
    """What may tie a label file to an image: the series that it names, or else its frame of reference."""
    if label.references:
        return [("series", uid) for uid in dict.fromkeys(label.references)]
    return [("frame", label.frame)] if label.frame else []


def _images(headers: Iterable[tuple[_Group, _Header]]) -> Iterator[_Image]:
    """Images from the headers of their files in order."""
    before: _Image | None = None
    for group, rows in groupby(headers, key=itemgetter(0)):
        first, *others = (header for _, header in rows)
        image = _Image(group, first, (first.path.name, *(header.path.name for header in others)), alone=True)
        if before is not None:
            crowded = before.group[0] == group[0]
            yield replace(before, alone=before.alone and not crowded)
            image = replace(image, alone=not crowded)
        before = image
    if before is not None:
        yield before


def _pairs(ends: Iterable[tuple[Any, _Header | _Image]]) -> Iterator[tuple[Path, _Group]]:
    """Label files and the images that they were drawn on, from the labels and then the images of each UID."""
    for (kind, _), rows in groupby(ends, key=lambda row: row[0][0]):
        both = [row for _, row in rows]
        labels = [row for row in both if isinstance(row, _Header)]
        images = [row for row in both if isinstance(row, _Image)]
        # A frame of reference decides only where it has one image.
        if kind == "frame" and len(images) > 1:
            continue
        for label, image in product(labels, images):
            # Of images of one series that lie in no common frame, a label means those that it names.
            if kind == "frame" or not image.group[2] or not label.instances or image.first.instance in label.instances:
                yield label.path, image.group


def _problem(dataset: DatasetRecipe, root: Path, path: Path, problem: str) -> Entry:
    """A file that is rejected with its reason."""
    name = _name(path, root)
    return Entry(name, case_of(dataset, path, root, name), path, extra={"problem": problem})


def _name(path: Path, root: Path) -> str:
    """A file or folder below ``root`` as one name; of a file without the suffixes that mean DICOM."""
    relative = path.relative_to(root).as_posix()
    stem = relative[: -len(path.suffix)] if path.suffix.lower() in _SUFFIXES else relative
    return re.sub(r"[\s/]+", "_", stem)


def _capture(image: LabelledImage, name: str) -> Dataset:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    pixels = eight_bits(image.image)
    key = written_name(image)
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    # The same image has the same UIDs in every export.
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name, key, "image"])
    found.SeriesInstanceUID = generate_uid(entropy_srcs=[name, key, "series"])
    found.StudyInstanceUID = generate_uid(entropy_srcs=[name, image.case, "study"])
    found.SpecificCharacterSet = "ISO_IR 192"
    found.PatientID = _patient(image.case)
    for tag in (
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "StudyID",
    ):
        setattr(found, tag, "")
    found.ReferringPhysicianName = found.PatientOrientation = ""
    found.Modality = _code(image.modality)
    found.SeriesDescription = key[-64:]
    found.SeriesNumber = found.InstanceNumber = 1
    found.ConversionType = "WSD"
    found.ImageType = ["DERIVED", "SECONDARY"]
    if image.image.spacing is not None:
        found.PixelSpacing = [f"{step:.10g}" for step in image.image.spacing]
    found.Rows, found.Columns = pixels.shape[:2]
    found.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    found.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        found.PlanarConfiguration = 0
    found.BitsAllocated = found.BitsStored = 8
    found.HighBit, found.PixelRepresentation = 7, 0
    content = np.ascontiguousarray(pixels).tobytes()
    found.PixelData = content + b"\0" * (len(content) % 2)
    return found


def _patient(case: str) -> str:
    """A case as patient's ID, which has 64 characters and no backslash."""
    if len(case) <= 64 and "\\" not in case:
        return case
    return f"{case[:47]}-{hashlib.sha256(case.encode()).hexdigest()[:16]}".replace("\\", "_")


def _code(modality: str) -> str:
    """DICOM's code of a modality, or of what it is a kind of; OT (other) where there is none."""
    codes = {name: code for code, name in reversed(DICOM_MODALITIES.items())}
    known = find_modality(modality)
    return next((codes[name] for name in (known.lineage if known else ()) if name in codes), "OT")


def _segmentation(path: Path, image: LabelledImage, folder: Path) -> Any:
    import highdicom as hd
    from pydicom import dcmread
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    from vesalius import __version__
    from vesalius.io.grid import decoding

    source = dcmread(path)
    masks = [mask for mask in image.masks if mask.mask.any()]
    long: Sequence[str] = [mask.target for mask in masks if len(mask.target) > 64 or "\\" in mask.target]
    if long:
        raise WriteError(f"DICOM cannot hold the name {long[0]!r}", path=folder, remedy="shorten it to 64 characters")
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=mask.target,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=(
                hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC if mask.pseudo else hd.seg.SegmentAlgorithmTypeValues.MANUAL
            ),
            algorithm_identification=(
                hd.AlgorithmIdentificationSequence(
                    name="Vesalius", version=__version__, family=codes.cid7162.ArtificialIntelligence
                )
                if mask.pseudo
                else None
            ),
            tracking_uid=generate_uid(entropy_srcs=[source.SOPInstanceUID, str(number)]),
            tracking_id=f"{mask.target} {mask.instance}",
        )
        for number, mask in enumerate(masks, 1)
    ]
    with decoding(path, "DICOM image that a segmentation can refer to"):
        return hd.seg.Segmentation(
            source_images=[source],
            pixel_array=np.stack([mask.mask for mask in masks], axis=-1)[None].astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=generate_uid(entropy_srcs=[source.SeriesInstanceUID, "segmentation"]),
            series_number=2,
            sop_instance_uid=generate_uid(entropy_srcs=[source.SOPInstanceUID, "segmentation"]),
            instance_number=1,
            manufacturer="Vesalius",
            manufacturer_model_name="Vesalius",
            software_versions=__version__,
            device_serial_number="0",
        )
