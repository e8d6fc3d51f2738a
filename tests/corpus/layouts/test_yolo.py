from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from made_listing import listed
from vesalius.core.errors import ReadError
from vesalius.core.types import Slice
from vesalius.corpus.layouts import yolo
from vesalius.corpus.objects import LabelledImage, ObjectMask

SQUARE = "0.25 0.2 0.75 0.2 0.75 0.8 0.25 0.8"


def make(
    root: Path,
    lines: str | None,
    yaml: str = "train: images/train\nnames: [cell, nerve]\n",
    place: str = "images/train",
) -> None:
    (root / place).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (10, 20), dtype=np.uint8)
    Image.fromarray(pixels).save(root / place / "a.png")
    (root / "data.yaml").write_text(yaml)
    if lines is not None:
        label = root / place.replace("images", "labels") / "a.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(lines)


def read(root: Path, recipe, **about):
    given = recipe("yolo", root, **about)
    (entry,) = listed(given)
    (scan,) = yolo.read(entry, given)
    return entry, scan


def test_round_trip(labelled, round_trip, masks_of, true_masks) -> None:
    """The corners lie on edges of pixels, so even holes and parts come back exactly."""
    found = round_trip("yolo", labelled)
    assert [(entry.name, entry.split) for entry, _ in found] == [
        ("images_test_made_scan_2_z_0002", "test"),
        ("images_train_made_scan_0_z_0000", "train"),
        ("images_unsplit_made_scan_3_z_0003", None),
        ("images_val_made_scan_1_z_0001", "val"),
    ]
    for (_, scan), image in zip(found, [labelled[2], labelled[0], labelled[3], labelled[1]], strict=True):
        np.testing.assert_array_equal(scan.volume.voxels[0], image.image.pixels)
        assert masks_of(scan) == true_masks(image)
        assert all(layer.objects for layer in scan.layers)


def test_round_trip_of_large_pictures(round_trip) -> None:
    rng = np.random.default_rng(3)
    field = ndimage.gaussian_filter(rng.random((1037, 2311)), 9)
    mask = field > np.quantile(field, 0.6)
    image = LabelledImage(
        Slice(rng.integers(0, 255, mask.shape, dtype=np.uint8)),
        "ct",
        "d",
        "c",
        Path("a.png"),
        [ObjectMask(mask, "x", 1)],
    )
    ((_, scan),) = round_trip("yolo", [image])
    np.testing.assert_array_equal(scan.layers[0].values[0] > 0, mask)


def test_polygons_are_filled_as_coco_fills_them(tmp_path: Path, recipe) -> None:
    make(tmp_path, f"1 {SQUARE}\n\n0 {SQUARE}\n")
    entry, scan = read(tmp_path, recipe, modality="xray")
    expected = np.zeros((10, 20), bool)
    expected[2:8, 5:15] = True
    assert [layer.names for layer in scan.layers] == [{1: "nerve"}, {2: "cell"}]
    for layer in scan.layers:
        np.testing.assert_array_equal(layer.values[0] > 0, expected)
    assert (entry.split, scan.volume.modality) == ("train", "xray")
    _, scan = read(tmp_path, recipe, targets={"cell": "nucleus"}, ignore=(1,))
    assert [layer.names for layer in scan.layers] == [{2: "nucleus"}]


@pytest.mark.parametrize("lines", [None, "", "\n \n"])
def test_an_image_without_objects(tmp_path: Path, recipe, lines: str | None) -> None:
    make(tmp_path, lines)
    _, scan = read(tmp_path, recipe)
    assert scan.layers == ()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("0 0.5 0.5 0.2 0.2", "line 1: is a box, not a polygon"),
        (f"0 {SQUARE}\n0 0.1 0.1 0.2 0.2 0.3", "line 2: is not a polygon of three points"),
        ("0", "is not a polygon"),
        ("0 1 1 300 1 300 200", "shares from 0 to 1"),
        ("0 0.1 nan 0.5 0.5 0.1 0.7", "shares from 0 to 1"),
        (f"2 {SQUARE}", "there is no class 2"),
        (f"cell {SQUARE}", "is not a class and numbers"),
    ],
)
def test_damaged_lines(tmp_path: Path, recipe, lines: str, reason: str) -> None:
    make(tmp_path, lines)
    with pytest.raises(ReadError, match=rf"a.txt: .*{reason}"):
        read(tmp_path, recipe)


def test_objects_without_pixels_are_left_out_and_told(tmp_path: Path, recipe, caplog) -> None:
    make(tmp_path, f"0 0.01 0.01 0.011 0.01 0.011 0.011\n0 {SQUARE}")
    with caplog.at_level(logging.WARNING):
        _, scan = read(tmp_path, recipe)
    assert "line 1 covers no pixel" in caplog.text
    assert len(scan.layers) == 1


@pytest.mark.parametrize(
    ("yaml", "place"),
    [
        ("path: /elsewhere/on/another/machine\ntrain: images/train\nnames: {0: cell}", "images/train"),
        ("train: ../train/images\nval: null\nnc: 1\nnames: ['cell']", "train/images"),
        ("path: .\ntrain: [images/train]\nnames: {0: cell}", "images/train"),
        ("path: deeper\ntrain: images/train\nnames: {0: cell}", "deeper/images/train"),
        ("train: list.txt\nnames: {0: cell}", "images/train"),
    ],
)
def test_ways_to_name_folders(tmp_path: Path, recipe, yaml: str, place: str) -> None:
    make(tmp_path, f"0 {SQUARE}", yaml, place)
    (tmp_path / "list.txt").write_text("./images/train/a.png\n")
    entry, scan = read(tmp_path, recipe)
    assert entry.name == f"{place}/a".replace("/", "_")
    assert [layer.names for layer in scan.layers] == [{1: "cell"}]
    guessed = yolo.guess(tmp_path)
    assert guessed is not None
    assert guessed.labels is None


@pytest.mark.parametrize(
    ("yaml", "reason"),
    [
        ("train: images/train", "does not name the classes"),
        ("train: images/train\nnames: {cell: 0}", "does not name the classes"),
        ("train: images/other\nnames: [cell]", "names images/other, which is not there"),
        ("names: [cell", "is not YAML"),
        ("just words", "does not describe a data set"),
        ("train: images/train/a.png\nnames: [cell]", "is no list of images"),
    ],
)
def test_damaged_indexes(tmp_path: Path, recipe, yaml: str, reason: str) -> None:
    make(tmp_path, "", yaml)
    with pytest.raises(ReadError, match=reason):
        listed(recipe("yolo", tmp_path))


def test_a_picture_of_two_splits_cannot_be_used(tmp_path: Path, recipe) -> None:
    make(tmp_path, "", "train: images/train\nval: images/train\nnames: [cell]")
    found = listed(recipe("yolo", tmp_path))
    assert ["two images would be named images_train_a" in entry.extra["problem"] for entry in found] == [True, True]


def test_an_index_of_another_name(tmp_path: Path, recipe) -> None:
    make(tmp_path, f"0 {SQUARE}")
    (tmp_path / "data.yaml").rename(tmp_path / "cells.yaml")
    with pytest.raises(ReadError, match=r"data.yaml: cannot be read"):
        listed(recipe("yolo", tmp_path))
    guessed = yolo.guess(tmp_path)
    assert guessed is not None
    assert guessed.labels == "cells.yaml"
    assert len(listed(guessed)) == 1
    (tmp_path / "cells.yaml").write_text("a: 1")
    assert yolo.guess(tmp_path) is None


def test_a_missing_picture_in_a_list_is_one_reject(tmp_path: Path, recipe) -> None:
    make(tmp_path, f"0 {SQUARE}", "train: list.txt\nnames: [cell]")
    (tmp_path / "list.txt").write_text("images/train/a.png\nimages/train/b.png\n")
    given = recipe("yolo", tmp_path)
    first, second = listed(given)
    assert len(list(yolo.read(first, given))) == 1
    with pytest.raises(ReadError, match=r"b.png: there is no such file"):
        list(yolo.read(second, given))
