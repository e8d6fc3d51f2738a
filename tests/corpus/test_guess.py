import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vesalius as vs
from made_discs import images
from vesalius.cli import main
from vesalius.corpus.curate import curate
from vesalius.corpus.guess import guess_recipe
from vesalius.corpus.layouts import layout
from vesalius.corpus.profile import find_profile
from vesalius.corpus.recipe import Recipe
from vesalius.corpus.store import Corpus


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
    with pytest.raises(SystemExit) as stop:
        main(["curate", "--guess", str(mixed / "deep"), "-o", str(tmp_path / "recipe.toml" / "other.toml")])
    assert stop.value.code == 2
    assert "no folder can be made there" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["curate", str(mixed / "deep"), "-o", str(tmp_path / "other")])
    assert stop.value.code == 2
    assert f"vesalius curate --guess {mixed / 'deep'} -o" in capsys.readouterr().err


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


def plain(folder: Path, mask: str = "{}.png", value: int = 1, stem: str = "1.2.840.113.{}", count: int = 12) -> Path:
    """Pictures with a square each and no description."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        (folder / kind / ".DS_Store").write_bytes(b"x")
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 60), np.uint8)
    labels[5:25, 10:30] = value
    for number in range(count):
        name = stem.format(number)
        Image.fromarray(rng.integers(0, 255, labels.shape, dtype=np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(labels).save(folder / "masks" / mask.format(name))
    return folder


@pytest.mark.parametrize("mask", ["{}.png", "{}_mask.png", "seg-{}.tif"])
def test_the_names_of_masks_show_their_pattern(tmp_path: Path, mask: str) -> None:
    recipe, assumed = guess_recipe(plain(tmp_path / "own", mask))
    assert recipe.datasets[0].labels == f"masks/{mask.format('{stem}')}"
    assert f"own: the labels of images/* are masks/{mask.format('{stem}')}" in assumed
    named = recipe.datasets[0].model_copy(update={"targets": {"1": "liver"}})
    info = curate(recipe.model_copy(update={"datasets": (named,)}), tmp_path / "corpus", root=tmp_path / "own")
    assert (info.images, info.rejects) == (12, 0)


def test_compressed_volumes_keep_their_double_suffix(tmp_path: Path) -> None:
    import nibabel

    for kind, values in (("images", np.arange(60.0).reshape(3, 4, 5)), ("labels", np.ones((3, 4, 5), np.uint8))):
        (tmp_path / kind).mkdir()
        for name in ("a.1", "b.2"):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / kind / f"{name}.nii.gz")
    recipe, _ = guess_recipe(tmp_path)
    assert recipe.datasets[0].labels == "labels/{stem}.nii.gz"


def test_masks_of_other_names_are_not_guessed(tmp_path: Path) -> None:
    folder = plain(tmp_path / "own")
    for number, path in enumerate(sorted((folder / "masks").glob("*.png"))):
        path.rename(path.with_name(f"m{number}.png"))
    with pytest.raises(vs.VesaliusError, match="none of the layouts"):
        guess_recipe(folder)


def test_images_without_labels_of_the_pattern_are_said(tmp_path: Path) -> None:
    folder = plain(tmp_path / "own")
    assert not any("have no labels" in sentence for sentence in guess_recipe(folder)[1])
    (folder / "masks" / "1.2.840.113.3.png").unlink()
    assert "own: 1 of 12 images have no labels of such a name" in guess_recipe(folder)[1]


def test_values_that_the_recipe_does_not_name_are_said(tmp_path: Path) -> None:
    _, assumed = guess_recipe(plain(tmp_path / "own", value=255))
    (said,) = (sentence for sentence in assumed if "nothing names" in sentence)
    assert "nothing names: 255; " in said
    assert "[datasets.targets]" in said
    assert '255 = "' in said


def test_reasons_of_rejects_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = plain(tmp_path / "own", value=255)
    (folder / "masks/1.2.840.113.3.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        main(["curate", "--guess", str(folder), "-o", str(tmp_path / "recipe.toml")])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["curate", str(tmp_path / "recipe.toml"), "--root", str(folder), "-o", str(tmp_path / "corpus")])
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert "12 entries could not be used" in out
    assert "11 like masks/1.2.840.113.0.png: has labels that nothing names: 255" in out
    assert "1 like masks/1.2.840.113.3.png: " in out


@pytest.mark.parametrize(("images", "masks"), [("{}/images", "{}/masks"), ("images/{}", "masks/{}")])
def test_folders_of_splits_are_one_set_that_stays_divided(tmp_path: Path, images: str, masks: str) -> None:
    for name in ("train", "test"):
        made = plain(tmp_path / "made" / name, "{}_mask.png", stem=f"{name[:2]}_{{}}")
        for kind, place in (("images", images), ("masks", masks)):
            (tmp_path / "own" / place.format(name)).parent.mkdir(parents=True, exist_ok=True)
            (made / kind).rename(tmp_path / "own" / place.format(name))
    recipe, _ = guess_recipe(tmp_path / "own")
    (dataset,) = recipe.datasets
    assert (dataset.images, dataset.labels) == (f"{images.format('*')}/*", masks.format("{split}") + "/{stem}_mask.png")
    named = dataset.model_copy(update={"targets": {"1": "liver"}})
    recipe = recipe.model_copy(update={"datasets": (named,)})
    info = curate(recipe, tmp_path / "corpus", root=tmp_path / "own")
    assert (info.images, info.rejects) == (24, 0)
    rows = Corpus(tmp_path / "corpus").images.select(["source", "split"]).to_pylist()
    assert {(row["source"].rpartition("/")[2][:2], row["split"]) for row in rows} == {("tr", "train"), ("te", "test")}
    # A picture that lies in no split has no labels to look for.
    extra = tmp_path / "own" / images.format("more")
    extra.mkdir(parents=True)
    shutil.copy(next((tmp_path / "own" / images.format("test")).glob("*.png")), extra / "x.png")
    assert curate(recipe, tmp_path / "other", root=tmp_path / "own").rejects == 1


def test_a_guessed_recipe_shows_its_profile(tmp_path: Path) -> None:
    folder = plain(tmp_path / "own")
    with pytest.raises(SystemExit):
        main(["curate", "--guess", str(folder), "-o", str(tmp_path / "recipe.toml")])
    lines = (tmp_path / "recipe.toml").read_text().splitlines()
    place = lines.index('profile = "sa-med2d"')
    assert lines[place - 1].startswith("# Stretches grey values")
    assert Recipe.from_toml(tmp_path / "recipe.toml").profile == "sa-med2d"


def test_a_profile_of_ones_own_lies_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.toml").write_text("min_area = 0.5\n")
    (tmp_path / "other.toml").write_text("min_area = 0.25\n")
    (tmp_path / "own.toml").write_text("min_area = 0.75\n")
    text = 'name = "r"\nprofile = "own.toml"\n'
    for name in ("own", "other"):
        text += f'[[datasets]]\nname = "{name}"\nlayout = "pairs"\nroot = "."\nprofile = "{name}.toml"\n'
    (tmp_path / "mine" / "r.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.from_toml(Path("mine") / "r.toml")
    named = [recipe.profile, *(dataset.profile or "" for dataset in recipe.datasets)]
    assert [find_profile(name).min_area for name in named] == [0.5, 0.5, 0.25]
