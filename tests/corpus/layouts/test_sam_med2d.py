from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from made_listing import listed
from vesalius.core.errors import GeometryError, ReadError, WriteError
from vesalius.corpus.layouts import layout, sam_med2d
from vesalius.corpus.objects import LabelledImage, ObjectMask


def made(root: Path, prefix: str = "data_demo/", value: int = 255) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (10, 12), dtype=np.uint8)
    mask = np.zeros((10, 12), np.uint8)
    mask[2:7, 3:9] = value
    for name in ("ct_1", "ct_2"):
        Image.fromarray(pixels).save(root / f"images/{name}.png")
        for target in ("hip_left_000", "hip_left_001", "liver_000"):
            Image.fromarray(mask).save(root / f"masks/{name}_{target}.png")
    masks = [f"{prefix}masks/ct_1_{target}.png" for target in ("hip_left_000", "hip_left_001", "liver_000")]
    (root / "image2label_train.json").write_text(json.dumps({f"{prefix}images/ct_1.png": masks}))
    test = {f"{prefix}masks/ct_2_liver_000.png": f"{prefix}images/ct_2.png"}
    (root / "label2image_test.json").write_text(json.dumps(test))
    return root


@pytest.mark.parametrize("prefix", ["data_demo/", "", "/home/someone/data/", "./a/b/", "D:\\data\\"])
@pytest.mark.parametrize("value", [1, 255])
def test_wherever_the_paths_begin(tmp_path: Path, recipe, masks_of, prefix: str, value: int) -> None:
    root = made(tmp_path / "set", prefix, value)
    given = recipe("sam-med2d", root, modality="ct", targets={"liver": "hepar"})
    entries = listed(given)
    assert [(e.name, e.split) for e in entries] == [("ct_1", "train"), ("ct_2", "test")]
    (scan,) = sam_med2d.read(entries[0], given)
    expected = np.zeros((10, 12), bool)
    expected[2:7, 3:9] = True
    assert scan.volume.modality == "ct"
    # All cover each other, so each lies in a layer of its own.
    assert [list(layer.names.values()) for layer in scan.layers] == [["hip_left"], ["hip_left"], ["hepar"]]
    assert all(layer.objects for layer in scan.layers)
    assert {mask for _, mask in masks_of(scan)} == {expected.tobytes()}


def test_a_mode_with_both_files_is_read_once(tmp_path: Path, recipe) -> None:
    root = made(tmp_path / "set")
    test = {"data_demo/images/ct_2.png": ["data_demo/masks/ct_2_liver_000.png"]}
    (root / "image2label_test.json").write_text(json.dumps(test))
    assert len(listed(recipe("sam-med2d", root))) == 2


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("image2label_train.json", "[]", "is no mapping"),
        ("image2label_train.json", '{"images/a.png": "masks/a.png"}', "images/a.png has no list of masks"),
        ("label2image_test.json", "{", "is not JSON"),
    ],
)
def test_damaged_lists(tmp_path: Path, recipe, name: str, content: str, reason: str) -> None:
    root = made(tmp_path / "set")
    (root / name).write_text(content)
    with pytest.raises(ReadError, match=reason):
        listed(recipe("sam-med2d", root))


def test_an_image_that_is_listed_twice_is_taken_from_neither_list(tmp_path: Path, recipe) -> None:
    root = made(tmp_path / "set")
    (root / "image2label_val.json").write_text('{"data_demo/images/ct_1.png": []}')
    problems = [entry.extra.get("problem", "") for entry in listed(recipe("sam-med2d", root))]
    assert sum("two images would be named ct_1" in problem for problem in problems) == 2


def test_no_lists(tmp_path: Path, recipe) -> None:
    with pytest.raises(ReadError, match=r"holds no image2label_<mode>.json"):
        listed(recipe("sam-med2d", tmp_path))
    assert sam_med2d.guess(tmp_path) is None


def test_damaged_masks_are_one_reject(tmp_path: Path, recipe) -> None:
    root = made(tmp_path / "set")
    given = recipe("sam-med2d", root)
    first, second = listed(given)
    Image.fromarray(np.arange(120, dtype=np.uint8).reshape(10, 12)).save(first.labels[1])
    with pytest.raises(ReadError, match=r"hip_left_001.png: is not the mask of one object"):
        list(sam_med2d.read(first, given))
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(first.labels[1])
    with pytest.raises(GeometryError, match=r"hip_left_001.png: is 10 x 12 .* its image .*ct_1.png"):
        list(sam_med2d.read(first, given))
    first.labels[1].unlink()
    with pytest.raises(ReadError, match=r"hip_left_001.png: there is no such file"):
        list(sam_med2d.read(first, given))
    assert len(list(sam_med2d.read(second, given))) == 1


def loaded(folder: Path, mode: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Image and mask as the published loader reads them: by OpenCV, from paths that are used as they are."""
    if mode == "test":
        pairs = json.loads((folder / "label2image_test.json").read_text()).items()
    else:
        lists = json.loads((folder / f"image2label_{mode}.json").read_text()).items()
        assert all(masks for _, masks in lists)
        pairs = [(mask, image) for image, masks in lists for mask in masks]
    for mask, image in pairs:
        yield mask.split("/")[-1], cv2.imread(image), cv2.imread(mask, 0)


@pytest.mark.parametrize("name", ["sam-med2d", "sa-med2d-20m"])
def test_the_published_loader_reads_what_is_written(tmp_path: Path, labelled, monkeypatch, name) -> None:
    images = [image for image in labelled if image.masks]
    images.append(replace(images[0], split="test", name="made/another/2d_none"))
    layout(name).write(images, tmp_path / "out" / "set", "made")
    monkeypatch.chdir(tmp_path / "out")
    for mode, image in zip(("train", "val", "all", "test"), images, strict=True):
        found = list(loaded(Path("set"), mode))
        assert len({file for file, _, _ in found}) == 3
        for (_, pixels, mask), true in zip(found, image.masks, strict=True):
            shown = image.image.rgb()[..., ::-1]
            np.testing.assert_array_equal(pixels, shown)
            assert mask.max() == 255
            np.testing.assert_array_equal(mask == 255, true.mask)
            assert set(np.unique(mask)) == {0, 255}


def test_round_trip(labelled, round_trip, masks_of, true_masks) -> None:
    images = [image for image in labelled if image.masks]
    odd = [
        ObjectMask(mask.mask, name, 1) for mask, name in zip(images[1].masks, ("a/b: c*", "Ö 2%", "x_1"), strict=True)
    ]
    images[1] = replace(images[1], masks=odd, split="test")
    found = round_trip("sam-med2d", images)
    assert [(entry.name, entry.case, entry.split) for entry, _ in found] == [
        ("made_scan_0_z_0000", "patient 0", "train"),
        ("made_scan_1_z_0001", "patient 0", "test"),
        ("made_scan_3_z_0003", "patient 1", None),
    ]
    for (_, scan), image in zip(found, images, strict=True):
        np.testing.assert_array_equal(scan.volume.voxels[0], image.image.pixels)
        assert scan.volume.modality == "mr_t1"
        assert masks_of(scan) == true_masks(image)


@pytest.mark.parametrize("name", ["sam-med2d", "sa-med2d-20m"])
def test_an_image_without_masks_is_refused(tmp_path: Path, labelled, name) -> None:
    with pytest.raises(WriteError, match="made/scan 2/z_0002 has no mask"):
        layout(name).write(labelled, tmp_path / "out", "made")
    assert list(tmp_path.iterdir()) == []


def test_masks_of_two_images_that_would_have_one_name(tmp_path: Path, labelled) -> None:
    image = labelled[0]
    first = replace(image, name="a", masks=[ObjectMask(image.masks[0].mask, "b_c", 1)])
    second = LabelledImage(image.image, "ct", "d", "c", Path("x"), [ObjectMask(image.masks[0].mask, "c", 1)], "a_b")
    with pytest.raises(WriteError, match=r"two masks are named a_b_c_000.png"):
        sam_med2d.write([first, second], tmp_path / "out", "made")


@pytest.mark.skipif("VESALIUS_DATA" not in os.environ, reason="VESALIUS_DATA names no folder of real data")
def test_the_published_example() -> None:
    root = Path(os.environ["VESALIUS_DATA"]) / "sam_med2d_demo"
    given = sam_med2d.guess(root)
    assert given is not None
    entries = listed(given)
    assert [(e.name, e.split, len(e.labels)) for e in entries] == [
        ("amos_0004_75", "test", 3),
        ("amos_0006_90", "train", 4),
        ("s0114_111", "train", 15),
        ("s0619_32", "test", 8),
    ]
    (scan,) = sam_med2d.read(entries[3], given)
    names = sorted(name for layer in scan.layers for name in layer.names.values())
    assert (names.count("hip_left"), names.count("hip_right"), len(names)) == (2, 2, 8)
