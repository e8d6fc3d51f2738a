from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from made_listing import listed
from vesalius.core.errors import GeometryError, ReadError
from vesalius.corpus.layouts import sa1b
from vesalius.io.outlines import runs_of_mask


def make(root: Path, name: str = "sa_1", size: tuple[int, int] = (8, 12)) -> Path:
    root.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8)).save(root / f"{name}.jpg")
    masks = np.zeros((2, *size), bool)
    masks[0, 1:6, 2:9] = masks[1, 2:4, 3:5] = True
    rows = [{"id": 500 + i, "segmentation": runs_of_mask(mask), "predicted_iou": 0.9} for i, mask in enumerate(masks)]
    about = {"image_id": 1, "height": size[0], "width": size[1], "file_name": f"{name}.jpg"}
    (root / f"{name}.json").write_text(json.dumps({"image": about, "annotations": rows}))
    return root / f"{name}.json"


def test_round_trip_without_names(labelled, round_trip, masks_of, true_masks) -> None:
    found = round_trip("sa1b", labelled)
    assert [entry.name for entry, _ in found] == [f"made_scan_{i}_z_000{i}" for i in range(4)]
    for (entry, scan), image in zip(found, labelled, strict=True):
        np.testing.assert_array_equal(scan.volume.voxels[0], image.image.pixels)
        assert masks_of(scan) == sorted(("unknown", mask) for _, mask in true_masks(image))
        assert all(layer.objects for layer in scan.layers)
        assert entry.split is None


def test_objects_in_objects(tmp_path: Path, recipe) -> None:
    make(tmp_path)
    given = recipe("sa1b", tmp_path, modality="ct", targets={"unknown": "thing"})
    (entry,) = listed(given)
    assert (entry.name, entry.case, entry.extra) == ("sa_1", "sa_1", {})
    (scan,) = sa1b.read(entry, given)
    assert scan.volume.modality == "ct"
    assert [layer.names for layer in scan.layers] == [{1: "thing"}, {2: "thing"}]
    assert [int((layer.values > 0).sum()) for layer in scan.layers] == [35, 4]


def test_what_is_missing_or_damaged_is_one_reject(tmp_path: Path, recipe) -> None:
    for name in "abcdef":
        make(tmp_path, name, (8, 13) if name == "e" else (8, 12))
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.json").unlink()
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.json").write_text("[]")
    (tmp_path / "f.jpg").write_bytes((tmp_path / "f.jpg").read_bytes()[:200])
    given = recipe("sa1b", tmp_path)
    a, b, c, d, e, f = listed(given)
    (scan,) = sa1b.read(b, given)
    assert scan.layers == ()
    for entry, reason in (
        (a, r"a.jpg: there is no such file"),
        (c, r"c.json: is not JSON"),
        (d, r"d.json: is no JSON of SA-1B"),
        (f, r"f.jpg: is not a JPEG image, or is damaged"),
    ):
        with pytest.raises(ReadError, match=reason):
            list(sa1b.read(entry, given))
    with pytest.raises(GeometryError, match=r"e.jpg: is 12 x 8 pixels, but .*e.json was made for 13 x 8"):
        list(sa1b.read(e, given))


def test_names_are_unique(tmp_path: Path, recipe) -> None:
    make(tmp_path / "x", "a")
    (tmp_path / "x/a.jpg").rename(tmp_path / "x_a.jpg")
    found = listed(recipe("sa1b", tmp_path))
    assert ["two images would be named x_a" in entry.extra["problem"] for entry in found] == [True, True]


def test_other_folders_are_not_guessed(tmp_path: Path) -> None:
    assert sa1b.guess(tmp_path) is None
    note = make(tmp_path)
    assert sa1b.guess(tmp_path) is not None
    for content in ('{"images": []}', "[]", "{"):
        note.write_text(content)
        assert sa1b.guess(tmp_path) is None
