from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from vesalius import Slice, read_slice, write_mask
from vesalius.core.errors import GeometryError, ReadError
from vesalius.io.masks import read_mask

MASK = np.zeros((8, 10), bool)
MASK[2:5, 3:9] = True
PICTURE = Slice(pixels=np.zeros((8, 10), np.uint8))


@pytest.mark.parametrize("value", [1, 7, 255])
def test_any_one_value(tmp_path: Path, value: int) -> None:
    for name in ("a.png", "a.tif"):
        Image.fromarray(MASK.astype(np.uint8) * np.uint8(value)).save(tmp_path / name)
        np.testing.assert_array_equal(read_mask(tmp_path / name, like=PICTURE), MASK)
    Image.fromarray(np.repeat(MASK[..., None], 3, 2).astype(np.uint8) * np.uint8(value)).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "rgb.png", like=PICTURE), MASK)


def test_palette_counts_by_index(tmp_path: Path) -> None:
    picture = Image.frombytes("P", (10, 8), MASK.astype(np.uint8).tobytes())
    picture.putpalette([200, 0, 0, 0, 0, 90])  # no black: its colours say nothing
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", like=PICTURE), MASK)


def test_constant_masks(tmp_path: Path) -> None:
    Image.new("L", (10, 8), 0).save(tmp_path / "a.png")
    assert not read_mask(tmp_path / "a.png", like=PICTURE).any()
    Image.new("L", (10, 8), 255).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", like=PICTURE).all()


def test_not_a_mask(tmp_path: Path) -> None:
    Image.fromarray(np.arange(80, dtype=np.uint8).reshape(8, 10)).save(tmp_path / "a.png")
    with pytest.raises(ReadError, match="not the mask of one object: its slice has 80 different values"):
        read_mask(tmp_path / "a.png", like=PICTURE)
    Image.new("RGB", (10, 8), (255, 0, 0)).save(tmp_path / "a.png")
    with pytest.raises(ReadError, match="colour picture"):
        read_mask(tmp_path / "a.png", like=PICTURE)
    with pytest.raises(ReadError, match="no such file"):
        read_mask(tmp_path / "no.png", like=PICTURE)


def test_another_size(tmp_path: Path) -> None:
    Image.fromarray(MASK.T).save(tmp_path / "a.png")
    with pytest.raises(GeometryError, match="is 8 x 10 x 1 pixels, its image 10 x 8"):
        read_mask(tmp_path / "a.png", like=PICTURE)


def test_slice_of_a_volume(tmp_path: Path) -> None:
    values = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii")
    masks = (values % 3 == 0).astype(np.uint8) * 9
    nibabel.save(nibabel.Nifti1Image(masks, np.eye(4)), tmp_path / "mask.nii.gz")
    image = sitk.GetImageFromArray(masks.T)
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "mask.nrrd"))
    for axis in "xyz":
        scan = read_slice(tmp_path / "scan.nii", axis=axis, index=2)
        expected = masks.T.take(2, axis=2 - "xyz".index(axis)) > 0
        for name in ("mask.nii.gz", "mask.nrrd"):
            np.testing.assert_array_equal(read_mask(tmp_path / name, like=scan), expected)
    image.SetOrigin((5, 0, 0))
    sitk.WriteImage(image, str(tmp_path / "away.nrrd"))
    with pytest.raises(GeometryError, match="lies elsewhere"):
        read_mask(tmp_path / "away.nrrd", like=scan)


@pytest.mark.skipif("VESALIUS_DATA" not in os.environ, reason="VESALIUS_DATA is not set")
def test_real_segmentation() -> None:
    """A segmentation made by dcmqi, against the label map that it was made from."""
    folder = Path(os.environ["VESALIUS_DATA"]) / "dicom" / "dcmqi_ct"
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "liver_seg.nrrd")))
    for index in range(3):
        image = read_slice(folder / "ct-3slice", index=index)
        mask = read_mask(folder / "liver.dcm", like=image)
        np.testing.assert_array_equal(mask, labels[index] > 0)
        np.testing.assert_array_equal(read_mask(folder / "liver_seg.nrrd", like=image), mask)
        assert mask.any() == (labels[index] > 0).any()


def test_dicom_segmentations_that_do_not_fit(tmp_path: Path) -> None:
    ct, mr = (read_slice(get_testdata_file(f"{name}_small.dcm")) for name in ("CT", "MR"))
    mask = np.zeros(ct.size, bool)
    mask[3:9, 4:7] = True
    write_mask(tmp_path / "ct.dcm", mask, like=ct)
    with pytest.raises(GeometryError, match="1 frames of 128 x 128 pixels, its image is 64 x 64"):
        read_mask(tmp_path / "ct.dcm", like=mr)
    with pytest.raises(ReadError, match="is DICOM but no segmentation"):
        read_mask(get_testdata_file("CT_small.dcm"), like=ct)
    for axis, shift in ((0, 3), (2, 20)):
        dataset = dcmread(tmp_path / "ct.dcm")
        place = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
        place.ImagePositionPatient[axis] += shift
        dataset.save_as(tmp_path / "away.dcm")
        with pytest.raises(GeometryError, match="frame 1 lies on another grid"):
            read_mask(tmp_path / "away.dcm", like=ct)


def test_dicom_segments_that_overlap(tmp_path: Path) -> None:
    path = get_testdata_file("CT_small.dcm")
    image = read_slice(path)
    labels = np.zeros(image.size, np.uint8)
    labels[3:5], labels[8:10] = 1, 2
    write_mask(tmp_path / "a.dcm", labels, like=image)
    with pytest.raises(ReadError, match="not the mask of one object"):
        read_mask(tmp_path / "a.dcm", like=image)
    dataset = dcmread(tmp_path / "a.dcm")
    half = len(dataset.PixelData) // 2
    dataset.PixelData = dataset.PixelData[:half] * 2  # both segments the same
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(ReadError, match="segments that overlap"):
        read_mask(tmp_path / "a.dcm", like=image)
