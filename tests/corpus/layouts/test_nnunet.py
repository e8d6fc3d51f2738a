from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from made_listing import listed
from vesalius.core.errors import GeometryError, ReadError, WriteError
from vesalius.corpus.layouts import msd, nnunet


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def made(root: Path, content: dict, channels: int = 1) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("Tr", "Ts"):
        for number in range(channels):
            save(
                root / f"images{folder}/case_{folder}_{number:04d}.nii.gz",
                rng.integers(0, 99, (4, 5, 6), dtype=np.int16),
            )
    labels = np.arange(120, dtype=np.uint8).reshape(4, 5, 6) % 5
    save(root / "labelsTr/case_Tr.nii.gz", labels)
    (root / "dataset.json").write_text(json.dumps(content))
    return root


V1 = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "liver", "2": "a", "3": "b", "4": "c"}}
V2 = {"channel_names": {"0": "T1", "1": "noNorm"}, "file_ending": ".nii.gz"}


def read(root: Path, recipe, **about):
    given = recipe("nnunet", root, **about)
    entry = listed(given)[0]
    return entry, list(nnunet.read(entry, given))


def test_first_version(tmp_path: Path, recipe) -> None:
    rows = {"training": [{"image": "./imagesTr/case_Tr.nii.gz", "label": "./labelsTr/case_Tr.nii.gz"}], "test": []}
    root = made(tmp_path, V1 | rows)
    entry, (scan,) = read(root, recipe)
    assert (entry.name, entry.case, entry.split, scan.volume.modality) == ("case_Tr", "case_Tr", "train", "mr")
    assert scan.layers[0].names == {1: "liver", 2: "a", 3: "b", 4: "c"}
    assert len(scan.layers) == 1
    guessed = nnunet.guess(root)
    assert guessed is not None
    assert msd.guess(root) is None
    test = listed(guessed)[1]
    assert (test.name, test.split, test.labels) == ("case_Ts", "test", ())


def test_channels(tmp_path: Path, recipe) -> None:
    root = made(tmp_path, V2 | {"labels": {"background": 0, "liver": 1, "rest": [2, 3, 4]}}, 2)
    _, scans = read(root, recipe, modality="ct")
    assert [(s.name, s.volume.modality) for s in scans] == [("case_Tr-T1", "mr_t1"), ("case_Tr-noNorm", "ct")]
    (layer,) = scans[0].layers
    assert layer.names == {1: "liver", 2: "rest", 3: "rest", 4: "rest"}
    assert not (scans[0].volume.voxels == scans[1].volume.voxels).all()


def test_regions_that_overlap_lie_in_layers(tmp_path: Path, recipe) -> None:
    regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    root = made(tmp_path, V2 | {"labels": regions, "regions_class_order": [1, 2, 3]}, 2)
    _, (scan, _) = read(root, recipe, targets={"core": "tumour core"})
    stored = np.asarray(nibabel.load(root / "labelsTr/case_Tr.nii.gz").dataobj).T
    assert [layer.names for layer in scan.layers] == [{1: "whole"}, {2: "tumour core"}, {3: "enhancing"}]
    for layer, values in zip(scan.layers, ([1, 2, 3], [2, 3], [3]), strict=True):
        np.testing.assert_array_equal(layer.values != 0, np.isin(stored, values))


def test_values_that_no_region_has_stay(tmp_path: Path, recipe) -> None:
    root = made(tmp_path, V2 | {"labels": {"background": 0, "whole": [1, 2], "core": [2]}}, 2)
    _, (scan, _) = read(root, recipe)
    assert set(np.unique(scan.layers[0].values)) == {0, 1, 3, 4}
    assert set(np.unique(scan.layers[1].values)) == {0, 2}


def test_listed_files(tmp_path: Path, recipe) -> None:
    root = made(tmp_path, {})
    rows = {"x": {"images": ["imagesTs/case_Ts_0000.nii.gz"], "label": "labelsTr/case_Tr.nii.gz"}}
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "dataset": rows}
    (root / "dataset.json").write_text(json.dumps(content))
    (root / "imagesTs/case_Ts_0000.nii.gz").rename(root / "imagesTr/case_x_0000.nii.gz")
    rows["x"]["images"] = ["imagesTr/case_x_0000.nii.gz"]
    (root / "dataset.json").write_text(json.dumps(content))
    entry, (scan,) = read(root, recipe)
    assert (entry.name, entry.split, scan.volume.modality) == ("case_x", "train", "ct")


def test_a_colour_picture_is_one_file(tmp_path: Path, recipe) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (9, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "imagesTr/a_0000.png")
    Image.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(tmp_path / "labelsTr/a.png")
    content = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "cell": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"file_ending": ".png"}))
    _, (scan,) = read(tmp_path, recipe, modality="histopathology")
    np.testing.assert_array_equal(scan.volume.voxels[0], pixels)
    assert (scan.name, scan.volume.modality) == ("a", "histopathology")


def test_a_missing_channel_is_one_reject(tmp_path: Path, recipe) -> None:
    root = made(tmp_path, V2 | {"labels": {"background": 0, "liver": 1}}, 2)
    (root / "imagesTr/case_Tr_0001.nii.gz").unlink()
    with pytest.raises(ReadError, match=r"case_Tr_0001.nii.gz: there is no such file"):
        read(root, recipe)


def test_channels_of_another_grid(tmp_path: Path, recipe) -> None:
    root = made(tmp_path, V2 | {"labels": {"background": 0, "liver": 1}}, 2)
    save(root / "imagesTr/case_Tr_0001.nii.gz", np.arange(150, dtype=np.int16).reshape(5, 5, 6))
    with pytest.raises(GeometryError, match=r"labelsTr.case_Tr.nii.gz: .*case_Tr_0001"):
        read(root, recipe)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "dataset.json: cannot be read"),
        ("{}", "does not name the labels"),
        ('{"labels": {"liver": "one"}}', "its labels cannot be read"),
        ('{"labels": {"liver": 1}, "dataset": {"a": {}}}', "a of dataset has no images"),
    ],
)
def test_damaged_indexes(tmp_path: Path, recipe, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ReadError, match=reason):
        listed(recipe("nnunet", tmp_path))


def test_what_is_written_is_what_nnunet_reads(tmp_path: Path, apart) -> None:
    nnunet.write(apart, tmp_path / "Dataset001_made", "made")
    content = json.loads((tmp_path / "Dataset001_made/dataset.json").read_text())
    assert content["channel_names"] == {"0": "mr_t1"}
    assert content["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    trained = sorted(path.name for path in (tmp_path / "Dataset001_made/imagesTr").iterdir())
    assert (content["numTraining"], content["file_ending"]) == (len(trained), ".nii.gz") == (3, ".nii.gz")
    for name in trained:
        label = tmp_path / "Dataset001_made/labelsTr" / name.removesuffix("_0000.nii.gz")
        image = nibabel.load(tmp_path / "Dataset001_made/imagesTr" / name)
        labels = nibabel.load(f"{label}.nii.gz")
        assert image.shape == labels.shape
        np.testing.assert_array_equal(image.affine, labels.affine)
    assert sorted(path.name for path in (tmp_path / "Dataset001_made").iterdir()) == [
        "cases.json",
        "dataset.json",
        "imagesTr",
        "imagesTs",
        "labelsTr",
        "labelsTs",
    ]


def test_grey_and_colour_are_not_mixed(tmp_path: Path, apart) -> None:
    colour = replace(apart[1], image=replace(apart[1].image, pixels=np.repeat(apart[1].image.pixels[..., None], 3, 2)))
    with pytest.raises(WriteError, match=r"made/scan 1/z_0001 is colour"):
        nnunet.write([apart[0], colour], tmp_path / "out", "made")
    assert list(tmp_path.iterdir()) == []
