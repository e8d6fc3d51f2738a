from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from made_listing import listed
from vesalius.core.errors import GeometryError, ReadError, WriteError
from vesalius.corpus.layouts import coco

SQUARE = [2, 1, 7, 1, 7, 5, 2, 5]


def annotation(number=1, image=1, category=3, segmentation=None, **more):
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation or [SQUARE], **more}


def make(root: Path, annotations, place="annotations/instances_val2017.json", images="val2017", **more) -> Path:
    (root / images).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 12), dtype=np.uint8)
    Image.fromarray(pixels).save(root / images / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 12}],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cell"}, {"id": 9, "name": "nerve"}],
    } | more
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def read(root: Path, recipe, **about):
    given = recipe("coco", root, **about)
    (entry,) = listed(given)
    (scan,) = coco.read(entry, given)
    return entry, scan


def square() -> np.ndarray:
    mask = np.zeros((8, 12), bool)
    mask[1:5, 2:7] = True
    return mask


def test_round_trip(labelled, round_trip, masks_of, true_masks) -> None:
    found = round_trip("coco", labelled)
    assert [entry.name for entry, _ in found] == [
        "images_all_made_scan_3_z_0003",
        "images_test_made_scan_2_z_0002",
        "images_train_made_scan_0_z_0000",
        "images_val_made_scan_1_z_0001",
    ]
    for (entry, scan), image in zip(found, [labelled[3], labelled[2], labelled[0], labelled[1]], strict=True):
        np.testing.assert_array_equal(scan.volume.voxels[0], image.image.pixels)
        assert masks_of(scan) == true_masks(image)
        assert all(layer.objects for layer in scan.layers)
        assert (entry.case, entry.split) == (image.case, image.split)


def test_polygons_and_both_kinds_of_run_lengths(tmp_path: Path, recipe) -> None:
    flat = square().T.ravel()
    changes = np.flatnonzero(np.diff(flat.astype(int))) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    make(
        tmp_path,
        [
            annotation(1, segmentation=[SQUARE]),
            annotation(2, segmentation={"size": [8, 12], "counts": counts}, category=9),
            annotation(3, segmentation={"size": [8, 12], "counts": "a0440000000W1"}),
            annotation(4, segmentation=[[8, 6, 11, 6, 11, 8, 8, 8], [0, 7, 1, 7, 1, 8, 0, 8]]),
        ],
    )
    entry, scan = read(tmp_path, recipe)
    assert (entry.split, entry.case, entry.name) == ("val", "val2017_a", "val2017_a")
    # The first three are the same, so each needs a layer; the fourth is beside them.
    assert len(scan.layers) == 3
    names = [layer.names for layer in scan.layers]
    assert names == [{1: "cell", 4: "cell"}, {2: "nerve"}, {3: "cell"}]
    for number, layer in enumerate(scan.layers, 1):
        np.testing.assert_array_equal(layer.values[0] == number, square())
        assert layer.values.shape == (1, 8, 12)
    assert np.argwhere(scan.layers[0].values[0] == 4).tolist() == [
        [6, 8],
        [6, 9],
        [6, 10],
        [7, 0],
        [7, 8],
        [7, 9],
        [7, 10],
    ]


def test_crowds_are_regions_of_their_class(tmp_path: Path, recipe) -> None:
    make(tmp_path, [annotation(1), annotation(2, iscrowd=1, segmentation=[[9, 1, 11, 1, 11, 5, 9, 5]])])
    _, scan = read(tmp_path, recipe)
    assert [(layer.objects, layer.names) for layer in scan.layers] == [(True, {1: "cell"}), (False, {2: "cell"})]


def test_recipes_name_and_ignore_categories(tmp_path: Path, recipe) -> None:
    make(tmp_path, [annotation(1), annotation(2, category=9)])
    for targets in ({"cell": "nucleus"}, {"3": "nucleus"}):
        _, scan = read(tmp_path, recipe, targets=targets, ignore=(9,))
        assert [layer.names for layer in scan.layers] == [{1: "nucleus"}]
    # A number of an object is never one that means a label to be ignored.
    _, scan = read(tmp_path, recipe, ignore=(1, 2))
    assert [layer.names for layer in scan.layers] == [{3: "cell"}, {4: "nerve"}]


@pytest.mark.parametrize(
    ("place", "images", "split"),
    [
        ("train/_annotations.coco.json", "train", "train"),
        ("valid/_annotations.coco.json", "valid", "val"),
        ("annotations/test.json", "images/test", "test"),
        ("annotations/instances_trainval.json", "images", None),
        ("labels.json", ".", None),
    ],
)
def test_usual_places(tmp_path: Path, recipe, place: str, images: str, split: str | None) -> None:
    make(tmp_path, [annotation()], place, images)
    entry, scan = read(tmp_path, recipe)
    assert entry.split == split
    assert len(scan.layers) == 1
    assert coco.guess(tmp_path) is not None


def test_images_in_other_places_are_named_by_the_recipe(tmp_path: Path, recipe) -> None:
    make(tmp_path, [annotation()], "notes/b.json", "some/where")
    with pytest.raises(ReadError, match=r"b.json: lists images such as a.png, which lie in none of the usual places"):
        read(tmp_path, recipe, labels="notes/*.json")
    entry, _ = read(tmp_path, recipe, labels="notes/*.json", images="some/*/*.png", case="some/(.*)/")
    assert (entry.name, entry.case) == ("some_where_a", "where")
    (tmp_path / "some/else").mkdir()
    (tmp_path / "some/where/a.png").rename(tmp_path / "some/else/a.png")
    make(tmp_path, [annotation()], "notes/b.json", "some/where")
    with pytest.raises(ReadError, match="narrow the recipe's images"):
        read(tmp_path, recipe, labels="notes/*.json", images="some/*/*.png")


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2, 3, 4]], "not three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "not three points"),
        ([[1, 2, 3, 400, 5, 6]], "far off the image"),
        ({"size": [8, 11], "counts": [88]}, r"its size is \[8, 11\]"),
        ({"size": [8, 12], "counts": [90]}, "make 90 pixels, not 96"),
        ({"size": [8, 12], "counts": [100, -4]}, "damaged"),
        ({"size": [8, 12], "counts": "a0440000"}, "pixels, not 96"),
        ({"size": [8, 12], "counts": "a0440000000Wo"}, "damaged or cut short"),
        ({"size": [8, 12]}, "counts"),
        ("square", "could not convert"),
    ],
)
def test_damaged_annotations(tmp_path: Path, recipe, segmentation, reason: str) -> None:
    make(tmp_path, [annotation(5, segmentation=segmentation)])
    with pytest.raises(ReadError, match=f"instances_val2017.json: annotation 5 cannot be read: .*{reason}"):
        read(tmp_path, recipe)


def test_objects_without_pixels_are_left_out_and_told(tmp_path: Path, recipe, caplog) -> None:
    make(tmp_path, [annotation(5, segmentation=[[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]]), annotation(6)])
    with caplog.at_level(logging.WARNING):
        _, scan = read(tmp_path, recipe)
    assert "annotation 5 covers no pixel" in caplog.text
    assert [layer.names for layer in scan.layers] == [{2: "cell"}]


def test_pictures_of_another_size(tmp_path: Path, recipe) -> None:
    path = make(tmp_path, [annotation()])
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(tmp_path / "val2017/a.png")
    with pytest.raises(GeometryError, match=rf"a.png: is 8 x 6 pixels, but {path} was made for 12 x 8"):
        read(tmp_path, recipe)


def test_a_missing_picture_is_one_reject(tmp_path: Path, recipe) -> None:
    make(tmp_path, [annotation()])
    rows = [{"id": i, "file_name": f"{name}.png", "height": 8, "width": 12} for i, name in ((1, "a"), (2, "b"))]
    index = tmp_path / "annotations/instances_val2017.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"images": rows}))
    given = recipe("coco", tmp_path)
    first, second = listed(given)
    assert len(list(coco.read(first, given))) == 1
    with pytest.raises(ReadError, match=r"b.png: there is no such file"):
        list(coco.read(second, given))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"annotations": [annotation(image=2)]}, "annotation 1 is of an image that is not listed"),
        ({"annotations": [annotation(category=4)]}, "annotation 1 is of category 4"),
        ({"annotations": [annotation() | {"segmentation": []}]}, "has boxes and no masks"),
        ({"annotations": [{}]}, "is not a COCO file of instances"),
        ({"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]}, "two images with one id"),
        ({"categories": None}, "is not a COCO file of instances"),
    ],
)
def test_damaged_indexes(tmp_path: Path, recipe, change, reason: str) -> None:
    index = make(tmp_path, [annotation()])
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(ReadError, match=reason):
        listed(recipe("coco", tmp_path))


def test_a_picture_that_is_listed_twice_cannot_be_used(tmp_path: Path, recipe) -> None:
    index = make(tmp_path, [annotation()])
    twice = {"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}]}
    index.write_text(json.dumps(json.loads(index.read_text()) | twice))
    found = listed(recipe("coco", tmp_path))
    assert ["would be named val2017_a" in entry.extra["problem"] for entry in found] == [True, True]


def test_indexes_that_are_missing_or_cut_short(tmp_path: Path, recipe) -> None:
    with pytest.raises(ReadError, match="holds no JSON file of instances"):
        listed(recipe("coco", tmp_path))
    index = make(tmp_path, [annotation()])
    whole = index.read_text()
    index.write_text(whole.replace('"height": 8', '"height": NaN'))
    with pytest.raises(ReadError, match=r"instances_val2017.json: is not JSON.*NaN"):
        listed(recipe("coco", tmp_path))
    index.write_text(whole[:50])
    with pytest.raises(ReadError, match=r"instances_val2017.json: is not JSON, or is damaged"):
        listed(recipe("coco", tmp_path))
    assert coco.guess(tmp_path) is None


def test_nothing_half_written(tmp_path: Path, labelled) -> None:
    folder = tmp_path / "set"

    def images():
        yield labelled[0]
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        coco.write(images(), folder, "made")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WriteError, match="two images are named"):
        coco.write([labelled[0], labelled[0]], folder, "made")
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    coco.write(labelled, folder, "made")
    with pytest.raises(WriteError, match="is there already"):
        coco.write(labelled, folder, "made")
