from __future__ import annotations

import os

import numpy as np
import pytest
import tifffile
from PIL import Image

from made_dicom import made_film, made_series
from vesalius.core.errors import ReadError
from vesalius.server.refusals import Refusal
from vesalius.server.workspace import Workspace, find_items, find_label_maps


def picture(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 8), value, np.uint8)
    pixels[2:4, 2:4] = 255
    Image.fromarray(pixels).save(path)
    return path


def test_links_that_lead_out_are_left_aside(tmp_path):
    secret = picture(tmp_path / "secret" / "patient.png")
    inside = picture(tmp_path / "shown" / "a.png")
    (tmp_path / "shown" / "link.png").symlink_to(secret)
    (tmp_path / "shown" / "folder").symlink_to(secret.parent)
    (tmp_path / "shown" / "same.png").symlink_to(inside)
    names = [item.name for item in find_items(tmp_path / "shown")]
    assert names == ["a.png", "same.png"]


def test_a_link_that_is_bent_later_is_not_followed(tmp_path):
    secret = picture(tmp_path / "secret" / "patient.png", 3)
    path = picture(tmp_path / "shown" / "a.png")
    workspace = Workspace([tmp_path / "shown"])
    (image,) = workspace.items
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(ReadError, match="leads out"):
        workspace.volume(image)


def test_headers_that_name_a_file_outside_are_not_followed(tmp_path):
    (tmp_path / "shown").mkdir()
    np.arange(64, dtype=np.uint8).tofile(tmp_path / "secret.raw")
    np.arange(64, dtype=np.uint8).tofile(tmp_path / "shown" / "own.raw")
    for name, data in (("own", "own.raw"), ("up", "../secret.raw"), ("far", tmp_path / "secret.raw")):
        head = "type: uchar\ndimension: 2\nsizes: 8 8\nencoding: raw"
        (tmp_path / "shown" / f"{name}.nhdr").write_text(f"NRRD0004\n{head}\nData File: {data}\n")
        head = "ObjectType = Image\nNDims = 2\nDimSize = 8 8\nElementType = MET_UCHAR"
        (tmp_path / "shown" / f"{name}.mha").write_text(f"{head}\nElementDataFile = {data}\n")
    workspace = Workspace([tmp_path / "shown"])
    assert len(workspace.items) == 6
    for image, item in workspace.items.items():
        if item.path.stem == "own":
            assert workspace.volume(image).voxels.size == 64
        else:
            with pytest.raises(ReadError, match="outside of the given folder"):
                workspace.volume(image)


def test_an_image_that_changes_while_the_server_runs_is_refused(tmp_path):
    paths = [picture(tmp_path / f"{name}.png") for name in "ab"]
    workspace = Workspace([tmp_path], memory=64)
    first, second = workspace.items
    workspace.volume(first)
    workspace.volume(second)
    picture(paths[0], 7)
    with pytest.raises(ReadError, match="has changed"):
        workspace.volume(first)


def test_only_ids_are_asked_for(tmp_path):
    picture(tmp_path / "a.png")
    workspace = Workspace([tmp_path])
    for asked in ("a.png", "../a.png", str(tmp_path / "a.png"), "", "%2e%2e"):
        with pytest.raises(Refusal, match="no such image"):
            workspace.volume(asked)


def test_an_image_has_one_id_and_one_log_however_it_is_given(tmp_path):
    path = picture(tmp_path / "a.png")
    (one,), (other,) = Workspace([tmp_path]).items.values(), Workspace([path]).items.values()
    assert (one.id, one.log) == (other.id, other.log)
    assert one.log.parent == tmp_path / "vesalius-annotations"
    (moved,) = Workspace([path], tmp_path / "out").items.values()
    assert (moved.id, moved.log.parent) == (one.id, tmp_path / "out")


def test_images_of_one_name_are_kept_apart(tmp_path):
    paths = [picture(tmp_path / folder / "a.png", value) for folder, value in (("x", 1), ("y", 2))]
    workspace = Workspace(paths)
    assert [item.name for item in workspace.items.values()] == ["x/a.png", "y/a.png"]
    assert {item.log.parent.parent.name for item in workspace.items.values()} == {"x", "y"}
    assert [workspace.volume(image).voxels[0, 0, 0] for image in workspace.items] == [1, 2]
    assert len({item.log for item in Workspace(paths, tmp_path / "out").items.values()}) == 2
    again = picture(tmp_path / "other" / "x" / "a.png")
    with pytest.raises(ReadError, match="one log"):
        Workspace([*paths, again], tmp_path / "out")


def test_logs_are_no_images(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "vesalius-annotations" / "exports" / "b.png")
    picture(tmp_path / "out" / "c.png")
    assert [item.name for item in find_items(tmp_path, tmp_path / "out")] == ["a.png"]


def test_label_maps_beside_their_images_are_left_out_unless_they_are_named(tmp_path):
    for folder in ("imagesTr", "labelsTr", "heart/images/train", "heart/masks/train", "masks", "plain/labels"):
        picture(tmp_path / "data" / folder / "a.png")
    (tmp_path / "data" / "labelsTr" / "notes.txt").write_text("x")
    workspace = Workspace([tmp_path / "data"])
    names = {item.name for item in workspace.items.values()}
    assert names == {"imagesTr/a.png", "heart/images/train/a.png", "plain/labels/a.png"}
    left_out = sorted(path.relative_to(tmp_path / "data").as_posix() for path in find_label_maps(tmp_path / "data"))
    assert left_out == ["heart/masks/train/a.png", "labelsTr/a.png", "masks/a.png"]
    for named in (tmp_path / "data" / "labelsTr", tmp_path / "data" / "labelsTr" / "a.png"):
        assert [item.name for item in find_items(named)] == ["a.png"]
        assert not list(find_label_maps(named))


def test_series_in_one_folder_are_told_apart(tmp_path):
    made_series(tmp_path / "mixed", 3)
    made_series(tmp_path / "other", 2)
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / "mixed" / path.name)
    (tmp_path / "other").rmdir()
    (tmp_path / "mixed" / "notes.txt").write_text("x")
    workspace = Workspace([tmp_path])
    assert sorted(len(item.files) for item in workspace.items.values()) == [2, 3]
    assert sorted(workspace.volume(image).voxels.shape[0] for image in workspace.items) == [2, 3]
    made_series(tmp_path / "alone", 2)
    (item,) = find_items(tmp_path / "alone")
    assert item.log.parent == tmp_path / "vesalius-annotations"


def test_time_points_are_images_of_their_own(tmp_path):
    import nibabel

    voxels = np.random.default_rng(0).integers(0, 99, (4, 5, 6, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "film.nii.gz")
    workspace = Workspace([tmp_path])
    assert [item.name for item in workspace.items.values()] == [f"film.nii.gz [{t}]" for t in range(3)]
    for time, image in enumerate(workspace.items):
        np.testing.assert_array_equal(workspace.volume(image).voxels, voxels[..., time].T)


def test_a_dicom_image_tells_whose_it_is(tmp_path):
    made_series(tmp_path / "first", 2, "1.2.31", PatientID="patient 7", StudyInstanceUID="1.2.9")
    made_series(tmp_path / "second", 1, "1.2.32", PatientID="patient 7", StudyInstanceUID="1.2.10")
    made_series(tmp_path / "nameless", 2, "1.2.34", PatientID=None, StudyInstanceUID="1.2.12")
    made_series(tmp_path / "unknown", 2, "1.2.35", PatientID="", StudyInstanceUID=None)
    (tmp_path / "scan.png").write_bytes(b"")
    found = {item.name.split("/")[0]: item.patient for item in find_items(tmp_path)}
    assert found == {
        "first": "patient 7",
        "second": "patient 7",
        "nameless": "1.2.12",
        "unknown": None,
        "scan.png": None,
    }


@pytest.mark.parametrize("name", ["film.tif", "film.dcm"])
def test_frames_of_a_film_are_images_of_their_own(tmp_path, name):
    frames = np.random.default_rng(0).integers(0, 99, (3, 4, 5), dtype=np.uint8)
    path = tmp_path / "films" / name
    path.parent.mkdir()
    if name == "film.tif":
        tifffile.imwrite(path, frames, imagej=True, metadata={"axes": "TYX"})
    else:
        made_film(path, frames)
    for given in (path, path.parent):
        workspace = Workspace([given])
        assert [item.name for item in workspace.items.values()] == [f"{name} [{t}]" for t in range(3)]
        for frame, image in zip(frames, workspace.items, strict=True):
            np.testing.assert_array_equal(workspace.volume(image).voxels, frame[None])
    assert len({item.log for item in workspace.items.values()}) == 3


def test_frames_that_state_their_positions_are_one_volume(tmp_path):
    made_film(tmp_path / "a.dcm", np.eye(4, 5, dtype=np.uint8)[None].repeat(3, 0), positions=[1, 3, 5])
    (item,) = Workspace([tmp_path]).items.values()
    assert item.read().geometry.spacing == (1, 1, 2)


def test_time_points_without_end_are_not_listed(tmp_path):
    made_film(tmp_path / "a.dcm", np.zeros((20_000, 1, 1), np.uint8))
    picture(tmp_path / "b.png")
    items = list(Workspace([tmp_path]).items.values())
    assert [item.name for item in items] == ["a.dcm", "b.png"]
    assert "20000 time points" in items[0].error


def test_images_that_were_read_lately_are_kept_within_bytes(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    workspace = Workspace([tmp_path], memory=2 * 64)
    kept = [workspace.volume(image) for image in workspace.items]
    again = [workspace.volume(image) for image in reversed(workspace.items)]
    assert again[0] is kept[2]
    assert again[1] is kept[1]
    assert again[2] is not kept[0]


def test_paths_that_hold_nothing_are_an_error(tmp_path):
    with pytest.raises(ReadError, match="no image"):
        Workspace([tmp_path])
    with pytest.raises(ReadError, match="no such file"):
        Workspace([tmp_path / "none"])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_are_sorted_as_people_count(tmp_path):
    for name in ("s10", "s9", "S1", "a"):
        picture(tmp_path / f"{name}.png")
    assert [item.name for item in Workspace([tmp_path]).items.values()] == ["a.png", "S1.png", "s9.png", "s10.png"]
