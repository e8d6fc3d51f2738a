from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import nibabel.testing
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from vesalius import read_volume
from vesalius.core.errors import GeometryError, ReadError

VALUES = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)  # (x, y, z)


def _affine(*angles: float) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * [0.8, 1.5, 3.0]
    affine[:3, 3] = [5.0, -60.0, 70.0]
    return affine


def _data(name: str) -> Path:
    return Path(nibabel.testing.data_path) / name


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", "<f8", "<u4"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti(tmp_path: Path, suffix: str, dtype: str, kind: type) -> None:
    path, affine = tmp_path / f"a.{suffix}", _affine(10, 20, 30)
    image = kind(VALUES.astype(dtype), affine)
    image.header.set_data_dtype(dtype)
    nibabel.save(image, path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, VALUES.T)
    assert volume.voxels.dtype == np.dtype(dtype).newbyteorder("=")
    assert volume.voxels.dtype.isnative
    path.write_bytes(b"")  # the voxels are in memory, not mapped from the file
    np.testing.assert_array_equal(volume.voxels, VALUES.T)
    assert volume.geometry is not None
    assert volume.geometry.size == (4, 5, 6)
    np.testing.assert_allclose(volume.geometry.affine("RAS"), affine, atol=1e-5)


def test_nifti_scaling(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VALUES, np.eye(4))
    image.header.set_slope_inter(2.5, -100)
    # The raw header and bytes, as nibabel would otherwise rescale on saving.
    header = image.header.copy()
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = 2.5, -100, 352
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + VALUES.tobytes(order="F"))
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").voxels, VALUES.T * 2.5 - 100)


def test_sform_goes_before_qform(tmp_path: Path) -> None:
    sform, qform = _affine(10, 20, 30), _affine(-5, 0, 45)
    image = nibabel.Nifti1Image(VALUES, None)
    image.set_qform(qform, 1)
    image.set_sform(sform, 2)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").geometry.affine("RAS"), sform, atol=1e-5)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").geometry.affine("RAS"), qform, atol=1e-5)


def test_singular_affine(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VALUES, None)
    image.set_sform(np.diag([1.0, 0.0, 1.0, 1.0]), 1)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(GeometryError, match="singular"):
        read_volume(tmp_path / "a.nii")


def test_voxels_of_a_tenth_of_a_micrometre(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1e-4, 1e-4, 1e-4, 1])), tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").geometry.spacing, 1e-4)


def test_nibabels_own_files() -> None:
    volume = read_volume(_data("anatomical.nii"))
    image = nibabel.load(_data("anatomical.nii"))
    np.testing.assert_array_equal(volume.voxels, np.asanyarray(image.dataobj).T)
    np.testing.assert_allclose(volume.geometry.affine("RAS"), image.affine, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "count"), [("example4d.nii.gz", 2), ("functional.nii", 20), ("example_nifti2.nii.gz", 2)]
)
def test_time_points(name: str, count: int) -> None:
    with pytest.raises(ReadError, match=f"holds {count} time points and none was chosen"):
        read_volume(_data(name))
    with pytest.raises(ReadError, match=f"no time point {count}"):
        read_volume(_data(name), time=count)
    whole = np.asanyarray(nibabel.load(_data(name)).dataobj)
    for time in (0, count - 1):
        np.testing.assert_array_equal(read_volume(_data(name), time=time).voxels, whole[..., time].T)


def test_two_dimensional_nifti(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(VALUES[:, :, 0], np.eye(4)), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").voxels, VALUES[:, :, :1].T)


def test_colour_and_vector_voxels(tmp_path: Path) -> None:
    colour = np.zeros((4, 5, 6), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    colour["R"], colour["B"] = VALUES % 200, 7
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.voxels.shape == (6, 5, 4, 3)
    np.testing.assert_array_equal(volume.voxels[..., 0], VALUES.T % 200)
    assert volume.window == (0.0, 255.0)
    sitk.WriteImage(sitk.GetImageFromArray(volume.voxels, isVector=True), str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd").voxels, volume.voxels)
    field = np.zeros((4, 5, 6, 1, 3), np.float32)
    nibabel.save(nibabel.Nifti1Image(field, np.eye(4)), tmp_path / "field.nii")
    with pytest.raises(ReadError, match="3 values per voxel"):
        read_volume(tmp_path / "field.nii")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 5, 4, 2)), isVector=True), str(tmp_path / "field.mha"))
    with pytest.raises(ReadError, match="2 values per voxel"):
        read_volume(tmp_path / "field.mha")


@pytest.mark.parametrize("suffix", ["nrrd", "mha", "nhdr", "mhd"])
def test_itk(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(VALUES.T)
    image.SetSpacing((0.8, 1.5, 3.0))
    image.SetOrigin((5.0, -60.0, 70.0))
    image.SetDirection(Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix().ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / f"a.{suffix}"))
    volume = read_volume(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(volume.voxels, VALUES.T)
    assert volume.geometry.size == (4, 5, 6)
    assert volume.geometry.spacing == pytest.approx((0.8, 1.5, 3.0))
    assert volume.geometry.origin == pytest.approx((5, -60, 70))
    index = (3, 1, 4)
    np.testing.assert_allclose(
        volume.geometry.to_world(np.array(index)), image.TransformIndexToPhysicalPoint(index), atol=1e-6
    )


def test_itk_in_two_and_four_dimensions(tmp_path: Path) -> None:
    flat = sitk.GetImageFromArray(VALUES[:, :, 0].T)
    flat.SetSpacing((0.5, 0.25))
    sitk.WriteImage(flat, str(tmp_path / "a.nrrd"))
    volume = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(volume.voxels, VALUES[:, :, :1].T)
    assert volume.geometry.spacing == (0.5, 0.25, 1.0)
    films = sitk.JoinSeries([sitk.GetImageFromArray(VALUES.T + i) for i in range(3)])
    sitk.WriteImage(films, str(tmp_path / "b.nrrd"))
    with pytest.raises(ReadError, match="holds 3 time points"):
        read_volume(tmp_path / "b.nrrd")
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nrrd", time=2).voxels, VALUES.T + 2)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "zip.nrrd", "raw.nrrd", "zip.mha", "raw.mha"])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.97])
def test_truncated(tmp_path: Path, name: str, share: float, rng: np.random.Generator) -> None:
    path = tmp_path / name
    values = rng.integers(0, 1000, (20, 20, 20)).astype(np.int16)
    if "nii" in name:
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path), useCompression="zip" in name)
    read_volume(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ReadError, match="damaged or cut short") as caught:
        read_volume(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_absurd_size(tmp_path: Path, suffix: str) -> None:
    header = nibabel.Nifti1Header()
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["dim"][:4] = 3, 30000, 30000, 30000
    path = tmp_path / f"a.{suffix}"
    path.write_bytes((gzip.compress if suffix == "nii.gz" else bytes)(header.binaryblock + bytes(1000)))
    with pytest.raises(ReadError, match="claims 30000 x 30000 x 30000"):
        read_volume(path)


def test_absurd_size_of_nrrd(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 30000 30000 30000\nendian: little\nencoding: raw\n\n"
        + bytes(1000)
    )
    with pytest.raises(ReadError, match="claims 30000 x 30000 x 30000"):
        read_volume(tmp_path / "a.nrrd")


def test_analyze_is_named(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(VALUES, np.eye(4)), tmp_path / "a.img")
    with pytest.raises(ReadError, match="is not a NIfTI file"):
        read_volume(tmp_path / "a.img")


def test_itk_warnings_stay_inside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\ntype: short\ndimension: 9\n\n")
    with pytest.raises(ReadError):
        read_volume(tmp_path / "a.nrrd")
    assert capfd.readouterr() == ("", "")
    assert sitk.ProcessObject.GetGlobalWarningDisplay()
