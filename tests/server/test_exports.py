from __future__ import annotations

import hashlib
import json
import shutil
import subprocess

import highdicom as hd
import nibabel
import numpy as np
import pytest
from pydicom import dcmread

from made_dicom import made_series
from vesalius.corpus.check import check_corpus
from vesalius.corpus.store import Corpus
from vesalius.io.dicom import read_series
from vesalius.io.dicom_seg import read_segments
from vesalius.io.outlines import mask_of_runs
from vesalius.io.read import read_volume
from vesalius.io.rtstruct import read_structures
from vesalius.server.annotator import Annotator
from vesalius.server.exports import export_all, export_image
from vesalius.server.workspace import Workspace


def ring(size=(20, 24)):
    mask = np.zeros(size, np.bool_)
    mask[3:13, 4:15] = True
    mask[6:9, 7:11] = False
    mask[16, 20] = True
    return mask


def block(top, left, bottom, right, size=(20, 24)):
    mask = np.zeros(size, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def volume_of(region, shape):
    voxels = np.zeros(shape, np.bool_)
    for height, part in region.planes.items():
        voxels[height][part.where] = part.mask
    return voxels


@pytest.fixture
def series(tab):
    """Two objects that overlap on a series of 4 x 20 x 24 voxels, and their voxels."""
    kidney = tab.draw("ct", ring(), "left kidney", index=1)
    tab.draw("ct", block(2, 2, 9, 9), index=2, object=kidney)
    tab.draw("ct", block(4, 5, 8, 12), "something", index=1)
    first, second = np.zeros((2, 4, 20, 24), np.bool_)
    first[1], first[2], second[1] = ring(), block(2, 2, 9, 9), block(4, 5, 8, 12)
    return first, second


@pytest.mark.parametrize("kind", ["nifti", "nrrd"])
def test_a_label_map_lies_where_its_image_lies(tab, tmp_path, kind):
    mask = block(6, 5, 18, 15, (24, 20))
    tab.draw("scan", mask, "block", index=3)
    tab.draw("scan", block(0, 0, 12, 20, (12, 20)), "plane", axis="y", index=7)
    answer = tab.get("scan", "/export", format=kind)
    suffix = ".nii.gz" if kind == "nifti" else ".nrrd"
    assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''scan-labels{suffix}"
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(answer.content)
    labels, image = read_volume(path), tab.annotator.workspace.volume(tab.id("scan"))
    assert labels.geometry.close_to(image.geometry)
    expected = np.zeros((12, 24, 20), int)
    expected[3][mask] = 1
    expected[:, 7] = 2  # on top
    np.testing.assert_array_equal(labels.voxels, expected)


def test_a_picture_of_numbers(tab, tmp_path):
    from PIL import Image

    tab.draw("disc2", block(1, 1, 9, 9, (48, 64)))
    tab.draw("disc2", block(5, 5, 20, 20, (48, 64)))
    path = tmp_path / "labels.png"
    path.write_bytes(tab.get("disc2", "/export", format="png").content)
    labels = np.asarray(Image.open(path))
    assert (labels[2, 2], labels[6, 6], labels[30, 30]) == (1, 2, 0)
    tab.draw("scan", block(6, 5, 18, 15, (24, 20)), index=3)
    assert tab.get("scan", "/export", format="png").status_code == 422
    path.write_bytes(tab.get("scan", "/export", format="png", axis="y", index=10).content)
    assert np.asarray(Image.open(path)).shape == (12, 20)


def test_a_dicom_segmentation_has_codes_and_overlaps(tab, series, images, tmp_path):
    path = tmp_path / "seg.dcm"
    path.write_bytes(tab.get("ct", "/export", format="dicom-seg").content)
    grid = read_series(images / "ct", None)
    found = read_segments(path, grid.geometry, (20, 24))
    assert [one.name for one in found] == ["left kidney", "something"]
    for region, expected in zip(found, series, strict=True):
        np.testing.assert_array_equal(volume_of(region, (4, 20, 24)), expected)
    written = hd.seg.segread(path)
    about = written.get_segment_description(1)
    assert about.segmented_property_type.value == "64033007"
    assert about.segmented_property_type.meaning == "kidney"
    modifier = about.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert modifier.CodeValue == "7771000"
    assert written.get_segment_description(2).segmented_property_category.meaning == "Tissue"


def test_a_structure_set_gives_the_same_masks(tab, series, images, tmp_path):
    path = tmp_path / "structures.dcm"
    path.write_bytes(tab.get("ct", "/export", format="rtstruct").content)
    grid = read_series(images / "ct", None)
    found = read_structures(path, grid.geometry)
    assert [one.name for one in found] == ["left kidney", "something"]
    for region, expected in zip(found, series, strict=True):
        np.testing.assert_array_equal(volume_of(region, (4, 20, 24)), expected)
    written = dcmread(path)
    source = dcmread(next((images / "ct").iterdir()))
    assert (written.PatientID, written.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert written.ROIContourSequence[0].ROIDisplayColor == [0xE6, 0x9F, 0x00]
    kinds = [one.ContourSequence[0].ContourGeometricType for one in written.ROIContourSequence]
    assert kinds == ["CLOSEDPLANAR_XOR", "CLOSED_PLANAR"]
    named = {
        one.ContourSequence[0].ContourImageSequence[0].ReferencedSOPInstanceUID for one in written.ROIContourSequence
    }
    heights = {
        dcmread(file).SOPInstanceUID: dcmread(file).ImagePositionPatient[2] for file in (images / "ct").iterdir()
    }
    assert {heights[uid] for uid in named} == {32.5}


def test_names_in_any_script_are_kept(tab, images, tmp_path):
    tab.draw("ct", ring(), "Нирка\\ліва\nü", index=1)
    grid = read_series(images / "ct", None)
    for kind, read in (
        ("rtstruct", lambda path: read_structures(path, grid.geometry)),
        ("dicom-seg", lambda path: read_segments(path, grid.geometry, (20, 24))),
    ):
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(tab.get("ct", "/export", format=kind).content)
        assert [one.name for one in read(path)] == ["Нирка ліва ü"]
        assert dcmread(path).PatientName == dcmread(next((images / "ct").iterdir())).PatientName


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="there is no dciodvfy (apt install dicom3tools)")
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
def test_dicom_files_pass_the_validator(tab, series, tmp_path, kind, holes):
    assert len(series) == 2
    if not holes:
        tab.draw("ct", block(3, 4, 13, 15), index=1, object="o1")
    path = tmp_path / "exported.dcm"
    path.write_bytes(tab.get("ct", "/export", format=kind).content)
    told = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False, timeout=60).stderr
    assert ("Segmentation" if kind == "dicom-seg" else "RTStructureSet") in told
    # DICOM PS3.3 C.8.8.6.3 has the type, Debian's dciodvfy of 2022 does not.
    newer = "Error - Unrecognized enumerated value <CLOSEDPLANAR_XOR> for value 1 of attribute <Contour Geometric Type>"
    errors = [line for line in told.splitlines() if line.startswith("Error")]
    assert set(errors) == ({newer} if kind == "rtstruct" and holes else set())


def test_contours_lie_where_the_pixels_lie_in_the_patient(tmp_path, predictor):
    """Against the formula of DICOM PS3.3 C.7.6.2.1.1, on a series whose rows run down and whose columns run left."""
    made_series(tmp_path / "ct", 3, ImageOrientationPatient=[0, 1, 0, -1, 0, 0])
    annotator = Annotator(Workspace([tmp_path / "ct"]), predictor)
    try:
        (image,) = annotator.workspace.items
        annotator.replace_objects(image, [("box", np.stack([block(2, 5, 9, 11)] * 3))], "me")
        (tmp_path / "s.dcm").write_bytes(export_image(annotator.annotated(image), "rtstruct"))
    finally:
        annotator.close()
    for contour in dcmread(tmp_path / "s.dcm").ROIContourSequence[0].ContourSequence:
        picture = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        (source,) = [one for one in map(dcmread, (tmp_path / "ct").iterdir()) if one.SOPInstanceUID == picture]
        down, right = (float(value) for value in source.PixelSpacing)
        corners = [(column, row) for row in (1.5, 8.5) for column in (4.5, 10.5)]
        expected = [np.add(source.ImagePositionPatient, [-row * down, column * right, 0]) for column, row in corners]
        found = np.reshape([float(value) for value in contour.ContourData], (-1, 3))
        np.testing.assert_allclose(sorted(found.tolist()), sorted(np.array(expected).tolist()), atol=1e-5)


def test_formats_that_do_not_fit_are_refused(tab):
    tab.draw("scan", block(6, 5, 18, 15, (24, 20)), index=3)
    for kind, status in (("dicom-seg", 422), ("rtstruct", 422), ("exe", 400)):
        assert tab.get("scan", "/export", format=kind).status_code == status
    assert tab.get("ct", "/export", format="dicom-seg").json()["error"]["code"] == "write"
    assert tab.get("ct", "/export", format="rtstruct").json()["error"]["code"] == "write"


def test_coco_has_every_slice_with_objects(tab):
    tab.draw("scan", block(6, 5, 18, 15, (24, 20)), "block", index=3)
    made = tab.draw("scan", block(6, 5, 9, 15, (24, 20)), "block", index=4)
    tab.draw("scan", block(1, 1, 4, 4, (24, 20)), index=3, object=made)
    found = json.loads(tab.get("scan", "/export", format="coco").content)
    assert [(one["axis"], one["index"]) for one in found["images"]] == [("z", 3), ("z", 4)]
    assert found["categories"] == [{"id": 1, "name": "block"}]
    assert [one["image_id"] for one in found["annotations"]] == [1, 1, 2]
    first = found["annotations"][0]
    np.testing.assert_array_equal(mask_of_runs(first["segmentation"], (24, 20)), block(6, 5, 18, 15, (24, 20)))
    assert (first["bbox"], first["area"]) == ([5, 6, 10, 12], 120)


def test_the_prompt_log_can_be_read_line_by_line(tab):
    tab.act("disc2", "prompt", axis="z", index=0, add=[{"kind": "box", "box": [5, 5, 30, 30]}])
    rows = [json.loads(line) for line in tab.get("disc2", "/export", format="prompts").text.splitlines()]
    assert rows[0]["image"] == "disc2.png"
    assert rows[1]["kind"] == "prompt"
    assert rows[1]["prompts"][0]["box"] == [5, 5, 30, 30]


def test_the_corpus_is_one_that_finetune_takes(tab):
    from pathlib import Path

    tab.draw("disc2", block(5, 20, 30, 40, (48, 64)), "optic disc")
    tab.draw("disc2", block(20, 30, 35, 50, (48, 64)), "optic cup")
    tab.draw("scan", block(6, 5, 18, 15, (24, 20)), "liver", index=3)
    tab.draw("scan", block(6, 5, 18, 15, (24, 20)), "liver", index=5)
    for name in ("disc2", "scan", "ct"):
        tab.act(name, "state", done=True)
    headers = {"X-Vesalius-Session": tab.session}
    told = tab.client.post("/api/export", json={"format": "corpus"}, headers=headers).json()
    assert (told["images"], told["objects"]) == (3, 4)
    assert told["left_out"] == [{"name": "ct", "reason": "nothing is outlined"}]
    corpus = Corpus(Path(told["folder"]))
    assert not list(check_corpus(corpus))
    read = [corpus.read(row) for row in range(len(corpus))]
    assert sorted(mask.target for one in read for mask in one.masks) == ["liver", "liver", "optic cup", "optic disc"]
    assert len({one.case for one in read}) == 2
    disc = next(one for one in read if len(one.masks) == 2)
    # Of the name below the annotated folder, so that it is the same where the folder has moved.
    assert disc.case == hashlib.blake2b(b"disc2.png", digest_size=8).hexdigest()
    areas = {mask.target: int(mask.mask.sum()) for mask in disc.masks}
    assert areas == {"optic cup": 15 * 20, "optic disc": 25 * 20}
    about = corpus.images.to_pylist()
    assert [(row["axis"], row["index"]) for row in about] == [("2d", 0), ("z", 3), ("z", 5)]
    assert about[1]["slice_spacing"] == 2.5
    assert (about[1]["row_spacing"], about[1]["column_spacing"]) == (np.float32(0.8), np.float32(0.7))


@pytest.mark.parametrize("kind", ["labels", "prompts"])
def test_images_of_one_name_do_not_overwrite_each_other(tmp_path, predictor, images, kind):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.nii.gz").write_bytes((images / "scan.nii.gz").read_bytes())
    (tmp_path / "x" / "b c.nii.gz").write_bytes((images / "scan.nii.gz").read_bytes())
    for name in ("b_c.nii.gz", "B c.nii"):
        nibabel.save(nibabel.load(images / "scan.nii.gz"), tmp_path / "x" / name)
    annotator = Annotator(Workspace([tmp_path / "x", tmp_path / "y"]), predictor)
    try:
        voxels = np.zeros((12, 24, 20), np.bool_)
        voxels[4, 4:9, 4:9] = True
        for image in annotator.workspace.items:
            annotator.replace_objects(image, [("block", voxels)], "me", done=True)
        folder = tmp_path / "out"
        export_all([annotator.annotated(image) for image in annotator.workspace.items], kind, folder)
    finally:
        annotator.close()
    suffix = ".nii.gz" if kind == "labels" else ".jsonl"
    assert len([path for path in folder.iterdir() if path.name.endswith(suffix)]) == 5


def test_a_line_that_is_being_written_is_not_exported(tab):
    tab.draw("disc2", block(5, 20, 30, 40, (48, 64)), "disc")
    log = tab.annotator.workspace.item(tab.id("disc2")).log
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"n":3')
    assert tab.get("disc2", "/export", format="prompts").content == whole


@pytest.mark.parametrize("kind", ["coco", "labels", "prompts"])
def test_collections_are_written_whole(tab, kind):
    from pathlib import Path

    headers = {"X-Vesalius-Session": tab.session}
    wish = {"format": kind, "states": ["begun", "done"]}
    answer = tab.client.post("/api/export", json=wish, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "there is nothing to export"
    tab.draw("disc2", block(5, 20, 30, 40, (48, 64)), "disc")
    tab.draw("ct", ring(), "kidney", index=1)
    told = tab.client.post("/api/export", json=wish, headers=headers).json()
    folder = Path(told["folder"])
    assert told["images"] == 2
    files = sorted(path.name for path in folder.rglob("*") if path.is_file())
    if kind == "labels":
        assert files == ["ct-labels.json", "ct-labels.nii.gz", "disc2-labels.json", "disc2-labels.nii.gz"]
        assert nibabel.load(folder / "ct-labels.nii.gz").shape == (24, 20, 4)
    if kind == "prompts":
        assert files == ["ct-prompts.jsonl", "disc2-prompts.jsonl"]
    assert len(tab.client.post("/api/images/refresh").json()["images"]) == 4


def test_files_are_called_like_their_image_but_never_overwrite_it(tmp_path, predictor, images):
    folder = tmp_path / "named"
    folder.mkdir()
    voxels = np.random.default_rng(0).normal(size=(6, 7, 5, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / "times.nii.gz")
    (folder / "A.B.PNG").write_bytes((images / "disc2.png").read_bytes())
    (folder / "1.2.840.7").write_bytes(next((images / "ct").iterdir()).read_bytes())
    annotator = Annotator(Workspace([folder, folder / "1.2.840.7"]), predictor)
    try:
        stems = [annotator.annotated(image).stem for image in annotator.workspace.items]
    finally:
        annotator.close()
    assert stems == ["1.2.840.7", "A.B", "times__0_", "times__1_"]
