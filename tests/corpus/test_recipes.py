"""Recipes that ship: they parse, their targets are known, and one of each form finds files of the public layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vesalius.corpus import recipe as recipe_module
from vesalius.corpus.curate import curate
from vesalius.corpus.recipe import Recipe
from vesalius.corpus.store import Corpus
from vesalius.vocabulary.modalities import find_modality
from vesalius.vocabulary.targets import find_target

FOLDER = Path(recipe_module.__file__).parent / "recipes"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_names_are_known(path: Path) -> None:
    recipe = Recipe.from_toml(path)
    assert recipe.name == path.stem
    for dataset in recipe.datasets:
        assert all(find_target(target) for target in dataset.targets.values())
        assert dataset.modality is None or find_modality(dataset.modality)


def nifti(path: Path, values: np.ndarray) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def labels(values: list[int]) -> np.ndarray:
    out = np.zeros((20, 20, 12), np.uint8)
    for place, value in enumerate(values):
        out[1 + place : 2 + place, 2:18, 2:10] = value
    return out


SCAN = np.random.default_rng(0).integers(-1000, 1000, (20, 20, 12)).astype(np.int16)
VOLUMES = {
    "btcv": ("Training/img/img0001.nii.gz", "Training/label/label0001.nii.gz", list(range(1, 14))),
    "kits19": ("data/case_00000/imaging.nii.gz", "data/case_00000/segmentation.nii.gz", [1, 2]),
    "lits": ("volume-0.nii", "segmentation-0.nii", [1, 2]),
    "acdc": (
        "training/patient001/patient001_frame01.nii.gz",
        "training/patient001/patient001_frame01_gt.nii.gz",
        [1, 2, 3],
    ),
}
PICTURES = {
    "isic2018": (
        "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg",
        ["ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png"],
    ),
    "kvasir-seg": ("Kvasir-SEG/images/cju0.jpg", ["Kvasir-SEG/masks/cju0.png"]),
    "montgomery": (
        "MontgomerySet/CXR_png/MCUCXR_0001_0.png",
        [f"MontgomerySet/ManualMask/{side}Mask/MCUCXR_0001_0.png" for side in ("left", "right")],
    ),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_in_the_public_layout_are_found(name: str, tmp_path: Path) -> None:
    image, label, values = VOLUMES[name]
    nifti(tmp_path / "raw" / image, SCAN)
    nifti(tmp_path / "raw" / label, labels(values))
    recipe = Recipe.from_toml(FOLDER / f"{name}.toml")
    info = curate(recipe, tmp_path / "corpus", root=tmp_path / "raw")
    assert (info.rejects, info.unknown_targets) == (0, {})
    found = set(Corpus(tmp_path / "corpus").masks(["target"])["target"].to_pylist())
    assert found == set(recipe.datasets[0].targets.values())


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_in_the_public_layout_are_found(name: str, tmp_path: Path) -> None:
    image, masks = PICTURES[name]
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 10:30] = 255
    for path, values in ((image, pixels), *((path, mask) for path in masks)):
        (tmp_path / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / "raw" / path)
    info = curate(Recipe.from_toml(FOLDER / f"{name}.toml"), tmp_path / "corpus", root=tmp_path / "raw")
    assert (info.images, info.masks, info.rejects) == (len(masks), len(masks), 0)
