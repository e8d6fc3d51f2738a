from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from vesalius import read_slice, read_volume
from vesalius.core.errors import ConfigError, GeometryError, ReadError


def _nifti(path: Path, values: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for name in ("no.png", "no.nii.gz", "no.nrrd", "no.dcm", "no/deeper.tif"):
        with pytest.raises(ReadError, match="there is no such file") as caught:
            read_volume(tmp_path / name)
        assert name.split("/")[-1] in str(caught.value)
    with pytest.raises(ReadError, match="holds no DICOM images"):
        read_volume(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    for name in ("a.png", "a.nii", "a.dcm"):
        (tmp_path / name).touch()
        with pytest.raises(ReadError, match="is an empty file"):
            read_volume(tmp_path / name)


@pytest.mark.skipif(os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root may read all")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(ReadError, match="permission denied"):
        read_volume(path)


def test_nan(tmp_path: Path) -> None:
    values = np.full((4, 5, 6), np.nan, np.float32)
    with pytest.raises(ReadError, match="only NaN"):
        read_volume(_nifti(tmp_path / "a.nii", values))
    values[:] = np.arange(6)
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    with pytest.raises(ReadError, match=r"3 NaN or infinite values \(2.5 %\)"):
        read_volume(_nifti(tmp_path / "a.nii", values))


def test_constant(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="constant: every pixel is 7"):
        read_volume(_nifti(tmp_path / "a.nii", np.full((4, 5, 6), 7, np.int16)))
    Image.new("RGB", (8, 9), (1, 2, 3)).save(tmp_path / "a.png")
    with pytest.raises(ReadError, match="every pixel is 1, 2, 3"):
        read_volume(tmp_path / "a.png")
    # Only its alpha differs, and that is all black.
    Image.fromarray(np.dstack([np.zeros((8, 9, 3), np.uint8), np.arange(72, dtype=np.uint8).reshape(8, 9)])).save(
        tmp_path / "b.png"
    )
    with pytest.raises(ReadError, match="constant"):
        read_volume(tmp_path / "b.png")


def test_a_constant_slice_of_a_volume_is_fine(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 6), np.int16)
    values[:, :, 3] = np.arange(20).reshape(4, 5)
    path = _nifti(tmp_path / "a.nii", values)
    assert not read_slice(path, index=0).pixels.any()
    np.testing.assert_array_equal(read_slice(path, index=3).pixels, values[:, :, 3].T)


def test_zero_size(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    header = nibabel.Nifti1Header()
    header.set_data_shape((4, 0, 6))
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(header.binaryblock + bytes(4))
    with pytest.raises(ReadError, match="holds no pixels"):
        read_volume(path)


def test_complex_values(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="complex64, which are not grey values"):
        read_volume(_nifti(tmp_path / "a.nii", np.ones((2, 3, 4), np.complex64)))


def test_slices(tmp_path: Path) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / "a.nii")
    path = tmp_path / "a.nii"
    for axis, plane, spacing in (
        ("x", values[2].T, (3, 2)),
        ("y", values[:, 2].T, (3, 1)),
        ("z", values[:, :, 2].T, (2, 1)),
    ):
        image = read_slice(path, axis=axis, index=2)
        np.testing.assert_array_equal(image.pixels, plane)
        assert image.spacing == spacing
        assert (image.axis, image.index, image.source) == (axis, 2, path)
    with pytest.raises(GeometryError, match="6 slices along z and none was chosen"):
        read_slice(path)
    with pytest.raises(GeometryError, match="slice 6 along z is outside 0 to 5"):
        read_slice(path, index=6)
    with pytest.raises(GeometryError, match="no axis 'w'"):
        read_slice(path, axis="w", index=0)


def test_window_and_modality(tmp_path: Path) -> None:
    values = np.arange(-60, 60, dtype=np.int16).reshape(4, 5, 6)
    path = _nifti(tmp_path / "a.nii", values)
    assert read_volume(path).modality is None
    volume = read_volume(path, modality="CT")
    assert (volume.modality, volume.window) == ("ct", (-160.0, 240.0))
    assert read_volume(path, modality="ct", window="lung").window == (-910.0, 590.0)
    assert read_volume(path, window=(40, 80)).window == (0.0, 80.0)
    with pytest.raises(ConfigError, match="no window 'liver'"):
        read_volume(path, window="liver")
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3)).save(tmp_path / "a.png")
    with pytest.raises(ReadError, match="takes no grey window"):
        read_volume(tmp_path / "a.png", window="lung")


def test_time_of_what_has_none(tmp_path: Path) -> None:
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).save(tmp_path / "a.png")
    read_volume(tmp_path / "a.png", time=0)
    for path in (tmp_path / "a.png", get_testdata_file("CT_small.dcm")):
        with pytest.raises(ReadError, match="no time point 1"):
            read_volume(path, time=1)


def test_reading_leaves_warnings_and_loggers_alone(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("no")
    levels = {name: logging.getLogger(name).level for name in ("pydicom", "nibabel.global", "PIL")}
    filters = list(warnings.filters)
    with pytest.raises(ReadError):
        read_volume(tmp_path / "a.nii")
    assert warnings.filters == filters
    assert levels == {name: logging.getLogger(name).level for name in levels}
