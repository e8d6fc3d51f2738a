import shutil
from pathlib import Path

import pytest

import vesalius as vs
from made_discs import images
from vesalius.cli import main
from vesalius.corpus.curate import curate
from vesalius.corpus.guess import guess_recipe
from vesalius.corpus.layouts import layout
from vesalius.corpus.recipe import Recipe


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    for name in ("coco", "pairs", "dicom"):
        layout(name).write(images()[:4], folder / "deep" / f"{name} set", "discs")
    shutil.copytree(folder / "deep" / "coco set", folder / "coco set")
    return folder


def test_each_folder_is_recognised_once(mixed: Path) -> None:
    recipe, assumed = guess_recipe(mixed)
    found = [(dataset.layout, dataset.root.as_posix()) for dataset in recipe.datasets]
    assert found == [
        ("coco", "coco set"),
        ("coco", "deep/coco set"),
        ("dicom", "deep/dicom set"),
        ("pairs", "deep/pairs set"),
    ]
    names = [dataset.name for dataset in recipe.datasets]
    assert len(set(names)) == 4
    assert all(any(sentence.startswith(name) for sentence in assumed) for name in names)


def test_what_is_guessed_can_be_curated(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["curate", "--guess", str(mixed / "deep"), "-o", str(tmp_path / "recipe.toml")])
    assert not stop.value.code
    assert "has the layout pairs" in capsys.readouterr().out
    info = curate(Recipe.from_toml(tmp_path / "recipe.toml"), tmp_path / "corpus", root=mixed / "deep")
    assert (info.images, info.rejects) == (12, 0)
    with pytest.raises(SystemExit) as stop:
        main(["curate", "--guess", str(mixed), "-o", str(tmp_path / "recipe.toml")])
    assert stop.value.code == 2
    assert "is there already" in capsys.readouterr().err


def test_patients_folders_of_dicom_are_one_set(mixed: Path) -> None:
    for folder in ("deep/coco set", "deep/pairs set", "coco set"):
        shutil.rmtree(mixed / folder)
    recipe, _ = guess_recipe(mixed)
    assert [(dataset.layout, dataset.root.as_posix()) for dataset in recipe.datasets] == [("dicom", ".")]


def test_a_folder_of_nothing_known_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(vs.VesaliusError, match=r"none of the layouts is recognised.*pairs"):
        guess_recipe(tmp_path)
    with pytest.raises(vs.VesaliusError, match="is not a folder"):
        guess_recipe(tmp_path / "absent")
