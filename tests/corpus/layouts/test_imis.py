from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from made_listing import listed
from vesalius.core.errors import GeometryError, ReadError, WriteError
from vesalius.corpus.layouts import imis, layout, msd
from vesalius.corpus.objects import LabelledImage, ObjectMask

LABEL = "label/x___a.(3, 10, 12, 1).npz"


def stack() -> np.ndarray:
    masks = np.zeros((3, 10, 12), np.int32)
    masks[0, 1:6, 1:6] = 1
    masks[2, 4:9, 4:9] = 1
    return masks


def made(root: Path, masks: np.ndarray | None = None, label: str = LABEL, **about: object) -> Path:
    for folder in ("image", "label", "imask"):
        (root / folder).mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (10, 12), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "image/a.png")
    np.save(root / "imask/x___a.npy", np.ones((10, 12, 1), np.int64))
    masks = stack() if masks is None else masks
    sparse.save_npz(root / label, sparse.csr_matrix(masks.reshape(len(masks), -1)))
    content = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "spleen", "3": "cancer"},
        "training": [{"image": "image/a.png", "label": label, "imask": "imask/x___a.npy"}],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(content | about))
    return root


def test_classes_that_overlap_and_no_pseudo_masks(tmp_path: Path, recipe, masks_of) -> None:
    root = made(tmp_path)
    given = recipe("imis", root)
    (entry,) = listed(given)
    (scan,) = imis.read(entry, given)
    assert (entry.name, entry.split, scan.volume.modality) == ("a", "train", "ct")
    assert [layer.names for layer in scan.layers] == [{1: "liver"}, {3: "cancer"}]
    assert not any(layer.objects for layer in scan.layers)
    assert masks_of(scan) == [("cancer", (stack()[2] > 0).tobytes()), ("liver", (stack()[0] > 0).tobytes())]
    guessed = imis.guess(root)
    assert guessed is not None
    assert msd.guess(root) is None


def test_classes_that_nothing_names(tmp_path: Path, recipe) -> None:
    root = made(tmp_path, labels={"0": "background", "1": "liver"})
    given = recipe("imis", root)
    (entry,) = listed(given)
    with pytest.raises(ReadError, match=r"npz: has masks of class 3, which nothing names"):
        list(imis.read(entry, given))
    for more in ({"targets": {"3": "cyst"}}, {"ignore": (3,)}):
        given = recipe("imis", root, **more)
        (entry,) = listed(given)
        (scan,) = imis.read(entry, given)
        assert len(scan.layers) == (2 if "targets" in more else 1)


@pytest.mark.parametrize(
    ("label", "error", "reason"),
    [
        ("label/a.npz", ReadError, "does not say its shape"),
        ("label/a.(3, 12, 12, 1).npz", ReadError, "a matrix of .3, 120."),
        ("label/a.(3, 5, 12, 2).npz", ReadError, "is no stack of masks"),
        ("label/a.(3, 12, 10, 1).npz", GeometryError, r"a.png: is 12 x 10 pixels, but .*npz was made for 10 x 12"),
        ("label/a.(9999999, 9999999, 12, 1).npz", ReadError, "claims 9999999"),
    ],
)
def test_stacks_of_another_shape(tmp_path: Path, recipe, label: str, error: type, reason: str) -> None:
    root = made(tmp_path, label=label)
    given = recipe("imis", root)
    with pytest.raises(error, match=reason):
        list(imis.read(listed(given)[0], given))


def test_damaged_stacks(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    given = recipe("imis", root)
    (entry,) = listed(given)
    content = (root / LABEL).read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"PK\x03\x04" + bytes(300)):
        (root / LABEL).write_bytes(damaged)
        with pytest.raises(ReadError, match=r"npz: is no stack of masks, or is damaged"):
            list(imis.read(entry, given))
    outside = sparse.csr_matrix(stack().reshape(3, -1))
    outside.indices[5] = 10**8
    sparse.save_npz(root / LABEL, outside)
    with pytest.raises(ReadError, match="is damaged"):
        list(imis.read(entry, given))
    (root / LABEL).unlink()
    with pytest.raises(ReadError, match=r"npz: there is no such file"):
        list(imis.read(entry, given))


def test_round_trip(labelled, round_trip, classes_of, true_classes) -> None:
    found = round_trip("imis", labelled)
    assert [(entry.name, entry.case, entry.split) for entry, _ in found] == [
        (f"made_scan_{i}_z_000{i}", f"patient {i // 2}", ("train", "val", "test", None)[i]) for i in range(4)
    ]
    for (_, scan), image in zip(found, labelled, strict=True):
        np.testing.assert_array_equal(scan.volume.voxels[0], image.image.pixels)
        assert scan.volume.modality == "mr_t1"
        assert classes_of(scan) == true_classes(image)


def test_stacks_have_all_classes_also_later_ones(tmp_path: Path, labelled) -> None:
    """The published loader reshapes a stack to what its name says."""
    later = LabelledImage(
        labelled[0].image, "ct", "d", "c", Path("b.png"), [ObjectMask(labelled[0].masks[0].mask, "heart", 1)]
    )
    imis.write([*labelled, later], tmp_path / "out", "made")
    content = json.loads((tmp_path / "out/dataset.json").read_text())
    assert content["labels"] == {"0": "background", "1": "liver", "2": "tumour", "3": "heart"}
    assert (content["numTraining"], content["numTest"]) == (1, 1)
    rows = [row for key in ("training", "validation", "test", "unsplit") for row in content[key]]
    assert len(rows) == 5
    for row in rows:
        path = tmp_path / "out" / row["label"]
        shape = ast.literal_eval(path.name.split(".")[-2])
        array = sparse.load_npz(path).toarray().reshape(shape)
        with Image.open(tmp_path / "out" / row["image"]) as image:
            assert array.shape == (3, image.height, image.width, 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "image", "label"]


def test_nothing_to_write(tmp_path: Path, labelled) -> None:
    with pytest.raises(WriteError, match="no image has a mask"):
        imis.write([labelled[2]], tmp_path / "out", "made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("VESALIUS_DATA" not in os.environ, reason="VESALIUS_DATA names no folder of real data")
@pytest.mark.parametrize("step", [20, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["imis", "sam-med2d", "sa-med2d-20m", "msd", "cosmos"])
def test_real_stacks_come_back(round_trip, classes_of, true_classes, recipe, name, step) -> None:
    root = Path(os.environ["VESALIUS_DATA"]) / "imis_btcv"
    given = layout("imis").guess(root)
    entries = listed(given)
    assert [sum(e.split == split for e in entries) for split in ("train", "test")] == [107, 24]
    images = []
    for entry in entries[::step]:
        (scan,) = imis.read(entry, given)
        assert scan.volume.modality == "ct"
        masks = [
            ObjectMask(layer.values[0] == value, target, value)
            for layer in scan.layers
            for value, target in layer.names.items()
        ]
        cut = scan.volume.slice()
        images.append(LabelledImage(cut, "ct", "BTCV", entry.case, entry.image, masks, scan.name, entry.split))
    found = round_trip(name, images)
    expected = sorted((image.image.pixels.tobytes(), sorted(true_classes(image).items())) for image in images)
    assert sorted((s.volume.voxels.tobytes(), sorted(classes_of(s).items())) for _, s in found) == expected
