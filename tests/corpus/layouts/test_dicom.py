from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from made_dicom import made_series, segmentation, structure_set
from made_listing import listed
from vesalius.core.errors import ConfigError, GeometryError, ReadError, WriteError
from vesalius.core.geometry import Geometry
from vesalius.corpus.layouts import dicom

GRID = Geometry((24, 20, 4), (0.9, 0.7, 2.5), (-10.0, 20.0, 30.0))
SQUARE = [(3.5, 2.5), (9.5, 2.5), (9.5, 7.5), (3.5, 7.5)]


def block(z: slice | int, y: slice, x: slice) -> np.ndarray:
    mask = np.zeros((4, 20, 24), bool)
    mask[z, y, x] = True
    return mask


LIVER, VESSEL, SPLEEN = (
    block(np.s_[0:3], np.s_[2:12], np.s_[3:15]),
    block(1, np.s_[4:6], np.s_[5:9]),
    block(3, np.s_[0:4], np.s_[20:24]),
)


def found(root: Path, recipe, **about):
    given = recipe("dicom", root, **about)
    return {entry.name: (entry, lambda entry=entry: list(dicom.read(entry, given))) for entry in listed(given)}


def test_round_trip(labelled, round_trip, masks_of, true_masks) -> None:
    read = round_trip("dicom", labelled)
    assert [entry.name for entry, _ in read] == [f"made_scan_{i}_z_000{i}" for i in range(4)]
    for (entry, scan), image in zip(read, labelled, strict=True):
        np.testing.assert_array_equal(scan.volume.voxels[0], image.image.pixels)
        assert masks_of(scan) == true_masks(image)
        assert all(layer.objects for layer in scan.layers)
        assert (entry.case, scan.volume.modality) == (image.case, "mr")
        geometry = scan.volume.geometry
        spacing = None if geometry is None else (geometry.spacing[1], geometry.spacing[0])
        assert spacing == image.image.spacing
        assert len(entry.labels) == bool(image.masks)


def test_what_is_written_claims_no_more_than_is_known(labelled, tmp_path: Path) -> None:
    dicom.write(labelled[:1], tmp_path / "set", "made")
    (place,) = (tmp_path / "set").iterdir()
    image, label = dcmread(place / "image.dcm"), dcmread(place / "seg.dcm")
    assert image.SOPClassUID.name == "Secondary Capture Image Storage"
    assert (image.Modality, image.PatientID, image.PatientName) == ("MR", "patient 0", "")
    assert "ImagePositionPatient" not in image
    assert "FrameOfReferenceUID" not in image
    assert [one.SegmentLabel for one in label.SegmentSequence] == ["liver", "tumour", "liver"]
    assert {one.SegmentAlgorithmType for one in label.SegmentSequence} == {"MANUAL"}
    dicom.write(labelled[:1], tmp_path / "again", "made")
    assert dcmread(tmp_path / "again" / place.name / "image.dcm").SOPInstanceUID == image.SOPInstanceUID


def test_long_names(labelled, tmp_path: Path, round_trip) -> None:
    from dataclasses import replace

    cases = [f"{'long ' * 20}{number}" for number in range(2)]
    images = [replace(labelled[number], case=case) for number, case in enumerate(cases)]
    assert len({entry.case for entry, _ in round_trip("dicom", images)}) == 2
    named = replace(labelled[0], masks=[replace(labelled[0].masks[0], target="x" * 65)])
    with pytest.raises(WriteError, match="DICOM cannot hold the name"):
        dicom.write([named], tmp_path / "set", "made")
    assert not (tmp_path / "set").exists()
    with pytest.raises(WriteError, match="two images are named"):
        dicom.write([labelled[2], labelled[2]], tmp_path / "set", "made")


def test_segments_that_overlap_lie_in_two_layers(tmp_path: Path, recipe) -> None:
    made_series(tmp_path / "ct")
    segmentation(tmp_path / "seg.dcm", tmp_path / "ct", {"liver": LIVER, "vessel": VESSEL, "spleen": SPLEEN})
    ((entry, read),) = found(tmp_path, recipe).values()
    assert (entry.name, entry.case, entry.image) == ("ct", "patient 7", tmp_path / "ct")
    assert entry.labels == (tmp_path / "seg.dcm",)
    (scan,) = read()
    assert scan.volume.modality == "ct"
    assert scan.volume.voxels[:, 0, 0].tolist() == [i - 1024 for i in range(4)]
    first, second = scan.layers
    np.testing.assert_array_equal(first.values, LIVER + 3 * SPLEEN)
    np.testing.assert_array_equal(second.values, 2 * VESSEL)
    assert (first.names, second.names) == ({1: "liver", 3: "spleen"}, {2: "vessel"})
    assert not first.objects
    # The recipe names segments by their label or their number.
    _, read = found(tmp_path, recipe, targets={"liver": "hepar", "2": "vein"})["ct"]
    assert [layer.names for layer in read()[0].layers] == [{1: "hepar", 3: "spleen"}, {2: "vein"}]


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
def test_kinds_of_segmentations(tmp_path: Path, recipe, kind: str) -> None:
    made_series(tmp_path / "ct")
    masks = {"liver": LIVER, "spleen": SPLEEN}
    if kind == "FRACTIONAL":
        masks = {name: np.where(mask, 0.6, 0.3) for name, mask in masks.items()}
    segmentation(tmp_path / "seg.dcm", tmp_path / "ct", masks, kind=kind, tracked=True)
    ((_, read),) = found(tmp_path, recipe).values()
    (layer,) = read()[0].layers
    np.testing.assert_array_equal(layer.values, LIVER + 2 * SPLEEN)
    assert layer.objects


def test_a_segment_without_label_is_named_by_its_code(tmp_path: Path, recipe) -> None:
    def unnamed(dataset: Dataset) -> None:
        dataset.SegmentSequence[0].SegmentLabel = ""

    made_series(tmp_path / "ct")
    segmentation(tmp_path / "seg.dcm", tmp_path / "ct", {"a": LIVER}, change=unnamed)
    ((_, read),) = found(tmp_path, recipe).values()
    assert read()[0].layers[0].names == {1: "Liver"}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_segmentation_on_another_grid(tmp_path: Path, recipe, axis: int) -> None:
    def move(dataset: Dataset) -> None:
        place = dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
        place.ImagePositionPatient[axis] += 0.01 if axis < 2 else 0.5

    made_series(tmp_path / "ct")
    segmentation(tmp_path / "seg.dcm", tmp_path / "ct", {"a": LIVER}, change=move)
    ((_, read),) = found(tmp_path, recipe).values()
    with pytest.raises(GeometryError, match=r"seg.dcm: frame 2 lies on another grid than .*ct;"):
        read()


def test_structure_sets(tmp_path: Path, recipe, caplog) -> None:
    uid = made_series(tmp_path / "ct")
    contours = {"organ": [[(x, y, z) for x, y in SQUARE] for z in (0, 1, 7)], "gone": [[(x, y, 9) for x, y in SQUARE]]}
    structure_set(tmp_path / "ct/rs.dcm", GRID, contours, series=uid)
    ((entry, read),) = found(tmp_path, recipe).values()
    assert entry.labels == (tmp_path / "ct/rs.dcm",)
    with caplog.at_level(logging.WARNING):
        (scan,) = read()
    (layer,) = scan.layers
    np.testing.assert_array_equal(layer.values, block(np.s_[0:2], np.s_[3:8], np.s_[4:10]))
    assert (layer.names, layer.objects) == ({1: "organ"}, False)
    assert "of the 3 contours of organ, 1 lie on no slice of" in caplog.text
    assert "of the 1 contours of gone, 1 lie on no slice of" in caplog.text


def test_several_series_in_a_folder_and_labels_elsewhere(tmp_path: Path, recipe) -> None:
    folder = tmp_path / "study"
    first = made_series(folder)
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(f"x{path.name}"))
    second = made_series(folder, 3)
    structure_set(tmp_path / "a.dcm", GRID, {"organ": [[(x, y, 0) for x, y in SQUARE]]}, series=first)
    structure_set(tmp_path / "b.dcm", GRID, {"organ": [[(x, y, 1) for x, y in SQUARE]]}, series=second)
    structure_set(tmp_path / "c.dcm", GRID, {"organ": [[(x, y, 1) for x, y in SQUARE]]}, series=second)
    entries = found(tmp_path, recipe)
    assert list(entries) == ["study_study001", "study_xstudy001"]
    assert [path.name for path in entries["study_study001"][0].labels] == ["b.dcm", "c.dcm"]
    assert [path.name for path in entries["study_xstudy001"][0].labels] == ["a.dcm"]
    ((short,), (long,)) = (read() for _, read in entries.values())
    assert (len(short.volume.voxels), len(long.volume.voxels)) == (3, 4)
    assert len(short.layers) == 2
    assert short.layers[0].values[1].any()
    assert long.layers[0].values[0].any()


def test_labels_that_name_no_series_belong_to_the_one_of_their_frame(tmp_path: Path, recipe) -> None:
    made_series(tmp_path / "ct")
    made_series(tmp_path / "away", FrameOfReferenceUID="1.2.4")
    structure_set(tmp_path / "rs.dcm", GRID, {"organ": [[(x, y, 0) for x, y in SQUARE]]}, frame="1.2.3")
    entries = found(tmp_path, recipe)
    assert [len(entry.labels) for entry, _ in entries.values()] == [0, 1]
    made_series(tmp_path / "third")
    entries = found(tmp_path, recipe)
    assert [len(entry.labels) for entry, _ in entries.values()] == [0, 0, 0, 0]
    problem = entries["rs"][0].extra["problem"]
    assert problem == "its series of images is not there, or is not the only one it fits"


def test_labels_without_their_series_and_damaged_files_are_rejects(tmp_path: Path, recipe) -> None:
    made_series(tmp_path / "ct")
    segmentation(tmp_path / "seg.dcm", tmp_path / "ct", {"a": LIVER})
    shutil.rmtree(tmp_path / "ct")
    made_series(tmp_path / "other")
    (tmp_path / "bad.dcm").write_bytes(b"not DICOM")
    (tmp_path / "empty.ima").touch()
    (tmp_path / "notes").write_text("a text without suffix")
    (tmp_path / "labels.nrrd").write_text("not DICOM either")
    whole = (tmp_path / "other/other001.dcm").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/a.dcm").write_bytes(whole[:-400])
    (tmp_path / "cut/b.dcm").write_bytes(whole[:140])
    entries = found(tmp_path, recipe)
    assert sorted(entries) == ["bad", "cut", "cut_b", "empty", "other", "seg"]
    assert len(entries["other"][1]()[0].volume.voxels) == 4
    for name, file in (
        ("bad", "bad.dcm"),
        ("cut", "a.dcm"),
        ("cut_b", "b.dcm"),
        ("empty", "empty.ima"),
        ("seg", "seg.dcm"),
    ):
        entry, read = entries[name]
        if name == "cut":
            with pytest.raises(ReadError, match=file):
                read()
        else:
            assert entry.image.name == file
            assert entry.extra["problem"]


def test_a_series_with_missing_slices_is_a_reject(tmp_path: Path, recipe) -> None:
    made_series(tmp_path / "ct", 6)
    (tmp_path / "ct/ct003.dcm").unlink()
    ((_, read),) = found(tmp_path, recipe).values()
    with pytest.raises(GeometryError, match="slices are missing"):
        read()


def test_files_without_position_are_images_of_their_own(tmp_path: Path, recipe) -> None:
    uid = generate_uid()
    folder = tmp_path / "xray"
    digital_xray = "1.2.840.10008.5.1.4.1.1.1.1"
    away = dict.fromkeys(("ImagePositionPatient", "FrameOfReferenceUID"))
    made_series(folder, 2, uid, Modality="DX", SOPClassUID=digital_xray, **away)
    for name in ("xray001", "xray002"):
        segmentation(tmp_path / f"{name}.dcm", folder / f"{name}.dcm", {"lung": LIVER[:1]})
    entries = found(tmp_path, recipe)
    assert list(entries) == ["xray_xray001", "xray_xray002"]
    for name, (entry, read) in entries.items():
        assert (entry.image.stem, [path.stem for path in entry.labels]) == (name[5:], [name[5:]])
        (scan,) = read()
        assert scan.volume.modality == "xray"
        np.testing.assert_array_equal(scan.layers[0].values, LIVER[:1])


def test_cases(tmp_path: Path, recipe) -> None:
    made_series(tmp_path / "one" / "ct", 1)
    made_series(tmp_path / "two" / "ct", 1, PatientID="")
    assert [entry.case for entry, _ in found(tmp_path, recipe).values()] == ["patient 7", "1.2.9"]
    assert [entry.case for entry, _ in found(tmp_path, recipe, case="^([^/]*)/").values()] == ["one", "two"]
    with pytest.raises(ReadError, match="does not match the recipe's case"):
        found(tmp_path, recipe, case="three/(.*)")
    with pytest.raises(ConfigError, match="finds no group"):
        found(tmp_path, recipe, case="ct")
    with pytest.raises(ConfigError, match="is no regular expression"):
        found(tmp_path, recipe, case="(")


def test_files_without_suffix_and_named_by_uids(tmp_path: Path, recipe) -> None:
    made_series(tmp_path / "ct", 2)
    for number, path in enumerate(sorted((tmp_path / "ct").iterdir())):
        path.rename(path.with_name(f"IM{number}" if number else "1.2.840.11"))
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "ct/IM1").read_bytes())
    ((_, read),) = found(tmp_path, recipe).values()
    assert len(read()[0].volume.voxels) == 2
    assert dicom.guess(tmp_path) is not None


def test_other_folders_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_text("no")
    (tmp_path / "b").write_text("no")
    assert dicom.guess(tmp_path) is None
    shutil.copy(get_testdata_file("CT_small.dcm"), tmp_path / "c.dcm")
    assert dicom.guess(tmp_path) is not None


@pytest.mark.skipif("VESALIUS_DATA" not in os.environ, reason="VESALIUS_DATA is not set")
def test_real_series(recipe) -> None:
    root = Path(os.environ["VESALIUS_DATA"]) / "dicom"
    entries = found(root, recipe)
    assert {name: (entry.case, len(entry.labels)) for name, (entry, _) in entries.items()} == {
        "dcmqi_ct_ct-3slice": ("99000", 2),
        "rtstruct_small_dicompyler": ("123456", 1),
        "rtstruct_small_rt_utils": ("PHANTOM_EXAMPLE", 1),
        "sts_rtstruct_STS_002_CT_image": ("STS_002", 1),
        "sts_rtstruct_STS_002_PET_image": ("STS_002", 1),
    }
    # The segmentations against the label maps that they were made from.
    (scan,) = entries["dcmqi_ct_ct-3slice"][1]()
    names = [dict(layer.names) for layer in scan.layers]
    assert names == [{1: "Liver"}, {1: "GREEN", 4: "LIGHT_BLUE", 5: "DARK_BLUE"}, {2: "ORANGE"}, {3: "PURPLE"}]
    for layer, name in zip(scan.layers, ("liver_seg", *(f"partial_overlaps-{i}" for i in (1, 2, 3))), strict=True):
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(root / f"dcmqi_ct/{name}.nrrd")))
        np.testing.assert_array_equal(layer.values, labels)
    for name, modality, count in (("CT", "ct", 17090), ("PET", "pet", 555)):
        (scan,) = entries[f"sts_rtstruct_STS_002_{name}_image"][1]()
        assert scan.volume.modality == modality
        assert [(layer.names, np.count_nonzero(layer.values)) for layer in scan.layers] == [
            ({1: f"GTV_Mass_{name}"}, count)
        ]
