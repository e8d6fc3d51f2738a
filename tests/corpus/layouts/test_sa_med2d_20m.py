from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from made_listing import listed
from vesalius.core.errors import ReadError
from vesalius.corpus.layouts import sa_med2d_20m

NAME = "mr_t1c--BraTS2015--pat_07--z_0040"


def made(root: Path, index: object = None, classes: object = None) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (10, 12), dtype=np.uint8)
    mask = np.zeros((10, 12), np.uint8)
    mask[2:7, 3:9] = 255
    Image.fromarray(pixels).save(root / f"images/{NAME}.png")
    masks = [f"masks/{NAME}--{number}.png" for number in ("0001_000", "0000_000", "0000_001")]
    for path in masks:
        Image.fromarray(mask).save(root / path)
    index = {f"images/{NAME}.png": masks} if index is None else index
    classes = (
        {"BraTS2015": {"edema": "0000", "necrosis": "0001"}, "Other": {"x": "0000"}} if classes is None else classes
    )
    (root / "SAMed2D_v1.json").write_text(json.dumps(index))
    (root / "SAMed2D_v1_class_mapping_id.json").write_text(json.dumps(classes))
    return root


def test_names_say_what_the_files_are(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    given = recipe("sa-med2d-20m", root, modality="ct", targets={"edema": "brain oedema"})
    (entry,) = listed(given)
    assert (entry.name, entry.case, entry.split) == (NAME, "BraTS2015--pat_07", None)
    (scan,) = sa_med2d_20m.read(entry, given)
    assert scan.volume.modality == "mr_t1ce"
    assert [list(layer.names.values()) for layer in scan.layers] == [["necrosis"], ["brain oedema"], ["brain oedema"]]
    guessed = sa_med2d_20m.guess(root)
    assert guessed is not None
    assert guessed.layout == "sa-med2d-20m"


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("ct_00", "ct"),
        ("ct_cbf", "ct"),
        ("x_ray", "xray"),
        ("fundus_photography", "fundus"),
        ("mr_t1w", "mr_t1"),
        ("mr_t1gd", "mr_t1ce"),
        ("mr_flair", "mr_flair"),
        ("mr_cmr", "mr_cardiac"),
        ("mr_ttp", "mr"),
        ("mr_00", "mr"),
        ("dermoscopy_00", "dermoscopy"),
        ("electron_microscopy", "electron_microscopy"),
        ("Something_00", "something"),
    ],
)
def test_published_modalities(name: str, modality: str) -> None:
    assert sa_med2d_20m.read_modality(name) == modality


def test_every_modality_comes_back() -> None:
    from vesalius.vocabulary.modalities import modalities

    for name in modalities():
        assert sa_med2d_20m.read_modality(sa_med2d_20m.write_modality(name)) == name
    assert sa_med2d_20m.write_modality("ct") == "ct_00"
    assert sa_med2d_20m.write_modality("mr_t1") == "mr_t1"


def test_a_class_that_is_not_mapped_is_one_reject(tmp_path: Path, recipe) -> None:
    root = made(tmp_path, classes={"BraTS2015": {"necrosis": "0001"}})
    given = recipe("sa-med2d-20m", root)
    (entry,) = listed(given)
    with pytest.raises(ReadError, match=r"0000_000.png: is of a class that the JSON file does not name"):
        list(sa_med2d_20m.read(entry, given))


@pytest.mark.parametrize(
    ("index", "classes", "reason"),
    [
        ({"images/ct_00--a--b.png": []}, None, r"images/ct_00--a--b.png is not named modality--dataset--case--slice"),
        ([], None, "SAMed2D_v1.json: is no mapping"),
        (None, {"BraTS2015": ["edema"]}, "does not map images to masks"),
        ({f"images/{NAME}.png": 3}, None, "does not map images to masks"),
    ],
)
def test_damaged_lists(tmp_path: Path, recipe, index: object, classes: object, reason: str) -> None:
    root = made(tmp_path, index, classes)
    with pytest.raises(ReadError, match=reason):
        listed(recipe("sa-med2d-20m", root))


def test_missing_lists(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    (root / "SAMed2D_v1_class_mapping_id.json").unlink()
    assert sa_med2d_20m.guess(root) is None
    with pytest.raises(ReadError, match=r"class_mapping_id.json: cannot be read"):
        listed(recipe("sa-med2d-20m", root))


def test_round_trip(labelled, round_trip, masks_of, true_masks) -> None:
    images = [image for image in labelled if image.masks]
    images[1] = replace(images[1], name="made/a -- b/x_0123", dataset="my -- set", split="test", modality="fundus")
    images[2] = replace(images[2], name="", path=Path("some/pic 1.png"), modality="unknown")
    found = round_trip("sa-med2d-20m", images)
    assert [(entry.name, entry.case, entry.split) for entry, _ in found] == [
        ("fundus_photography--my_-_set--made_a_-_b--x_0123", "patient 0", "test"),
        ("mr_t1--made--scan_0--z_0000", "patient 0", "train"),
        ("unknown_00--made--pic_1--2d_none", "patient 1", None),
    ]
    for (_, scan), image in zip(found, [images[1], images[0], images[2]], strict=True):
        np.testing.assert_array_equal(scan.volume.voxels[0], image.image.pixels)
        assert masks_of(scan) == true_masks(image)
        assert scan.volume.modality == image.modality


def test_names_and_numbers_of_classes(tmp_path: Path, labelled) -> None:
    images = [labelled[0], replace(labelled[1], dataset="other", masks=labelled[1].masks[1:])]
    sa_med2d_20m.write(images, tmp_path / "out", "made")
    assert json.loads((tmp_path / "out/SAMed2D_v1_class_mapping_id.json").read_text()) == {
        "made": {"liver": "0000", "tumour": "0001"},
        "other": {"tumour": "0000", "liver": "0001"},
    }
    index = json.loads((tmp_path / "out/SAMed2D_v1.json").read_text())
    assert index["images/mr_t1--made--scan_0--z_0000.png"] == [
        f"masks/mr_t1--made--scan_0--z_0000--{number}.png" for number in ("0000_000", "0001_000", "0000_001")
    ]
    for masks in index.values():
        for mask in masks:
            with Image.open(tmp_path / "out" / mask) as picture:
                assert picture.mode == "L"
