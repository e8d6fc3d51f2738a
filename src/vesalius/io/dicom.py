"""DICOM: one file, or a folder with the files of one series, by pydicom."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels import (  # type: ignore[attr-defined]
    apply_color_lut,
    apply_modality_lut,
    get_decoder,
    pixel_array,
)

from vesalius.core.errors import GeometryError, ReadError
from vesalius.core.geometry import Geometry
from vesalius.io.grid import Grid, check_shape, choose_time, decoding
from vesalius.vocabulary.modalities import modality_name

Floats = NDArray[np.float64]

# What lies beside a series on discs and in exports and is plainly no image of it.
_BESIDE = re.compile(
    r"^\.|^(dicomdir|version|lockfile|thumbs\.db|desktop\.ini)$|\.(txt|xml|json|csv|md|html?|pdf|inf)$", re.IGNORECASE
)
_NOT_IMAGES = ("SEG", "RTDOSE")
# Positions in files are rounded; a missing slice shows as at least half a step.
_STEP_TOLERANCE = 0.05
_ANGLE_TOLERANCE = 1e-3


def read_file(path: Path, time: int | None) -> Grid:
    """Reads one DICOM file.

    Frames of a multi-frame file that state their positions make a volume; frames that do not (an ultrasound film)
    are time points.

    Raises:
        ReadError: It is not DICOM, is cut short, holds no image, or is compressed in a way nothing here decodes.
        GeometryError: Its frames do not make a regular volume.
    """
    # pydicom looks at a value only when it is asked for, and says then what is wrong with it.
    with decoding(path, "DICOM image"):
        return _read_file(path, time)


def _read_file(path: Path, time: int | None) -> Grid:
    dataset = load_file(path)
    if not _is_image(dataset, path):
        raise ReadError(
            f"is DICOM but no image ({_class_of(dataset)})", path=path, remedy="choose a file or series of images"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    size = _size(dataset)
    check_shape((frames, *size[::-1]), path)
    places = _places(dataset)
    if frames > 1 and not any(places):
        chosen = choose_time(frames, time, path)
        values = _pixels(dataset, path)[chosen : chosen + 1]
        _, geometry = _geometry([place_of(dataset, chosen, path.name, alone=True)], size, path, "frames")
    else:
        choose_time(1, time, path)
        order, geometry = _geometry(places, size, path, "frames")
        values = _pixels(dataset, path)[order]
    return Grid(values, geometry, modality_name(dataset.get("Modality")), picture=True)


def frame_order(dataset: Dataset, path: Path) -> list[int]:
    """The frames of one file in the order of the volume that ``read_file`` makes of them, which is not the file's."""
    return _geometry(_places(dataset), _size(dataset), path, "frames")[0]


def _places(dataset: Dataset) -> list[_Place | None]:
    frames = int(dataset.get("NumberOfFrames") or 1)
    return [place_of(dataset, frame, f"frame {frame + 1}", alone=frames == 1) for frame in range(frames)]


def read_series(folder: Path, time: int | None, files: Sequence[Path] | None = None) -> Grid:
    """Reads the DICOM series in a folder, its slices sorted by position along their normal; see ``load_series``.

    Args:
        folder: Where it lies.
        time: Time point to take of a file with several.
        files: Its files, where the folder holds more than it.

    Raises:
        ReadError: No DICOM images, a damaged one, or a file that is not DICOM.
        GeometryError: Several series, slices missing, doubled, or of different size, spacing or orientation.
    """
    images, geometry = load_series(folder, files)
    if len(images) == 1:
        return read_file(images[0][0], time)
    choose_time(1, time, folder)
    values = np.stack([_pixels(dataset, path)[0] for path, dataset in images])
    return Grid(values, geometry, modality_name(images[0][1].get("Modality")), picture=True)


def load_series(
    folder: Path, files: Sequence[Path] | None = None
) -> tuple[list[tuple[Path, Dataset]], Geometry | None]:
    """The files of the series in a folder (not in its subfolders) in the order of the volume, and its geometry.

    A DICOMDIR, hidden files, texts, and DICOM objects that are no images (structure sets, segmentations, doses,
    reports) are left aside; any other file that is not DICOM is an error. Errors as in ``read_series``.
    """
    with decoding(folder, "DICOM series"):
        return _load_series(folder, files)


def _load_series(folder: Path, files: Sequence[Path] | None) -> tuple[list[tuple[Path, Dataset]], Geometry | None]:
    if files is None:
        files = sorted(p for p in folder.iterdir() if p.is_file() and not _BESIDE.search(p.name))
    loaded = [(path, load_file(path)) for path in files]
    images = [(path, dataset) for path, dataset in loaded if _is_image(dataset, path)]
    if not images:
        raise ReadError("holds no DICOM images", path=folder, remedy="choose the folder with the files of one series")
    series = Counter(str(dataset.get("SeriesInstanceUID", "without UID")) for _, dataset in images)
    if len(series) > 1:
        found = ", ".join(f"{uid} ({count} files)" for uid, count in series.most_common(4))
        raise GeometryError(
            f"holds {len(series)} DICOM series: {found}{' …' if len(series) > 4 else ''}",
            path=folder,
            remedy="keep one series per folder",
        )
    if len(images) == 1:
        return images, None
    first_path, first = images[0]
    for path, dataset in images:
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise GeometryError(
                "is one of several multi-frame files of a series", path=path, remedy="read the files one by one"
            )
        for tag in ("Rows", "Columns", "SamplesPerPixel"):
            if dataset.get(tag) != first.get(tag):
                raise GeometryError(
                    f"has {tag} {dataset.get(tag)}, but {first_path.name} of the same series has {first.get(tag)}",
                    path=path,
                    remedy="keep slices of one size in the folder",
                )
    check_shape((len(images), *_size(first)[::-1]), folder)
    places = [place_of(dataset, 0, path.name) for path, dataset in images]
    order, geometry = _geometry(places, _size(first), folder, "slices")
    return [images[i] for i in order], geometry


@dataclass(frozen=True)
class Listed:
    """What a list of images needs to know of a DICOM image.

    Attributes:
        series: UID of its series.
        frames: How many it has.
        times: How many of these are time points: all, or 1 where they make one volume.
        patient: The patient's ID, or else the UID of the study; empty if it states neither.
    """

    series: str
    frames: int
    times: int
    patient: str


_LISTED = [
    "Columns",
    "Modality",
    "NumberOfFrames",
    "PatientID",
    "Rows",
    "SOPClassUID",
    "SeriesInstanceUID",
    "SpecificCharacterSet",
    "StudyInstanceUID",
]


def list_file(path: Path) -> Listed | None:
    """What the header of a file says, without its pixels; None if it is DICOM but no image, or not DICOM.

    Raises:
        ReadError: It is damaged, or called as DICOM files are and none.
    """
    with decoding(path, "DICOM file"):
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=_LISTED)
        except InvalidDicomError:
            if not path.suffix:
                return None
            header = dcmread(path, force=True, stop_before_pixels=True, specific_tags=_LISTED)
            if "Rows" not in header or "Columns" not in header:
                raise ReadError("is not a DICOM file", path=path, remedy="copy it again, or remove it") from None
        if "Rows" not in header:
            _check_class(header, path)
            return None
        if header.get("Modality") in _NOT_IMAGES:
            return None
        frames = int(header.get("NumberOfFrames") or 1)
        check_shape((frames, *_size(header)[::-1]), path)
        film = frames > 1 and not any(_places(dcmread(path, force=True, stop_before_pixels=True)))
        patient = str(header.get("PatientID") or header.get("StudyInstanceUID") or "").strip()
        return Listed(str(header.get("SeriesInstanceUID")), frames, frames if film else 1, patient)


def load_file(path: Path) -> Dataset:
    """The data set of a DICOM file, also of one without preamble; ReadError if it is none."""
    with decoding(path, "DICOM file"):
        try:
            return dcmread(path)
        except InvalidDicomError:
            # Files from before the standard's part 10 have no preamble; then the image tags must be there.
            dataset = dcmread(path, force=True)
            if "Rows" not in dataset or "Columns" not in dataset:
                raise ReadError(
                    "is not a DICOM file", path=path, remedy="remove it from the folder, or choose another file"
                ) from None
            return dataset


def long_string(text: str) -> str:
    """A text as DICOM's LO takes it (PS3.5 6.2): 64 characters, no control characters, no backslash, which divides."""
    return "".join(" " if letter == "\\" or not letter.isprintable() else letter for letter in text)[:64]


def _is_image(dataset: Dataset, path: Path) -> bool:
    """Whether it is an image; ReadError if its class is an image's but the pixels are not there."""
    if any(tag in dataset for tag in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return dataset.get("Modality") not in _NOT_IMAGES
    _check_class(dataset, path)
    return False


def _check_class(dataset: Dataset, path: Path) -> None:
    # A file cut short loses its last elements, the pixels among them; the class then still says what it was.
    if "Image Storage" in _class_of(dataset) or _class_of(dataset) == "unknown class":
        raise ReadError(
            f"is DICOM ({_class_of(dataset)}) without pixels, or is cut short", path=path, remedy="copy it again"
        )


def _class_of(dataset: Dataset) -> str:
    uid = dataset.get("SOPClassUID") or getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID")
    return str(uid.name) if uid else "unknown class"


def _size(dataset: Dataset) -> tuple[int, int]:
    """(columns, rows)."""
    return int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)


def _pixels(dataset: Dataset, path: Path) -> NDArray[Any]:
    """(frames, Y, X) grey values in the units of the rescale tags, or (frames, Y, X, 3) RGB."""
    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if syntax is None:
        raise ReadError("does not name its transfer syntax", path=path, remedy="convert it with a DICOM toolkit")
    if syntax.is_compressed:
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise ReadError(
                f"is compressed as {syntax.name}, which cannot be decoded here",
                path=path,
                remedy="decompress it first, for example with gdcmconv --raw",
            )
    with decoding(path, "DICOM image"):
        values = pixel_array(dataset)
        colours = int(dataset.get("SamplesPerPixel") or 1)
        kind = dataset.get("PhotometricInterpretation", "MONOCHROME2")
        if values.ndim == (2 if colours == 1 else 3):
            values = values[None]
        if kind == "PALETTE COLOR":
            values = apply_color_lut(values, dataset)
            return (values >> 8).astype(np.uint8) if values.dtype == np.uint16 else values
        if colours > 1:
            return values[..., :3]
        if kind == "MONOCHROME1":
            bits = int(dataset.BitsStored)
            values = (-1 - values) if dataset.PixelRepresentation else (values.dtype.type(2**bits - 1) - values)
        return np.stack([_rescaled(plane, dataset, frame) for frame, plane in enumerate(values)])


def _rescaled(plane: NDArray[Any], dataset: Dataset, frame: int) -> NDArray[Any]:
    if "ModalityLUTSequence" in dataset:
        return np.asarray(apply_modality_lut(plane, dataset))
    rescale = group_of(dataset, frame, "PixelValueTransformationSequence") or dataset
    slope, intercept = float(rescale.get("RescaleSlope", 1)), float(rescale.get("RescaleIntercept", 0))
    if (slope, intercept) == (1, 0):
        return plane
    if slope.is_integer() and intercept.is_integer() and plane.dtype.itemsize <= 2:
        whole = plane.astype(np.int32) * int(slope) + int(intercept)
        return whole.astype(np.int16) if np.abs(whole).max() < 2**15 else whole
    return (plane * slope + intercept).astype(np.float32)


def group_of(dataset: Dataset, frame: int, name: str) -> Dataset | None:
    """A functional group of an enhanced multi-frame file: the frame's own, or the one shared by all frames."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (*own[frame : frame + 1], *shared[:1]):
        if groups.get(name):
            found: Dataset = groups[name].value[0]
            return found
    return None


@dataclass(frozen=True, eq=False)
class _Place:
    """Where one slice or frame lies, in DICOM's terms (LPS, mm).

    Attributes:
        name: How to call it in an error.
        position: (3,) centre of the first pixel.
        row: (3,) unit vector along a row of pixels, so along x.
        column: (3,) unit vector along a column, so along y.
        spacing: (2,) distance between rows and between columns.
        thickness: Distance to the next slice as the tags state it, 0 if they do not.
    """

    name: str
    position: Floats
    row: Floats
    column: Floats
    spacing: Floats
    thickness: float

    @property
    def normal(self) -> Floats:
        return np.cross(self.row, self.column)


def place_of(dataset: Dataset, frame: int, name: str, alone: bool = False) -> _Place | None:
    """Where a frame lies, or None if its tags do not say so.

    A frame that is ``alone`` and states its pixel spacing but not where it lies (most X-ray) lies at the origin.
    """
    measures = group_of(dataset, frame, "PixelMeasuresSequence") or dataset
    plane = group_of(dataset, frame, "PlanePositionSequence") or dataset
    turn = group_of(dataset, frame, "PlaneOrientationSequence") or dataset
    position = _numbers(plane.get("ImagePositionPatient"), 3)
    orientation = _numbers(turn.get("ImageOrientationPatient"), 6)
    spacing = _numbers(measures.get("PixelSpacing"), 2)
    if spacing is None:
        return None
    if position is None or orientation is None:
        if not alone:
            return None
        position, orientation = np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    row, column = orientation[:3], orientation[3:]
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if abs(row @ column) > _ANGLE_TOLERANCE or max(abs(length - 1) for length in lengths) > _ANGLE_TOLERANCE:
        raise GeometryError(f"the orientation of {name} is not two perpendicular unit vectors", path=dataset.filename)
    if not (spacing > 0).all():
        raise GeometryError(f"the pixel spacing of {name} is not positive", path=dataset.filename)
    thickness = abs(float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0))
    return _Place(name, position, row / lengths[0], column / lengths[1], spacing, thickness)


def _numbers(values: Any, count: int) -> Floats | None:
    if values is None or isinstance(values, str) or len(values) != count:
        return None
    array = np.array([float(value) for value in values])
    return array if np.isfinite(array).all() else None


def _geometry(
    places: Sequence[_Place | None], size: tuple[int, int], path: Path, unit: str
) -> tuple[list[int], Geometry | None]:
    """The order of the slices along their normal, and the geometry of the volume they make.

    One slice takes its z spacing from Spacing Between Slices, else Slice Thickness, else 1 mm; one that states no
    pixel spacing has no geometry.
    """
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        if len(places) == 1:
            return [0], None
        raise GeometryError(
            f"{len(places) - len(known)} of {len(places)} {unit} state no position, orientation or pixel spacing",
            path=path,
            remedy="read the files one by one",
        )
    if len(known) == 1:
        order, step = [0], known[0].normal * (known[0].thickness or 1.0)
    else:
        order, step = _stack(known, path, unit)
    first = known[order[0]]
    thickness = float(np.linalg.norm(step))
    direction = np.stack([first.row, first.column, step / thickness], axis=1)
    geometry = Geometry(
        size=(size[0], size[1], len(known)),
        spacing=(float(first.spacing[1]), float(first.spacing[0]), thickness),
        origin=(float(first.position[0]), float(first.position[1]), float(first.position[2])),
        direction=tuple(float(value) for value in direction.ravel()),
    )
    return order, geometry


def _stack(places: Sequence[_Place], path: Path, unit: str) -> tuple[list[int], Floats]:
    """The order of slices along their normal and the step from one to the next; GeometryError if irregular."""
    first = places[0]
    for place in places:
        turned = np.abs([place.row - first.row, place.column - first.column]).max()
        if turned > _ANGLE_TOLERANCE:
            raise GeometryError(
                f"{place.name} has another orientation than {first.name}",
                path=path,
                remedy=f"keep parallel {unit} only (remove localisers)",
            )
        if np.abs(place.spacing - first.spacing).max() > 1e-3 * first.spacing.max():
            raise GeometryError(
                f"{place.name} has another pixel spacing than {first.name}", path=path, remedy=f"keep equal {unit} only"
            )
    heights = np.array([first.normal @ place.position for place in places])
    order = [int(i) for i in np.argsort(heights, kind="stable")]
    gaps = np.diff(heights[order])
    usual = float(np.median(gaps))
    for i, gap in enumerate(gaps):
        a, b = places[order[i]].name, places[order[i + 1]].name
        if gap < 1e-3:
            raise GeometryError(
                f"{a} and {b} lie at the same position, so these {unit} are not one volume",
                path=path,
                remedy="keep one time point, echo or copy",
            )
        if abs(gap - usual) > _STEP_TOLERANCE * usual:
            missing = f"{unit} are missing" if gap > usual else f"{unit} lie too close"
            raise GeometryError(
                f"{missing} between {a} and {b}: they are {gap:.4g} mm apart, the others {usual:.4g} mm",
                path=path,
                remedy="complete the series, or read the files one by one",
            )
    step = (places[order[-1]].position - places[order[0]].position) / (len(places) - 1)
    return order, step
