from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from made_listing import listed
from vesalius.core.errors import GeometryError, ReadError, WriteError
from vesalius.corpus.layouts import cosmos
from vesalius.corpus.objects import LabelledImage, ObjectMask

HEART = {"info": {"1": "LeftVentricle", "2": "Myocardium"}, "color": {"1": 85, "2": 255}}


def put(folder: Path, name: str) -> None:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (10, 12), dtype=np.uint8)
    labels = np.zeros((10, 12), np.uint8)
    labels[2:4, 3:9], labels[6, 6] = 85, 255
    Image.fromarray(pixels).save(folder / "images" / name)
    Image.fromarray(labels).save(folder / "labels" / name)


def made(root: Path, colours: Path | None = None) -> Path:
    put(root / "test_data/22_Heart", "22_Heart_2_10.png")
    put(root / "test_data/22_Heart", "22_Heart_2_11.png")
    put(root / "test_data/6_Pancreas", "6_Pancreas_10_43_0.png")
    put(root / "train_data", "22_Heart_3_1.png")
    folder = (colours or root) / "data_infor_json"
    folder.mkdir(parents=True)
    (folder / "22_Heart.json").write_text(json.dumps(HEART))
    (folder / "22_Heart_Valve.json").write_text(json.dumps(HEART))
    return root


def test_objects_colours_cases_and_splits(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    given = recipe("cosmos", root, modality="mr", targets={"255": "pancreas", "Myocardium": "myocardium"})
    entries = listed(given)
    assert [(e.name, e.case, e.split) for e in entries] == [
        ("test_data_22_Heart_22_Heart_2_10", "22_Heart_2", "test"),
        ("test_data_22_Heart_22_Heart_2_11", "22_Heart_2", "test"),
        ("test_data_6_Pancreas_6_Pancreas_10_43_0", "6_Pancreas_10", "test"),
        ("train_data_22_Heart_3_1", "22_Heart_3", "train"),
    ]
    names = [next(cosmos.read(entry, given)).layers[0].names for entry in entries]
    heart = {85: "LeftVentricle", 255: "myocardium"}
    assert names == [heart, heart, {255: "pancreas"}, heart]
    (scan,) = cosmos.read(entries[0], given)
    assert (scan.volume.modality, scan.layers[0].objects) == ("mr", False)
    assert scan.layers[0].values[0, 6, 6] == 255


def test_colours_above_the_root_and_one_object_as_root(tmp_path: Path, recipe) -> None:
    made(tmp_path / "data", tmp_path)
    root = tmp_path / "data/test_data"
    entries = listed(recipe("cosmos", root))
    assert len(entries) == 3
    assert entries[0].extra["labels"] == [("LeftVentricle", [85]), ("Myocardium", [255])]
    (only,) = listed(recipe("cosmos", root / "6_Pancreas"))
    assert (only.name, only.case) == ("6_Pancreas_10_43_0", "6_Pancreas_10")


def test_the_longest_object_that_a_name_begins_with(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    put(root / "train_data", "22_Heart_Valve_3_1.png")
    valve = {"info": {"1": "Valve"}, "color": {"1": 85}}
    (root / "data_infor_json/22_Heart_Valve.json").write_text(json.dumps(valve))
    entry = listed(recipe("cosmos", root))[-1]
    assert (entry.case, entry.extra["labels"]) == ("22_Heart_Valve_3", [("Valve", [85])])


def test_guess(tmp_path: Path) -> None:
    root = made(tmp_path)
    for folder in (root, root / "test_data"):
        guessed = cosmos.guess(folder)
        assert guessed is not None
        assert guessed.layout == "cosmos"
    assert cosmos.guess(root / "train_data") is None
    put(root / "sets/acdc", "a.png")
    assert cosmos.guess(root / "sets") is None


@pytest.mark.parametrize("content", ["{}", "[]", '{"color": {"1": "x"}, "info": {"1": "y"}}', "{"])
def test_damaged_colours(tmp_path: Path, recipe, content: str) -> None:
    root = made(tmp_path)
    (root / "data_infor_json/22_Heart.json").write_text(content)
    with pytest.raises(ReadError, match=r"22_Heart.json: (does not give the colours|is not JSON)"):
        listed(recipe("cosmos", root))


def test_damaged_files_are_one_reject(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    given = recipe("cosmos", root)
    first, second, *_ = listed(given)
    first.labels[0].unlink()
    with pytest.raises(ReadError, match=r"labels.22_Heart_2_10.png: there is no such file"):
        list(cosmos.read(first, given))
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(second.labels[0])
    with pytest.raises(GeometryError, match=r"labels.22_Heart_2_11.png: .*images.22_Heart_2_11.png"):
        list(cosmos.read(second, given))
    with pytest.raises(ReadError, match="holds no folders images and labels"):
        listed(recipe("cosmos", root / "data_infor_json"))


def test_round_trip(apart, round_trip, classes_of, true_classes) -> None:
    apart[3] = replace(apart[3], dataset="another set", masks=apart[3].masks[1:], modality="ct")
    found = round_trip("cosmos", apart)
    assert [(entry.name, entry.case, entry.split) for entry, _ in found] == [
        ("another_set_made_scan_3_z_0003", "patient 1", None),
        ("made_made_scan_0_z_0000", "patient 0", "train"),
        ("made_made_scan_1_z_0001", "patient 0", "val"),
        ("made_made_scan_2_z_0002", "patient 1", "test"),
    ]
    for (_, scan), image in zip(found, [apart[3], *apart[:3]], strict=True):
        np.testing.assert_array_equal(scan.volume.voxels[0], image.image.pixels)
        assert scan.volume.modality == image.modality
        assert classes_of(scan) == true_classes(image)


def test_more_targets_than_greys(tmp_path: Path, apart) -> None:
    labels = np.arange(400).reshape(20, 20)
    masks = [ObjectMask(labels == i, f"target {i}", i) for i in range(1, 300)]
    pixels = replace(apart[0].image, pixels=labels.astype(np.uint8))
    image = LabelledImage(pixels, "ct", "d", "c", Path("a.png"), masks)
    with pytest.raises(WriteError, match="d has more than the 255 targets"):
        cosmos.write([image], tmp_path / "out", "made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("VESALIUS_DATA" not in os.environ, reason="VESALIUS_DATA names no folder of real data")
def test_the_published_example(recipe) -> None:
    root = Path(os.environ["VESALIUS_DATA"]) / "cosmos_demo" / "test_data" / "22_Heart"
    given = recipe(
        "cosmos", root, targets={"85": "left ventricle", "170": "left ventricular myocardium", "255": "right ventricle"}
    )
    entries = listed(given)
    assert (len(entries), len({entry.case for entry in entries})) == (14, 4)
    for entry in entries:
        (scan,) = cosmos.read(entry, given)
        assert set(np.unique(scan.layers[0].values)) <= {0, *scan.layers[0].names}
