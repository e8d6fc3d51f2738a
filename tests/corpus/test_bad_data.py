"""What is wrong with raw data, and what becomes of it."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

import vesalius as vs
from made_dicom import made_series
from made_listing import listed
from vesalius.corpus.curate import curate
from vesalius.corpus.recipe import DatasetRecipe, Recipe
from vesalius.corpus.schema import CorpusInfo
from vesalius.corpus.store import Corpus

CAMERA = data.camera()[::8, ::8]


def nifti(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.transpose(), np.eye(4)), path)


def volume(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, (6, 40, 40)).astype(np.int16)


def labels(*values: int) -> np.ndarray:
    out = np.zeros((6, 40, 40), np.uint8)
    for number, value in enumerate(values):
        out[1:5, 10:30, 5 + 8 * number : 12 + 8 * number] = value
    return out


def run(tmp_path: Path, **about: Any) -> tuple[CorpusInfo, list[dict[str, str]]]:
    dataset = {"name": "set", "root": "raw", "modality": "mr", "profile": "cosmos", **about}
    recipe = Recipe.from_dict({"name": "all", "datasets": [dataset]})
    info = curate(recipe, tmp_path / "corpus", root=tmp_path)
    return info, pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()


def nnunet(root: Path, regions: dict[str, Any], cases: dict[str, np.ndarray]) -> None:
    for case, values in cases.items():
        nifti(root / "imagesTr" / f"{case}_0000.nii.gz", volume(1))
        nifti(root / "imagesTr" / f"{case}_0001.nii.gz", volume(2))
        nifti(root / "labelsTr" / f"{case}.nii.gz", values)
    about = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, **regions}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(about | {"numTraining": len(cases)}))


def test_a_case_without_one_of_the_regions_is_kept_and_one_without_any_is_not(tmp_path: Path) -> None:
    regions = {"whole tumour": [1, 2, 3], "tumour core": [2, 3], "enhancing tumour": [3]}
    cases = {"all": labels(1, 2, 3), "some": labels(1), "none": labels()}
    nnunet(tmp_path / "raw", regions, cases)
    info, rejects = run(tmp_path, layout="nnunet")
    assert [(row["name"], row["reason"]) for row in rejects] == [("none", "labels nothing")]
    assert set(Corpus(tmp_path / "corpus").images["name"].to_pylist()) == {"all-T1", "all-T2", "some-T1", "some-T2"}
    assert info.masks == 4 * 2 * (3 + 1)


def test_every_channel_names_its_own_file(tmp_path: Path) -> None:
    nnunet(tmp_path / "raw", {"tumour": 1}, {"a": labels(1)})
    run(tmp_path, layout="nnunet")
    rows = Corpus(tmp_path / "corpus").images.to_pylist()
    for channel, modality in (("0000", "mr_t1"), ("0001", "mr_t2")):
        own = {(row["source"], row["source_digest"]) for row in rows if row["modality"] == modality}
        file = f"raw/imagesTr/a_{channel}.nii.gz"
        assert own == {(file, hashlib.sha256((tmp_path / file).read_bytes()).hexdigest())}


def pictures(root: Path, *names: str) -> None:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.roll(CAMERA, number)).save(root / "images" / name)
        mask = np.zeros(CAMERA.shape, np.uint8)
        mask[20:40, 20:40] = 1
        Image.fromarray(mask).save(root / "labels" / f"{Path(name).stem}.png")


PAIRS = {"layout": "pairs", "images": "images/*", "labels": "labels/{stem}.png", "targets": {"1": "liver"}}


def test_images_of_one_name_are_rejects_and_the_others_are_not(tmp_path: Path) -> None:
    pictures(tmp_path / "raw", "a.png", "a.jpg", "b.png")
    info, rejects = run(tmp_path, **PAIRS)
    assert info.images == 1
    assert sorted(row["file"] for row in rejects) == ["raw/images/a.jpg", "raw/images/a.png"]
    assert {row["reason"] for row in rejects} == {"two images would be named a: images/a.jpg and images/a.png"}


@pytest.mark.parametrize("flat", ["single.nii.gz", "picture.png"])
def test_a_single_slice_among_volumes_is_a_reject(tmp_path: Path, flat: str) -> None:
    for name in ("one", "two"):
        nifti(tmp_path / "raw" / "images" / f"{name}.nii.gz", volume())
        nifti(tmp_path / "raw" / "labels" / f"{name}.nii.gz", labels(1))
    if flat.endswith(".png"):
        Image.fromarray(CAMERA).save(tmp_path / "raw" / "images" / flat)
    else:
        nifti(tmp_path / "raw" / "images" / flat, volume()[:1])
        nifti(tmp_path / "raw" / "labels" / flat, labels(1)[2:3])
    info, rejects = run(tmp_path, **PAIRS | {"labels": "labels/{stem}.nii.gz"})
    assert info.images == 2 * 4
    assert [(Path(row["file"]).name, row["reason"]) for row in rejects] == [(flat, "is a single slice among volumes")]


def test_masks_that_cover_no_pixel_are_counted(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    Image.fromarray(CAMERA).save(tmp_path / "raw" / "a.png")
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]
    nothing = {"size": list(CAMERA.shape), "counts": [CAMERA.size]}
    annotations = [
        {"id": number, "image_id": 1, "category_id": 1, "segmentation": part, "iscrowd": 0}
        for number, part in enumerate((square, nothing), 1)
    ]
    about = {
        "images": [{"id": 1, "file_name": "a.png", "height": CAMERA.shape[0], "width": CAMERA.shape[1]}],
        "categories": [{"id": 1, "name": "liver"}],
        "annotations": annotations,
    }
    (tmp_path / "raw" / "instances_all.json").write_text(json.dumps(about))
    info, _ = run(tmp_path, layout="coco")
    assert info.masks == 1
    assert info.left_out == {"the mask covers no pixel": 1}


def test_labelled_pixels_are_counted_before_images_are_stretched(tmp_path: Path) -> None:
    pictures(tmp_path / "raw", "a.png")
    mask = np.zeros(CAMERA.shape, np.uint8)
    mask[3:5, 3:5] = 1
    Image.fromarray(mask).save(tmp_path / "raw" / "labels" / "a.png")
    info, _ = run(tmp_path, **PAIRS | {"profile": "medsam"})
    assert info.images == 0
    assert info.left_out == {"too little of the image is labelled": 1}


def test_a_recipe_names_the_grey_window(tmp_path: Path) -> None:
    values = np.linspace(-1500, 1500, 6 * 40 * 40).reshape(6, 40, 40).astype(np.int16)
    nifti(tmp_path / "raw" / "images" / "a.nii.gz", values)
    nifti(tmp_path / "raw" / "labels" / "a.nii.gz", labels(1))
    about = PAIRS | {"labels": "labels/{stem}.nii.gz", "profile": "medsam", "modality": "ct"}
    shown = {}
    for window in (None, "lung", "40/80"):
        run(tmp_path / str(window), **about | {"root": str(tmp_path / "raw"), "window": window})
        corpus = Corpus(tmp_path / str(window) / "corpus")
        shown[window] = [corpus.read(index).image.pixels.mean() for index in range(len(corpus))]
    # Air and lung are black in a window of soft tissue; -600/1500 shows them, 40/80 hardly has a grey.
    assert shown["lung"][0] > 20 > shown[None][0]
    assert len(shown["40/80"]) == 4
    assert shown["40/80"] != shown[None]
    with pytest.raises(vs.VesaliusError, match="window"):
        DatasetRecipe(name="x", layout="pairs", root=Path(), window="sunny")


def test_a_modality_has_the_vocabularys_name(tmp_path: Path) -> None:
    pictures(tmp_path / "raw", "a.png")
    run(tmp_path, **PAIRS | {"modality": "Computed Tomography"})
    assert Counter(Corpus(tmp_path / "corpus").images["modality"].to_pylist()) == {"ct": 1}
    assert DatasetRecipe(name="x", layout="pairs", root=Path(), modality="thermography").modality == "thermography"


def test_series_in_one_folder_have_digests_of_their_own(tmp_path: Path) -> None:
    from vesalius.corpus.block import source_digest

    made_series(tmp_path / "raw" / "one", series="1.2.3")
    made_series(tmp_path / "raw" / "two", series="1.2.4")
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted((tmp_path / "raw").rglob("*.dcm")):
        path.rename(flat / f"{path.parent.name}-{path.name}")
    entries = listed(DatasetRecipe(name="set", layout="dicom", root=flat))
    assert len(entries) == 2
    digests = {source_digest(entry.image, entry.extra["files"]) for entry in entries}
    assert len(digests) == 2
    assert source_digest(flat) not in digests
