from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from made_listing import listed
from vesalius.core.errors import ReadError
from vesalius.corpus.layouts import monai, msd


def save(path: Path, values: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path.name


def made(root: Path, name: str = "brats.json", **about: object) -> Path:
    rng = np.random.default_rng(0)
    for case in ("p1", "p2"):
        for channel in ("flair", "t1ce"):
            save(root / case / f"{channel}.nii.gz", rng.integers(0, 99, (4, 5, 6), dtype=np.int16))
        save(root / case / "seg.nii.gz", np.arange(120, dtype=np.uint8).reshape(4, 5, 6) % 3)
    rows = {
        case: {"image": [f"{case}/flair.nii.gz", f"{case}/t1ce.nii.gz"], "label": f"{case}/seg.nii.gz", "fold": 0}
        for case in ("p1", "p2")
    }
    (root / name).write_text(json.dumps({"training": [rows["p1"]], "validation": [rows["p2"]], "testing": []} | about))
    return root


def test_lists_of_channels(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    given = recipe("monai", root, channels=("flair", "t1ce"), targets={"1": "edema", "2": "tumour"}, case="^([^/]+)/")
    entries = listed(given)
    assert [(e.name, e.case, e.split) for e in entries] == [("p1_flair", "p1", "train"), ("p2_flair", "p2", "val")]
    flair, t1ce = monai.read(entries[0], given)
    assert (flair.name, flair.volume.modality) == ("p1_flair-flair", "mr_flair")
    assert (t1ce.name, t1ce.volume.modality) == ("p1_flair-t1ce", "mr_t1ce")
    stored = np.asarray(nibabel.load(root / "p1/t1ce.nii.gz").dataobj)
    np.testing.assert_array_equal(t1ce.volume.voxels, stored.T)
    assert t1ce.layers[0].names == {1: "edema", 2: "tumour"}


def test_labels_of_the_file_name_targets(tmp_path: Path, recipe) -> None:
    root = made(tmp_path, labels={"background": 0, "edema": 1, "tumour": 2})
    given = recipe("monai", root)
    assert next(monai.read(listed(given)[0], given)).layers[0].names == {1: "edema", 2: "tumour"}


def test_guess(tmp_path: Path, recipe) -> None:
    root = made(tmp_path)
    guessed = monai.guess(root)
    assert guessed is not None
    assert (guessed.layout, guessed.labels) == ("monai", "brats.json")
    assert msd.guess(root) is None
    # With two datalists it is the recipe that must say which.
    (root / "other.json").write_text((root / "brats.json").read_text())
    assert monai.guess(root) is None
    with pytest.raises(ReadError, match=r"not one datalist alone: brats.json, other.json"):
        listed(recipe("monai", root))
    assert len(listed(recipe("monai", root, labels="other.json"))) == 2
    (root / "brats.json").rename(root / "datalist.json")
    assert len(listed(recipe("monai", root))) == 2


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"image": []}], "row 1 of training has 0 images"),
        ([{"image": "p1/flair.nii.gz", "label": ["a", "b"]}], "1 images and 2 label files"),
        ([{"image": None}], "row 1 of training names no files"),
        ([3], "row 1 of training names no files"),
    ],
)
def test_damaged_rows(tmp_path: Path, recipe, rows: list, reason: str) -> None:
    (tmp_path / "datalist.json").write_text(json.dumps({"training": rows}))
    with pytest.raises(ReadError, match=reason):
        listed(recipe("monai", tmp_path))


def test_no_datalist(tmp_path: Path, recipe) -> None:
    (tmp_path / "set.json").write_text("{}")
    with pytest.raises(ReadError, match=r"there is no datalist.json and not one datalist alone: none"):
        listed(recipe("monai", tmp_path))
    assert monai.guess(tmp_path) is None
