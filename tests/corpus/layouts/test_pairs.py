from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from made_listing import listed
from vesalius.core.errors import ConfigError, GeometryError, ReadError, WriteError
from vesalius.corpus.layouts import pairs
from vesalius.corpus.objects import ObjectMask

LABELS = np.zeros((10, 12), np.uint8)
LABELS[1:5, 1:9] = 1
LABELS[6:9, 2:6] = 2
OBJECTS = np.zeros((10, 12), np.uint16)
OBJECTS[1:5, 1:5], OBJECTS[1:5, 5:9] = 7, 900


def made(root: Path, stems: tuple[str, ...] = ("p1_1", "p1_2", "p2_1"), suffix: str = ".png") -> Path:
    for kind in ("images", "labels", "objects"):
        (root / kind).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (10, 12), dtype=np.uint8)
    for stem in stems:
        Image.fromarray(pixels).save(root / "images" / f"{stem}{suffix}")
        Image.fromarray(LABELS).save(root / "labels" / f"{stem}.png")
        Image.fromarray(OBJECTS).save(root / "objects" / f"{stem}.png")
    return root


PLAIN = {"images": "images/*.png", "labels": "labels/{stem}.png", "targets": {"1": "liver", "2": "spleen"}}


def read(root: Path, recipe, **about):
    given = recipe("pairs", root, **(PLAIN | about))
    entries = listed(given)
    return entries, next(pairs.read(entries[0], given))


def test_labels_by_pattern(tmp_path: Path, recipe) -> None:
    entries, scan = read(made(tmp_path), recipe, modality="ultrasound", case=r"^images/([^_]+)_", ignore=(2,))
    assert [(e.name, e.case, e.split) for e in entries] == [
        ("p1_1", "p1", None),
        ("p1_2", "p1", None),
        ("p2_1", "p2", None),
    ]
    assert scan.volume.modality == "ultrasound"
    (layer,) = scan.layers
    np.testing.assert_array_equal(layer.values[0], LABELS)
    assert layer.names == {1: "liver", 2: "spleen"}


def test_volumes_in_folders_of_cases(tmp_path: Path, recipe) -> None:
    rng = np.random.default_rng(0)
    for case in ("STS_002", "STS_008"):
        (tmp_path / case).mkdir()
        for name, values in (
            ("CT_image", rng.integers(-99, 99, (4, 5, 6), dtype=np.int16)),
            ("CT_mask", rng.integers(0, 2, (4, 5, 6), dtype=np.uint8)),
        ):
            nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 2, 3, 1.0])), tmp_path / case / f"{name}.nii.gz")
    given = recipe(
        "pairs",
        tmp_path,
        images="STS_*/CT_image.nii.gz",
        labels="{case}/CT_mask.nii.gz",
        case=r"^(STS_\d+)/",
        modality="ct",
        targets={"1": "gross tumour volume"},
    )
    entries = listed(given)
    assert [(e.name, e.case) for e in entries] == [("STS_002_CT_image", "STS_002"), ("STS_008_CT_image", "STS_008")]
    (scan,) = pairs.read(entries[1], given)
    assert scan.volume.voxels.shape == scan.layers[0].values.shape == (6, 5, 4)
    np.testing.assert_array_equal(
        scan.layers[0].values, np.asarray(nibabel.load(tmp_path / "STS_008/CT_mask.nii.gz").dataobj).T
    )


def test_objects_take_the_label_of_most_of_their_pixels(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    _, scan = read(root, recipe, instances="objects/{stem}.png")
    objects, rest = scan.layers
    assert (objects.objects, objects.names) == (True, {1: "liver", 2: "liver"})
    np.testing.assert_array_equal(objects.values[0] == 2, OBJECTS == 900)
    # What no object holds is a class as before.
    assert (rest.objects, rest.names) == (False, {1: "liver", 2: "spleen"})
    np.testing.assert_array_equal(rest.values[0], np.where(OBJECTS == 0, LABELS, 0))
    assert set(np.unique(rest.values)) == {0, 2}


def test_pixels_without_label_say_nothing_about_an_object(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    labels = np.zeros_like(LABELS)
    labels[1, 1] = 2
    labels[1:5, 5:9] = 1
    Image.fromarray(labels).save(root / "labels/p1_1.png")
    _, scan = read(root, recipe, instances="objects/{stem}.png")
    assert scan.layers[0].names == {1: "spleen", 2: "liver"}


def test_numbers_of_objects_are_no_labels(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    _, scan = read(root, recipe, instances="objects/{stem}.png", ignore=(7, 1, 900))
    # Objects of an ignored label are ignored.
    assert scan.layers[0].names == {}
    assert not scan.layers[0].values.any()
    _, scan = read(root, recipe, instances="objects/{stem}.png", ignore=(2,))
    assert sorted(scan.layers[0].names) == [1, 3]


def test_objects_without_labels(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    _, scan = read(root, recipe, labels=None, instances="objects/{stem}.png", targets={"1": "cell"})
    (objects,) = scan.layers
    assert (objects.objects, objects.names) == (True, {1: "cell", 2: "cell"})
    with pytest.raises(ConfigError, match="targets must name one target"):
        read(root, recipe, labels=None, instances="objects/{stem}.png")


def test_an_object_that_nothing_names(tmp_path: Path, recipe) -> None:
    with pytest.raises(ReadError, match=r"objects.p1_1.png: object 7 has the label 1, which nothing names"):
        read(made(tmp_path), recipe, instances="objects/{stem}.png", targets={"2": "spleen"})


def test_palettes_count_by_their_indices(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    picture = Image.fromarray(LABELS).convert("P")
    picture.putpalette([0, 0, 0, 200, 30, 30, 9, 9, 250])
    picture.save(root / "labels/p1_1.png")
    _, scan = read(root, recipe)
    np.testing.assert_array_equal(scan.layers[0].values[0], LABELS)
    Image.fromarray(np.repeat(LABELS[..., None], 3, 2)).save(root / "labels/p1_1.png")
    _, scan = read(root, recipe)
    np.testing.assert_array_equal(scan.layers[0].values[0], LABELS)
    Image.fromarray(np.stack([LABELS, LABELS, LABELS * 0], 2)).save(root / "labels/p1_1.png")
    with pytest.raises(ReadError, match=r"labels.p1_1.png: is a colour picture"):
        read(root, recipe)


@pytest.mark.parametrize("kind", ["labels", "objects"])
def test_maps_of_another_size(tmp_path: Path, recipe, kind: str) -> None:
    root = made(tmp_path)
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(root / kind / "p1_1.png")
    with pytest.raises(GeometryError, match=rf"{kind}.p1_1.png: is 10 x 12 x 1 voxels, but its image .*images.p1_1"):
        read(root, recipe, instances="objects/{stem}.png")
    (root / kind / "p1_1.png").unlink()
    with pytest.raises(ReadError, match=rf"{kind}.p1_1.png: there is no such file"):
        read(root, recipe, instances="objects/{stem}.png")


def test_recipes_that_make_no_sense(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    for about in ({"images": None}, {"labels": None}):
        with pytest.raises(ConfigError, match="made: the layout pairs needs patterns"):
            listed(recipe("pairs", root, **(PLAIN | about)))
    with pytest.raises(ConfigError, match=r"images: '/a/\*' is no pattern below the root"):
        listed(recipe("pairs", root, **(PLAIN | {"images": "/a/*"})))
    with pytest.raises(ReadError, match=r"p2_1.png: does not match the recipe's case"):
        listed(recipe("pairs", root, **(PLAIN | {"case": "(p1)_"})))
    (root / "images/p1_1.jpg").write_bytes((root / "images/p1_1.png").read_bytes())
    found = listed(recipe("pairs", root, **(PLAIN | {"images": "images/*"})))
    problems = [entry.extra.get("problem") for entry in found if entry.name == "p1_1"]
    assert problems == ["two images would be named p1_1: images/p1_1.jpg and images/p1_1.png"] * 2
    assert not any("problem" in entry.extra for entry in found if entry.name != "p1_1")


def test_guess_of_a_described_set(tmp_path: Path) -> None:
    stems = ("p1_1", "p1_2", "p2.b_1", "p3")
    root = made(tmp_path / "set", stems)
    (root / "objects").rename(root / "labels_instances")
    about = {"modality": "ct", "labels": {"1": "liver", "2": "spleen"}, "cases": 3, "instances": True}
    (root / "set.json").write_text(json.dumps(about))
    guessed = pairs.guess(root)
    assert guessed is not None
    assert (guessed.name, guessed.modality, guessed.targets) == ("set", "ct", {"1": "liver", "2": "spleen"})
    entries = listed(guessed)
    assert [entry.case for entry in entries] == ["p1", "p1", "p2.b", "p3"]
    assert next(pairs.read(entries[0], guessed)).layers[0].objects
    (root / "set.json").write_text(json.dumps(about | {"cases": 4}))
    guessed = pairs.guess(root)
    assert guessed is not None
    assert [entry.case for entry in listed(guessed)] == ["p1_1", "p1_2", "p2.b_1", "p3"]
    (root / "set.json").write_text(json.dumps(about | {"cases": 9}))
    with pytest.raises(ReadError, match="do not show the 9 cases"):
        pairs.guess(root)


def test_guess_of_plain_folders(tmp_path: Path) -> None:
    root = made(tmp_path / "set", suffix=".jpg")
    guessed = pairs.guess(root)
    assert guessed is not None
    assert (guessed.images, guessed.labels, guessed.targets) == ("images/*", "labels/{stem}.png", {})
    (root / "index.json").write_text("{}")
    assert pairs.guess(root) is None
    assert pairs.guess(tmp_path) is None


def test_round_trip(apart, round_trip, masks_of, true_masks) -> None:
    apart[1] = replace(apart[1], case="patient_1/b", modality="ct")
    found = round_trip("pairs", apart)
    assert [(entry.name, entry.case, entry.split) for entry, _ in found] == [
        ("patient-0_made_scan_0_z_0000", "patient 0", "train"),
        ("patient-1-b_made_scan_1_z_0001", "patient_1/b", "val"),
        ("patient-1_made_scan_2_z_0002", "patient 1", "test"),
        ("patient-1_made_scan_3_z_0003", "patient 1", None),
    ]
    for (_, scan), image in zip(found, apart, strict=True):
        np.testing.assert_array_equal(scan.volume.voxels[0], image.image.pixels)
        assert scan.volume.modality == image.modality
        assert masks_of(scan) == true_masks(image)


def test_what_is_written_trains(tmp_path: Path, apart) -> None:
    pairs.write(apart, tmp_path / "out", "made")
    read_back = list(pairs.read_pairs(tmp_path / "out", min_area=0))
    assert [image.case for image in read_back] == ["patient-0", "patient-0", "patient-1", "patient-1"]
    assert [image.modality for image in read_back] == ["mr_t1"] * 4
    for image, true in zip(read_back, apart, strict=True):
        assert [(m.target, m.mask.tobytes()) for m in image.masks] == [(m.target, m.mask.tobytes()) for m in true.masks]


def test_objects_of_one_target_that_overlap_are_refused(tmp_path: Path, apart) -> None:
    mask = apart[0].masks[0].mask
    image = replace(apart[0], masks=[ObjectMask(mask, "cell", 1), ObjectMask(mask, "cell", 2)])
    with pytest.raises(WriteError, match="objects of cell overlap in made/scan 0/z_0000"):
        pairs.write([image], tmp_path / "out", "made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("VESALIUS_DATA" not in os.environ, reason="VESALIUS_DATA names no folder of real data")
def test_real_sets_are_guessed_and_read() -> None:
    root = Path(os.environ["VESALIUS_DATA"]) / "pairs"
    folders = sorted(path.parent for path in root.glob("*/set.json"))
    assert len(folders) == 40
    for folder in folders:
        guessed = pairs.guess(folder)
        assert guessed is not None
        about = json.loads((folder / "set.json").read_text())
        entries = listed(guessed)
        assert (len(entries), len({entry.case for entry in entries})) == (about["pairs"], about["cases"])
        for entry in entries[:2]:
            for scan in pairs.read(entry, guessed):
                for layer in scan.layers:
                    assert set(np.unique(layer.values).tolist()) - {0} <= set(layer.names)
