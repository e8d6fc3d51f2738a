from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

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
