from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import highdicom
import nibabel
import nibabel.testing
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from scipy.spatial.transform import Rotation

from vesalius import Slice, Volume, read_slice, read_volume, write_mask
from vesalius.core.errors import GeometryError, WriteError
from vesalius.io.masks import read_mask
from vesalius.io.write import GRIDS, SUFFIXES

MakeSeries = Callable[..., Path]
MakeMultiframe = Callable[[Path, list[float], list[float]], Path]


def _mask(size: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[..., 1:3, 2:5] = True
    return mask


def _affine(shear: float = 0.0) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix() * [-0.8, 1.5, 3.0]
    affine[:3, 2] += shear * affine[:3, 0]
    affine[:3, 3] = [5.0, -60.0, 70.0]
    return affine


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A left-handed, oblique NIfTI whose sform and qform differ."""
    image = nibabel.Nifti1Image(np.arange(10 * 8 * 6, dtype=np.int16).reshape(10, 8, 6), None)
    image.set_sform(_affine(), 3)
    qform = _affine()
    qform[:3, 3] += 1
    image.set_qform(qform, 1)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


@pytest.mark.parametrize("suffix", GRIDS)
@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_slice_on_the_grid_of_its_scan(tmp_path: Path, scan: Path, suffix: str, axis: str) -> None:
    image, out = read_slice(scan, axis=axis, index=4), tmp_path / f"mask{suffix}"
    mask = _mask(image.size)
    write_mask(out, mask, like=image)
    written = read_volume(out)
    assert written.geometry.close_to(image.geometry, 1e-5)
    assert written.voxels.dtype == np.uint8
    assert written.voxels.sum() == mask.sum()
    np.testing.assert_array_equal(written.slice(axis, 4).pixels, mask)
    np.testing.assert_array_equal(read_mask(out, like=image), mask)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_keeps_sform_and_qform(tmp_path: Path, scan: Path, suffix: str) -> None:
    image, out = read_slice(scan, index=0), tmp_path / f"mask{suffix}"
    write_mask(out, _mask(image.size), like=image)
    before, after = nibabel.load(scan), nibabel.load(out)
    np.testing.assert_array_equal(after.affine, before.affine)
    for form in ("get_sform", "get_qform"):
        (one, code), (other, same) = getattr(before, form)(coded=True), getattr(after, form)(coded=True)
        np.testing.assert_array_equal(one, other)
        assert code == same
    assert after.header.get_zooms() == before.header.get_zooms()
    assert after.header.get_xyzt_units()[0] == "mm"
    assert (after.shape, after.get_data_dtype()) == (before.shape, np.uint8)


def test_nifti_2_keeps_its_affine_in_full(tmp_path: Path) -> None:
    values = np.arange(10 * 8 * 6, dtype=np.int16).reshape(10, 8, 6)
    nibabel.save(nibabel.Nifti2Image(values, _affine()), tmp_path / "a.nii")
    image = read_slice(tmp_path / "a.nii", index=0)
    write_mask(tmp_path / "b.nii.gz", _mask(image.size), like=image)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "b.nii.gz").affine, _affine())


@pytest.mark.parametrize("name", ["anatomical.nii", "reoriented_anat_moved.nii", "example4d.nii.gz", "functional.nii"])
def test_nibabels_files_keep_their_affine(tmp_path: Path, name: str) -> None:
    path = Path(nibabel.testing.data_path) / name
    source = nibabel.load(path)
    image = read_slice(path, index=1, time=1 if source.ndim == 4 else None)
    write_mask(tmp_path / "a.nii.gz", _mask(image.size), like=image)
    np.testing.assert_allclose(nibabel.load(tmp_path / "a.nii.gz").affine, source.affine, atol=1e-6)


def test_sheared_grid(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(np.arange(10 * 8 * 6, dtype=np.int16).reshape(10, 8, 6), None)
    image.set_sform(_affine(shear=0.3), 1)
    nibabel.save(image, path)
    shown = read_slice(path, index=2)
    for suffix in GRIDS:
        write_mask(tmp_path / f"m{suffix}", _mask(shown.size), like=shown)
        assert read_volume(tmp_path / f"m{suffix}").geometry.close_to(shown.geometry, 1e-5)
    np.testing.assert_allclose(nibabel.load(tmp_path / "m.nii").affine, _affine(0.3), atol=1e-5)
    write_mask(tmp_path / "n.nii", _mask(shown.size), like=read_slice(tmp_path / "m.nrrd", index=2))
    again = nibabel.load(tmp_path / "n.nii")
    np.testing.assert_allclose(again.affine, _affine(0.3), atol=1e-5)
    assert int(again.header["qform_code"]) == 0  # a qform cannot say it


def test_formats_agree_in_space(tmp_path: Path, scan: Path) -> None:
    """The same voxel lies at the same place for nibabel (RAS) and for ITK (LPS)."""
    image = read_slice(scan, index=3)
    write_mask(tmp_path / "a.nii.gz", _mask(image.size), like=image)
    write_mask(tmp_path / "a.nrrd", _mask(image.size), like=image)
    index = (4, 2, 3)
    ras = nibabel.load(tmp_path / "a.nii.gz").affine @ [*index, 1]
    lps = sitk.ReadImage(str(tmp_path / "a.nrrd")).TransformIndexToPhysicalPoint(index)
    np.testing.assert_allclose(ras[:3] * [-1, -1, 1], lps, atol=1e-4)


def test_dicom_to_nifti(tmp_path: Path, make_series: MakeSeries) -> None:
    image = read_slice(make_series(5), index=3)
    write_mask(tmp_path / "a.nii.gz", _mask(image.size), like=image)
    np.testing.assert_allclose(nibabel.load(tmp_path / "a.nii.gz").affine, image.geometry.affine("RAS"), atol=1e-4)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
def test_picture_of_one_mask_is_black_and_white(tmp_path: Path, scan: Path, suffix: str) -> None:
    image, out = read_slice(scan, axis="y", index=4), tmp_path / f"mask{suffix}"
    mask = _mask(image.size)
    write_mask(out, mask, like=image)
    with Image.open(out) as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), np.where(mask, 255, 0))
    np.testing.assert_array_equal(read_mask(out, like=image), mask)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_picture_of_several_objects(tmp_path: Path, scan: Path, suffix: str) -> None:
    image, out = read_slice(scan, index=4), tmp_path / f"mask{suffix}"
    labels = np.arange(np.prod(image.size), dtype=np.uint16).reshape(image.size) % 4
    write_mask(out, labels, like=image)
    with Image.open(out) as picture:
        np.testing.assert_array_equal(np.asarray(picture), labels)
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    seen = {number: {tuple(c) for c in colours[labels.ravel() == number]} for number in range(4)}
    assert seen[0] == {(0, 0, 0)}
    visible = [next(iter(seen[number])) for number in (1, 2, 3)]
    assert len(set(visible)) == 3
    assert all(len(seen[number]) == 1 and max(visible[number - 1]) >= 100 for number in (1, 2, 3))


def test_several_objects_on_the_grid(tmp_path: Path, scan: Path) -> None:
    image = read_slice(scan, index=4)
    labels = np.zeros(image.size, np.uint16)
    labels[0, 0], labels[1, 1] = 1, 300
    for suffix in GRIDS:
        write_mask(tmp_path / f"a{suffix}", labels, like=image)
        written = read_volume(tmp_path / f"a{suffix}")
        assert written.voxels.dtype == np.uint16
        np.testing.assert_array_equal(written.voxels[4], labels)
    with pytest.raises(WriteError, match="at most 255 objects"):
        write_mask(tmp_path / "a.png", labels, like=image)


def test_volumes(tmp_path: Path, scan: Path) -> None:
    volume = read_volume(scan)
    mask = _mask(volume.voxels.shape)
    for suffix in (*GRIDS, ".tif"):
        write_mask(tmp_path / f"a{suffix}", mask, like=volume)
        np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").voxels > 0, mask)
    with pytest.raises(WriteError, match="PNG cannot hold 6 slices"):
        write_mask(tmp_path / "a.png", mask, like=volume)


def test_plain_picture_as_scan(tmp_path: Path) -> None:
    image = Slice(pixels=np.zeros((8, 10), np.uint8))
    for suffix in GRIDS:
        write_mask(tmp_path / f"a{suffix}", _mask((8, 10)), like=image)
        written = read_volume(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(written.voxels, _mask((1, 8, 10)))
        assert written.geometry.spacing == (1, 1, 1)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "examples_rgb_color.dcm"])
def test_dicom_segmentation(tmp_path: Path, name: str) -> None:
    image, out = read_slice(get_testdata_file(name)), tmp_path / "mask.dcm"
    mask = _mask(image.size)
    write_mask(out, mask, like=image)
    source, segmentation = dcmread(get_testdata_file(name)), highdicom.seg.segread(out)
    for tag in ("PatientID", "StudyInstanceUID"):
        assert segmentation[tag].value == source[tag].value
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    frames = segmentation.get_pixels_by_source_instance([source.SOPInstanceUID])
    np.testing.assert_array_equal(frames[0, ..., 0] > 0, mask)
    assert segmentation.get_segment_description(1).segment_label == "object 1"
    np.testing.assert_array_equal(read_mask(out, like=image), mask)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_dicom_segmentation_of_a_series(tmp_path: Path, make_series: MakeSeries, axis: str) -> None:
    image, out = read_slice(make_series(5), axis=axis, index=3), tmp_path / "mask.dcm"
    mask = _mask(image.size)
    write_mask(out, mask, like=image)
    np.testing.assert_array_equal(read_mask(out, like=image), mask)
    segmentation = highdicom.seg.segread(out)
    assert segmentation.NumberOfFrames == (1 if axis == "z" else np.count_nonzero(mask.any(axis=1)))
    if axis == "z":
        position = segmentation.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(position, image.geometry.to_world(np.array([0, 0, 3])), atol=1e-6)


@pytest.mark.parametrize("positions", [[10, 20, 30], [30, 20, 10], [20, 30, 10]])
def test_dicom_segmentation_of_a_multiframe_file(
    tmp_path: Path, make_multiframe: MakeMultiframe, positions: list[float]
) -> None:
    source, out = make_multiframe(tmp_path / "a.dcm", positions, [1, 1, 1]), tmp_path / "mask.dcm"
    for index, z in enumerate((10, 20, 30)):
        image = read_slice(source, index=index)
        mask = _mask(image.size)
        write_mask(out, mask, like=image)
        (frame,) = dcmread(out).PerFrameFunctionalGroupsSequence
        assert frame.PlanePositionSequence[0].ImagePositionPatient[2] == z
        np.testing.assert_array_equal(read_mask(out, like=image), mask)


def test_dicom_segmentation_of_several_objects(tmp_path: Path, make_series: MakeSeries) -> None:
    volume = read_volume(make_series(4))
    labels = np.zeros(volume.voxels.shape, np.uint8)
    labels[1, 2, 3], labels[2, 4:6, 5] = 1, 3
    write_mask(tmp_path / "a.dcm", labels, like=volume)
    written = highdicom.seg.segread(tmp_path / "a.dcm").get_volume(combine_segments=True)
    assert sorted(np.unique(written.array)) == [0, 1, 3]
    assert (written.array == 3).sum() == 2


def test_dicom_segmentation_that_cannot_be(tmp_path: Path, scan: Path) -> None:
    out = tmp_path / "mask.dcm"
    image = read_slice(scan, index=0)
    with pytest.raises(WriteError, match="needs the DICOM images"):
        write_mask(out, _mask(image.size), like=image)
    with pytest.raises(WriteError, match="needs an image that was read from DICOM"):
        write_mask(out, _mask((8, 10)), like=Slice(pixels=np.zeros((8, 10), np.uint8)))
    ct = read_slice(get_testdata_file("CT_small.dcm"))
    with pytest.raises(WriteError, match="empty mask"):
        write_mask(out, np.zeros(ct.size, bool), like=ct)
    nowhere = read_slice(get_testdata_file("693_J2KI.dcm"))
    with pytest.raises(WriteError, match="Frame Of Reference UID"):
        write_mask(out, _mask(nowhere.size), like=nowhere)
    film = read_slice(get_testdata_file("examples_ybr_color.dcm"), time=3)
    with pytest.raises(WriteError, match="30 x 240 x 320"):
        write_mask(out, _mask(film.size), like=film)
    assert not out.exists()


@pytest.mark.parametrize("name", ["a.jpg", "a.bmp", "a", "a.gz", "a.mhd"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(WriteError, match="no mask can be written as") as caught:
        write_mask(tmp_path / name, _mask((8, 10)), like=Slice(pixels=np.zeros((8, 10))))
    assert all(suffix in str(caught.value) for suffix in SUFFIXES)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    image = Slice(pixels=np.zeros((8, 10)))
    with pytest.raises(WriteError, match="its folder does not exist"):
        write_mask(tmp_path / "no" / "a.png", _mask((8, 10)), like=image)
    (tmp_path / "a.png").mkdir()
    with pytest.raises(WriteError, match="is a folder"):
        write_mask(tmp_path / "a.png", _mask((8, 10)), like=image)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int8])
def test_wrong_dtype(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(WriteError, match="the mask has dtype"):
        write_mask(tmp_path / "a.png", _mask((8, 10)).astype(dtype), like=Slice(pixels=np.zeros((8, 10))))
    assert not list(tmp_path.iterdir())


def test_too_large_numbers(tmp_path: Path) -> None:
    labels = _mask((8, 10)).astype(np.uint32) * 70_000
    with pytest.raises(WriteError, match="object number 70000"):
        write_mask(tmp_path / "a.nii", labels, like=Slice(pixels=np.zeros((8, 10))))


def test_another_size(tmp_path: Path, scan: Path) -> None:
    volume = read_volume(scan)
    for like, size in ((volume, (8, 10)), (volume.slice("z", 0), (10, 8)), (volume.slice("z", 0), (6, 8, 10))):
        with pytest.raises(GeometryError, match="the mask is"):
            write_mask(tmp_path / "a.nii", _mask(size), like=like)
    assert not (tmp_path / "a.nii").exists()


@pytest.mark.parametrize("suffix", [".png", ".nii.gz", ".nrrd"])
def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    out = tmp_path / f"a{suffix}"
    out.write_bytes(b"old")

    def fail(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    for place in ("PIL.Image.Image.save", "nibabel.save", "SimpleITK.WriteImage"):
        monkeypatch.setattr(place, fail)
    with pytest.raises(WriteError, match="No space left"):
        write_mask(out, _mask((8, 10)), like=Slice(pixels=np.zeros((8, 10))))
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_replaces_an_existing_file(tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    out.write_bytes(b"old")
    write_mask(out, _mask((8, 10)), like=Volume(np.zeros((1, 8, 10)), None, (0, 1)).slice())
    assert out.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [out]
    if os.name != "nt":
        umask = os.umask(0)
        os.umask(umask)
        assert out.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.skipif("VESALIUS_DATA" not in os.environ, reason="VESALIUS_DATA is not set")
@pytest.mark.parametrize(
    "pattern", ["volumes/hippocampus/imagesTr/*_00*.nii.gz", "volumes/sts/*/*_image.nii.gz", "volumes/*/*image.nrrd"]
)
def test_real_volumes(tmp_path: Path, pattern: str) -> None:
    paths = sorted(Path(os.environ["VESALIUS_DATA"]).glob(pattern))
    assert paths
    for path in paths:
        image = read_slice(path, index=2)
        for suffix in (".nii.gz", ".nrrd"):
            write_mask(tmp_path / f"a{suffix}", _mask(image.size), like=image)
            assert read_volume(tmp_path / f"a{suffix}").geometry.close_to(image.geometry, 1e-5)
        if path.suffix == ".gz":
            np.testing.assert_array_equal(nibabel.load(tmp_path / "a.nii.gz").affine, nibabel.load(path).affine)


@pytest.mark.skipif("VESALIUS_DATA" not in os.environ, reason="VESALIUS_DATA is not set")
def test_real_series_segmentation(tmp_path: Path) -> None:
    for folder in ("sts_rtstruct/STS_002/CT/image", "sts_rtstruct/STS_002/PET/image", "dcmqi_ct/ct-3slice"):
        image = read_slice(Path(os.environ["VESALIUS_DATA"]) / "dicom" / folder, index=1)
        write_mask(tmp_path / "a.dcm", _mask(image.size), like=image)
        np.testing.assert_array_equal(read_mask(tmp_path / "a.dcm", like=image), _mask(image.size))
