from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel.testing
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import UID

from vesalius import read_slice, read_volume
from vesalius.core.errors import GeometryError, ReadError
from vesalius.vocabulary.modalities import DICOM_MODALITIES, modality_name

MakeSeries = Callable[..., Path]
MakeMultiframe = Callable[[Path, list[float], list[float]], Path]


def _copy(name: str, path: Path, **tags: object) -> Path:
    dataset = dcmread(get_testdata_file(name))
    for tag, value in tags.items():
        if value is None:
            del dataset[tag]
        else:
            setattr(dataset, tag, value)
    dataset.save_as(path)
    return path


def test_ct_in_hounsfield_units() -> None:
    path = get_testdata_file("CT_small.dcm")
    volume, dataset = read_volume(path), dcmread(path)
    np.testing.assert_array_equal(volume.voxels[0], dataset.pixel_array.astype(int) - 1024)
    assert volume.voxels.dtype == np.int16
    assert (volume.modality, volume.window) == ("ct", (-160.0, 240.0))
    assert volume.geometry.spacing == (0.661468, 0.661468, 5.0)
    np.testing.assert_allclose(volume.geometry.origin, dataset.ImagePositionPatient)
    assert read_slice(path).spacing == (0.661468, 0.661468)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
)
def test_transfer_syntaxes_give_the_same_pixels(name: str) -> None:
    expected = read_volume(get_testdata_file("MR_small.dcm"))
    assert expected.modality == "mr"
    np.testing.assert_array_equal(read_volume(get_testdata_file(name)).voxels, expected.voxels)


@pytest.mark.parametrize(
    ("name", "modality", "size"),
    [
        ("examples_rgb_color.dcm", "ultrasound", (240, 320)),
        ("examples_palette.dcm", "ultrasound", (350, 800)),
        ("examples_jpeg2k.dcm", "ultrasound", (480, 640)),
        ("SC_ybr_full_422_uncompressed.dcm", None, (100, 100)),
        ("SC_rgb_rle_16bit.dcm", None, (100, 100)),
    ],
)
def test_colour(name: str, modality: str | None, size: tuple[int, int]) -> None:
    volume = read_volume(get_testdata_file(name))
    assert volume.voxels.shape == (1, *size, 3)
    assert (volume.voxels.dtype, volume.window, volume.modality) == (np.uint8, (0.0, 255.0), modality)


def test_ybr_is_converted_to_rgb() -> None:
    """The test card of these files begins with a red bar, whatever the colour space that it is stored in."""
    for name in (
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+n1.dcm",
        "SC_rgb_dcmtk_+eb+cy+s4.dcm",
        "SC_rgb_rle.dcm",
    ):
        np.testing.assert_allclose(
            read_volume(get_testdata_file(name)).voxels[0, 5, 50].astype(int), (255, 0, 0), atol=6
        )


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    plain = read_volume(_copy("MR_small.dcm", tmp_path / "a.dcm", PixelRepresentation=0, BitsStored=12, HighBit=11))
    inverted = read_volume(
        _copy(
            "MR_small.dcm",
            tmp_path / "b.dcm",
            PixelRepresentation=0,
            BitsStored=12,
            HighBit=11,
            PhotometricInterpretation="MONOCHROME1",
        )
    )
    np.testing.assert_array_equal(inverted.voxels, 4095 - plain.voxels)
    signed = read_volume(_copy("MR_small.dcm", tmp_path / "c.dcm", PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(signed.voxels, -1 - read_volume(get_testdata_file("MR_small.dcm")).voxels)


def test_fractional_slope(tmp_path: Path) -> None:
    path = _copy("CT_small.dcm", tmp_path / "a.dcm", RescaleSlope="0.5", RescaleIntercept="3")
    expected = dcmread(path).pixel_array * 0.5 + 3
    np.testing.assert_allclose(read_volume(path).voxels[0], expected)


def test_frames_without_positions_are_time_points() -> None:
    path = get_testdata_file("examples_ybr_color.dcm")
    with pytest.raises(ReadError, match="30 time points and none was chosen"):
        read_volume(path)
    first, last = read_slice(path, time=0), read_slice(path, time=29)
    assert first.pixels.shape == last.pixels.shape == (240, 320, 3)
    assert (first.pixels != last.pixels).any()


def test_spacing_without_position_lies_at_the_origin(tmp_path: Path) -> None:
    path = _copy("CT_small.dcm", tmp_path / "a.dcm", ImagePositionPatient=None, ImageOrientationPatient=None)
    geometry = read_volume(path).geometry
    assert geometry.origin == (0, 0, 0)
    assert geometry.spacing == (0.661468, 0.661468, 5.0)
    assert read_volume(_copy("CT_small.dcm", tmp_path / "b.dcm", PixelSpacing=None)).geometry is None


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("rtplan.dcm", r"no image \(RT Plan Storage\)"),
        ("liver_1frame.dcm", r"no image \(Segmentation Storage\)"),
        ("rtdose.dcm", r"no image \(RT Dose Storage\)"),
        ("MR_truncated.dcm", "damaged or cut short"),
        ("no_meta.dcm", "is not a DICOM file"),
    ],
)
def test_what_is_no_image(name: str, match: str) -> None:
    with pytest.raises(ReadError, match=match):
        read_volume(get_testdata_file(name))


@pytest.mark.parametrize("name", ["CT_small.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg_gdcm.dcm"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated(tmp_path: Path, name: str, share: float) -> None:
    whole = Path(get_testdata_file(name)).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ReadError, match=r"cut short|is not a DICOM file") as caught:
        read_volume(path)
    assert str(caught.value).startswith(str(path))


def test_compressed_without_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dcmread(get_testdata_file("JPEG2000.dcm"))
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")
    dataset.save_as(tmp_path / "mpeg.dcm")
    with pytest.raises(ReadError, match=r"is compressed as MPEG-4 AVC/H.264 High Profile / Level 4.1, which cannot"):
        read_volume(tmp_path / "mpeg.dcm")
    # The same where pydicom knows the syntax but none of its plug-ins is there.
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", property(lambda self: False))
    with pytest.raises(ReadError, match="is compressed as JPEG 2000 Image Compression, which cannot"):
        read_volume(get_testdata_file("JPEG2000.dcm"))


def test_absurd_size(tmp_path: Path) -> None:
    path = _copy("JPEG2000.dcm", tmp_path / "a.dcm", Rows=65535, Columns=65535)
    with pytest.raises(ReadError, match="claims 1 x 65535 x 65535"):
        read_volume(path)


def test_series_is_sorted_by_position(make_series: MakeSeries) -> None:
    folder = make_series(5)
    (folder / "DICOMDIR").write_bytes(b"anything")
    (folder / "readme.txt").write_text("not an image")
    (folder / ".DS_Store").write_bytes(b"x")
    shutil.copy(get_testdata_file("rtplan.dcm"), folder)
    volume = read_volume(folder)
    assert volume.voxels.shape == (5, 20, 24)
    np.testing.assert_array_equal(volume.voxels[:, 0, 0], np.arange(5) - 1024)
    assert volume.modality == "ct"
    assert volume.source == folder
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), dcmread(folder / "001.dcm").SeriesInstanceUID))
    image = reader.Execute()
    np.testing.assert_array_equal(volume.voxels, sitk.GetArrayFromImage(image))
    geometry = volume.geometry
    np.testing.assert_allclose(geometry.spacing, (0.9, 0.7, 2.5), atol=1e-6)
    np.testing.assert_allclose(geometry.spacing, image.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(geometry.origin, image.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(geometry.direction, image.GetDirection(), atol=1e-6)


def test_series_with_a_tilted_gantry(make_series: MakeSeries) -> None:
    """Slices shifted along their own plane: the step between them is no longer their normal."""
    folder = make_series(4, orientation=[1, 0, 0, 0, 1, 0])
    for path in folder.iterdir():
        dataset = dcmread(path)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y + 0.2 * (z - 30), z]
        dataset.save_as(path)
    geometry = read_volume(folder).geometry
    np.testing.assert_allclose(geometry.to_world(np.array([0, 0, 3])), [-10, 20 + 1.5, 30 + 7.5])


def test_folder_with_one_file(make_series: MakeSeries) -> None:
    folder = make_series(1)
    assert read_volume(folder).voxels.shape == (1, 20, 24)
    assert read_volume(folder).geometry == read_volume(folder / "001.dcm").geometry
    (folder / "001.dcm").unlink()
    shutil.copy(get_testdata_file("rtplan.dcm"), folder)
    with pytest.raises(ReadError, match="holds no DICOM images"):
        read_volume(folder)


def test_missing_slice(make_series: MakeSeries) -> None:
    folder = make_series(6)
    (folder / "003.dcm").unlink()
    with pytest.raises(
        GeometryError, match=r"missing between 004.dcm and 002.dcm: they are 5 mm apart, the others 2.5"
    ):
        read_volume(folder)


def test_slices_too_close(make_series: MakeSeries) -> None:
    folder = make_series(6)
    dataset = dcmread(folder / "001.dcm")
    dataset.ImagePositionPatient = list(np.array(dataset.ImagePositionPatient) - np.array([0.48, -0.64, 0.6]))
    dataset.save_as(folder / "001.dcm")
    with pytest.raises(GeometryError, match=r"too close between 002.dcm and 001.dcm: they are 1.5 mm"):
        read_volume(folder)


def test_two_slices_at_one_position(make_series: MakeSeries) -> None:
    folder = make_series(4)
    shutil.copy(folder / "002.dcm", folder / "copy.dcm")
    with pytest.raises(GeometryError, match=r"002.dcm and copy.dcm lie at the same position"):
        read_volume(folder)


def test_mixed_series(make_series: MakeSeries) -> None:
    folder = make_series(4)
    shutil.copy(get_testdata_file("MR_small.dcm"), folder)
    uids = [dcmread(p).SeriesInstanceUID for p in (folder / "001.dcm", folder / "MR_small.dcm")]
    with pytest.raises(GeometryError, match=rf"2 DICOM series: {uids[0]} \(4 files\), {uids[1]} \(1 files\)"):
        read_volume(folder)


@pytest.mark.parametrize(
    ("tags", "match"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "002.dcm has another orientation than 001.dcm"),
        ({"PixelSpacing": [0.5, 0.5]}, "002.dcm has another pixel spacing"),
        ({"ImagePositionPatient": None}, "1 of 4 slices state no position"),
        ({"PixelSpacing": [0, 0]}, "spacing of 002.dcm is not positive"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "orientation of 002.dcm is not two perpendicular"),
        ({"Rows": 10, "PixelData": bytes(2 * 10 * 24)}, "002.dcm: has Rows 10, but 001.dcm"),
    ],
)
def test_slices_that_do_not_fit(make_series: MakeSeries, tags: dict[str, object], match: str) -> None:
    folder = make_series(4)
    dataset = dcmread(folder / "002.dcm")
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    dataset.save_as(folder / "002.dcm")
    with pytest.raises(GeometryError, match=match):
        read_volume(folder)


def test_truncated_slice_is_not_left_out(make_series: MakeSeries) -> None:
    folder = make_series(4)
    shutil.copy(get_testdata_file("MR_small_RLE.dcm"), folder / "last.dcm")
    last = folder / "last.dcm"
    last.write_bytes(last.read_bytes()[:-2000])
    with pytest.raises(ReadError, match=r"last.dcm: .*cut short"):
        read_volume(folder)


def test_stranger_in_the_folder(make_series: MakeSeries) -> None:
    folder = make_series(3)
    (folder / "004.dcm").write_text("what is this?" * 30)
    with pytest.raises(ReadError, match=r"004.dcm: is not a DICOM file; remove it"):
        read_volume(folder)


def test_two_slices_that_nibabel_ships(tmp_path: Path) -> None:
    for name in ("0.dcm", "1.dcm"):
        shutil.copy(Path(nibabel.testing.data_path) / name, tmp_path)
    volume = read_volume(tmp_path)
    assert (volume.voxels.shape, volume.modality) == ((2, 256, 256), "mr")
    assert volume.geometry.spacing[2] == pytest.approx(3)
    np.testing.assert_allclose(volume.geometry.origin[2], -75.097641)


def test_enhanced_multiframe(tmp_path: Path, make_multiframe: MakeMultiframe) -> None:
    volume = read_volume(make_multiframe(tmp_path / "a.dcm", [30, 20, 10], [1, 2, 3]))
    pixels = dcmread(get_testdata_file("CT_small.dcm")).pixel_array[:20, :24].astype(int)
    for k, (i, slope) in enumerate(((2, 3), (1, 2), (0, 1))):
        np.testing.assert_array_equal(volume.voxels[k], (pixels + i) * slope + 5)
    assert volume.geometry.spacing == (0.9, 0.7, 10.0)
    assert volume.geometry.origin == (1, 2, 10)
    with pytest.raises(GeometryError, match="frames are missing between frame 2 and frame 3"):
        read_volume(make_multiframe(tmp_path / "b.dcm", [10, 20, 50, 60], [1, 1, 1, 1]))


def test_modalities() -> None:
    assert modality_name("PT") == "pet"
    assert modality_name(" ct ") == "ct"
    assert modality_name("OT") is None
    assert modality_name(None) is None
    assert all(code.isupper() and name.islower() for code, name in DICOM_MODALITIES.items())


@pytest.mark.skipif("VESALIUS_DATA" not in os.environ, reason="VESALIUS_DATA is not set")
@pytest.mark.parametrize("modality", ["CT", "PET"])
def test_real_series(modality: str) -> None:
    folder = Path(os.environ["VESALIUS_DATA"]) / "dicom/sts_rtstruct/STS_002" / modality / "image"
    volume = read_volume(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_allclose(volume.voxels, sitk.GetArrayFromImage(image), rtol=1e-5)
    assert volume.modality == modality.lower()
    np.testing.assert_allclose(volume.geometry.origin, image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(volume.geometry.spacing, image.GetSpacing(), atol=1e-4)
    np.testing.assert_allclose(volume.geometry.direction, image.GetDirection(), atol=1e-6)
