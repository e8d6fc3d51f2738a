from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from made_listing import listed
from vesalius.core.errors import GeometryError, ReadError, WriteError
from vesalius.core.types import Slice
from vesalius.corpus.layouts import layout, msd
from vesalius.corpus.objects import LabelledImage, ObjectMask

DATA = pytest.mark.skipif("VESALIUS_DATA" not in os.environ, reason="VESALIUS_DATA names no folder of real data")


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 1.0, 3.0, 1.0]) if affine is None else affine), path)
    return path


def made(root: Path, times: int = 0, **about: object) -> Path:
    """Two cases of 5 x 6 x 7 voxels and ``times`` channels, of which one is for testing and has no labels."""
    rng = np.random.default_rng(0)
    shape = (5, 6, 7, times) if times else (5, 6, 7)
    save(root / "imagesTr/a.nii.gz", rng.integers(0, 99, shape, dtype=np.int16))
    save(root / "imagesTs/b.nii.gz", rng.integers(0, 99, shape, dtype=np.int16))
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1:3, 2, 3], labels[4, 5, 6] = 1, 2
    save(root / "labelsTr/a.nii.gz", labels)
    content = {
        "tensorImageSize": "4D" if times else "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        "test": ["./imagesTs/b.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(content | about))
    return root


def test_images_and_labels(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    given = recipe("msd", root)
    first, second = listed(given)
    assert [(e.name, e.case, e.split, len(e.labels)) for e in (first, second)] == [
        ("a", "a", "train", 1),
        ("b", "b", "test", 0),
    ]
    (scan,) = msd.read(first, given)
    assert (scan.name, scan.volume.modality, scan.volume.window) == ("a", "ct", (-160.0, 240.0))
    assert scan.volume.geometry is not None
    assert scan.volume.geometry.spacing == (2.0, 1.0, 3.0)
    (layer,) = scan.layers
    assert (layer.names, layer.objects) == ({1: "liver", 2: "cancer"}, False)
    assert layer.values.shape == (7, 6, 5)
    assert layer.values[3, 2, 1] == 1
    assert layer.values[6, 5, 4] == 2
    (scan,) = msd.read(second, given)
    assert scan.layers == ()
    assert msd.guess(root) == recipe("msd", root).model_copy(update={"name": tmp_path.name})


def test_channels_become_scans_of_their_own(tmp_path: Path, recipe) -> None:
    root = made(tmp_path, 3, modality={"0": "FLAIR", "1": "T1w", "2": "something"})
    given = recipe("msd", root, modality="mr")
    scans = list(msd.read(listed(given)[0], given))
    assert [(s.name, s.volume.modality) for s in scans] == [
        ("a-FLAIR", "mr_flair"),
        ("a-T1w", "mr_t1"),
        ("a-something", "mr"),
    ]
    stored = np.asarray(nibabel.load(root / "imagesTr/a.nii.gz").dataobj)
    for number, scan in enumerate(scans):
        np.testing.assert_array_equal(scan.volume.voxels, stored[..., number].T)
        assert scan.layers[0].values.max() == 2
    named = recipe("msd", root, channels=("t2", "adc", "dwi"))
    assert [s.volume.modality for s in msd.read(listed(named)[0], named)] == ["mr_t2", "mr_adc", "mr_dwi"]
    wrong = recipe("msd", root, channels=("t2", "adc"))
    with pytest.raises(ReadError, match="has 3 channels, but 2 are named: t2, adc"):
        list(msd.read(listed(wrong)[0], wrong))


def test_time_points_are_numbered(tmp_path: Path, recipe) -> None:
    root = made(tmp_path, 2)
    given = recipe("msd", root)
    entry = listed(given)[0]
    assert [s.name for s in msd.read(entry, given)] == ["a-000", "a-001"]
    # A label map with as many time points goes with them.
    labels = np.zeros((5, 6, 7, 2), np.uint8)
    labels[0, 0, 0, 1] = 2
    save(root / "labelsTr/a.nii.gz", labels)
    assert [int(s.layers[0].values.sum()) for s in msd.read(entry, given)] == [0, 2]


def test_values_are_handed_out_as_they_are(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    values = np.zeros((5, 6, 7), np.float32)
    values[0, 0, :4] = 1.5, -1, 7, np.nan
    save(root / "labelsTr/a.nii.gz", values)
    given = recipe("msd", root, targets={"cancer": "hepatic tumour", "7": "spleen"}, ignore=(2,))
    (scan,) = msd.read(listed(given)[0], given)
    (layer,) = scan.layers
    np.testing.assert_array_equal(layer.values[:4, 0, 0], [1.5, -1, 7, np.nan])
    assert layer.names == {1: "liver", 2: "hepatic tumour", 7: "spleen"}


def shifted() -> np.ndarray:
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    affine[0, 3] = 2e-4
    return affine


@pytest.mark.parametrize(
    ("values", "affine", "reason"),
    [
        (np.zeros((5, 6, 7)), shifted(), "lies elsewhere in the patient than its image .*a.nii.gz"),
        (np.zeros((5, 6, 8)), None, "5 x 6 x 8 voxels, but its image .*imagesTr.a.nii.gz is 5 x 6 x 7"),
        (np.zeros((5, 6)), None, "but its image"),
    ],
)
def test_labels_of_another_geometry(tmp_path: Path, recipe, values, affine, reason: str) -> None:
    root = made(tmp_path)
    save(root / "labelsTr/a.nii.gz", values.astype(np.uint8), affine)
    given = recipe("msd", root)
    with pytest.raises(GeometryError, match=rf"labelsTr.a.nii.gz: .*{reason}"):
        list(msd.read(listed(given)[0], given))


def test_a_geometry_that_is_nearly_the_same(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    affine[0, 3] = 5e-5
    save(root / "labelsTr/a.nii.gz", np.ones((5, 6, 7), np.uint8), affine)
    given = recipe("msd", root)
    assert len(list(msd.read(listed(given)[0], given))) == 1


def test_a_single_slice_among_volumes(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    for kind in ("images", "labels"):
        save(root / f"{kind}Tr/a.nii.gz", np.eye(6, dtype=np.uint8))
    given = recipe("msd", root)
    with pytest.raises(ReadError, match=r"a.nii.gz: has one slice among volumes"):
        list(msd.read(listed(given)[0], given))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "dataset.json: cannot be read"),
        ("{", "dataset.json: is not JSON"),
        ("[]", "has none of the lists"),
        ('{"training": [{"label": "x"}]}', "row 1 of training names no files"),
        ('{"training": [], "labels": {"x": "liver"}}', "its labels cannot be read"),
        ('{"training": [{"image": "../../other/a.nii.gz"}]}', "does not lie below"),
    ],
)
def test_damaged_lists(tmp_path: Path, recipe, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ReadError, match=reason):
        listed(recipe("msd", tmp_path))
    assert msd.guess(tmp_path) is None


def test_a_missing_or_damaged_file_is_one_reject(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    given = recipe("msd", root)
    first, second = listed(given)
    content = first.image.read_bytes()
    first.image.write_bytes(content[: len(content) // 2])
    second.image.unlink()
    with pytest.raises(ReadError, match=r"a.nii.gz: .*cut short"):
        list(msd.read(first, given))
    with pytest.raises(ReadError, match=r"b.nii.gz: there is no such file"):
        list(msd.read(second, given))
    first.image.write_bytes(content)
    first.labels[0].unlink()
    with pytest.raises(ReadError, match=r"labelsTr.a.nii.gz: there is no such file"):
        list(msd.read(first, given))


@pytest.mark.parametrize("name", ["msd", "monai", "nnunet"])
def test_round_trip(apart, round_trip, classes_of, true_classes, name) -> None:
    apart[3] = replace(apart[3], modality="ct")
    found = round_trip(name, apart)
    assert [(entry.name, entry.case, entry.split) for entry, _ in found] == [
        (f"made_scan_{i}_z_000{i}", f"patient {i // 2}", ("train", "val", "test", None)[i]) for i in range(4)
    ]
    for (_, scan), image in zip(found, apart, strict=True):
        np.testing.assert_array_equal(scan.volume.voxels[0], image.image.pixels)
        assert scan.volume.modality == image.modality
        assert scan.volume.geometry is not None
        assert scan.volume.geometry.spacing[1::-1] == (image.image.spacing or (1.0, 1.0))
        assert classes_of(scan) == true_classes(image)


@pytest.mark.parametrize("name", ["msd", "monai", "nnunet"])
def test_round_trip_in_colour(apart, round_trip, classes_of, true_classes, name) -> None:
    grey = apart[0].image
    colour = np.stack([grey.pixels, grey.pixels // 2, 255 - grey.pixels], axis=-1)
    ((_, scan),) = round_trip(name, [replace(apart[0], image=replace(grey, pixels=colour, spacing=None))])
    np.testing.assert_array_equal(scan.volume.voxels[0], colour)
    assert classes_of(scan) == true_classes(apart[0])
    assert scan.volume.modality == "mr_t1"


def test_round_trip_of_many_targets(round_trip, classes_of, true_classes) -> None:
    pixels = np.arange(400, dtype=np.int16).reshape(20, 20) - 100
    labels = np.arange(400).reshape(20, 20)
    masks = [ObjectMask(labels == i, f"target {i}", i) for i in range(1, 300)]
    image = LabelledImage(Slice(pixels, window=(-100.0, 200.0)), "ct", "d", "c", Path("a.png"), masks)
    ((_, scan),) = round_trip("msd", [image])
    np.testing.assert_array_equal(scan.volume.voxels[0], pixels)
    assert classes_of(scan) == true_classes(image)


@pytest.mark.parametrize("name", ["msd", "monai", "nnunet", "cosmos", "pairs"])
def test_targets_that_overlap_are_refused_and_nothing_is_left(tmp_path: Path, labelled, name) -> None:
    with pytest.raises(WriteError, match=rf"overlap.* made/scan 0/z_0000.* layout {name}"):
        layout(name).write(labelled, tmp_path / "out", "made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["msd", "monai", "nnunet", "imis", "cosmos", "sam-med2d", "sa-med2d-20m", "pairs"])
def test_two_images_of_one_name_are_refused(tmp_path: Path, apart, name) -> None:
    with pytest.raises(WriteError, match=r"two (images|masks) are named"):
        layout(name).write([apart[0], apart[0]], tmp_path / "out", "made")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(WriteError, match="is there already"):
        layout(name).write(apart, tmp_path / "out", "made")


@DATA
@pytest.mark.parametrize("step", [16, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["msd", "nnunet", "monai", "pairs", "sa-med2d-20m", "imis"])
def test_real_volumes_come_back(round_trip, classes_of, true_classes, recipe, name, step) -> None:
    root = Path(os.environ["VESALIUS_DATA"]) / "volumes" / "hippocampus"
    given = recipe("msd", root)
    entries = listed(given)
    assert len(entries) == 40
    images = []
    for entry in entries[::step]:
        (scan,) = msd.read(entry, given)
        assert scan.volume.modality == "mr"
        (layer,) = scan.layers
        assert layer.names == {1: "Anterior", 2: "Posterior"}
        for index in range(0, len(layer.values), 5 if step > 1 else 1):
            masks = [
                ObjectMask(layer.values[index] == value, target, value)
                for value, target in layer.names.items()
                if (layer.values[index] == value).any()
            ]
            cut = scan.volume.slice("z", index)
            cut = replace(cut, pixels=cut.rgb()[..., 0], window=(0.0, 255.0))
            made = f"hippocampus/{scan.name}/z_{index:04d}"
            if masks:
                images.append(LabelledImage(cut, "mr", "hippocampus", entry.case, entry.image, masks, made, "train"))
    found = round_trip(name, images)
    assert len(found) == len(images) > 5
    assert {entry.case for entry, _ in found} == {entry.case for entry in entries[::step]}
    expected = sorted((image.image.pixels.tobytes(), sorted(true_classes(image).items())) for image in images)
    assert sorted((s.volume.voxels.tobytes(), sorted(classes_of(s).items())) for _, s in found) == expected
