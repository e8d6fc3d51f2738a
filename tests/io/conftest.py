from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid

# Two unit vectors that are not along the axes: a tilted patient.
OBLIQUE = [0.8, 0.6, 0.0, -0.36, 0.48, 0.8]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def make_series(tmp_path: Path) -> Callable[..., Path]:
    """A folder with a CT series of slices along their normal, whose stored values begin with the slice's number."""

    def make(count: int = 5, step: float = 2.5, orientation: Any = OBLIQUE, **tags: Any) -> Path:
        folder = tmp_path / "series"
        folder.mkdir(exist_ok=True)
        uid = generate_uid()
        normal = np.cross(orientation[:3], orientation[3:])
        for i in range(count):
            dataset = dcmread(get_testdata_file("CT_small.dcm"))
            pixels = dataset.pixel_array[:20, :24].copy()
            pixels[0, 0] = i
            dataset.Rows, dataset.Columns, dataset.PixelData = 20, 24, pixels.tobytes()
            dataset.SeriesInstanceUID = uid
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            dataset.ImageOrientationPatient = list(orientation)
            dataset.ImagePositionPatient = [float(v) for v in np.array([-10.0, 20.0, 30.0]) + normal * step * i]
            dataset.PixelSpacing, dataset.SpacingBetweenSlices = [0.7, 0.9], step
            for name, value in tags.items():
                setattr(dataset, name, value)
            # File names run against the positions, so sorting by name would be wrong.
            dataset.save_as(folder / f"{count - i:03}.dcm")
        return folder

    return make


@pytest.fixture
def make_multiframe() -> Callable[[Path, list[float], list[float]], Path]:
    """A multi-frame CT whose frames state their positions in functional groups."""

    def make(path: Path, positions: list[float], slopes: list[float]) -> Path:
        source = dcmread(get_testdata_file("CT_small.dcm"))
        pixels = source.pixel_array[:20, :24]
        frames = np.stack([pixels + i for i in range(len(positions))])
        source.Rows, source.Columns, source.NumberOfFrames = 20, 24, len(positions)
        source.PixelData = frames.astype(np.int16).tobytes()
        source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.1")
        source.SOPInstanceUID = generate_uid()
        for tag in (
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "RescaleSlope",
            "RescaleIntercept",
        ):
            del source[tag]
        shared, measures, turn = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = [0.7, 0.9], 2
        turn.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([turn])
        source.SharedFunctionalGroupsSequence = Sequence([shared])
        groups = []
        for z, slope in zip(positions, slopes, strict=True):
            frame, place, rescale = Dataset(), Dataset(), Dataset()
            place.ImagePositionPatient = [1, 2, z]
            rescale.RescaleSlope, rescale.RescaleIntercept = slope, 5
            frame.PlanePositionSequence = Sequence([place])
            frame.PixelValueTransformationSequence = Sequence([rescale])
            groups.append(frame)
        source.PerFrameFunctionalGroupsSequence = Sequence(groups)
        source.save_as(path)
        return path

    return make
