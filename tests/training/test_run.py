import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.training.conftest import disc_images

import made_corpus
import vesalius as vs
from made_specialists import specialist
from vesalius import cli_training
from vesalius.cli import main
from vesalius.core.errors import ConfigError, ModelError, ReadError
from vesalius.corpus.layouts.pairs import read_pairs
from vesalius.corpus.resplit import resplit
from vesalius.corpus.store import PSEUDO, Corpus
from vesalius.evaluation.images import list_places
from vesalius.models.checkpoint import save_checkpoint
from vesalius.models.tiny import Tiny, TinyConfig
from vesalius.training.pool import rows_of
from vesalius.training.run import cases_seen, find_recipe, images_digest, open_images, run_training

RECIPE = """
steps = {steps}
images = 1
warmup = 1
[network.sizes]
widths = [8, 8, 8, 8, 8]
depths = [1, 1, 1, 1, 1]
decoder = [8, 8, 8, 8, 8]
key = {key}
[interaction]
rounds = 2
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "discs"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    y, x = np.mgrid[0:60, 0:80]
    disc = ((x - 40) ** 2 + (y - 30) ** 2 < 200).astype(np.uint8)
    for case in ("s007", "p100", "128"):  # the last one belongs to validation
        Image.fromarray(80 + 90 * disc).save(folder / "images" / f"{case}.png")
        Image.fromarray(disc).save(folder / "labels" / f"{case}.png")
    about = {"modality": "mr", "labels": {"1": "disc"}, "cases": 3, "instances": False}
    (folder / "set.json").write_text(json.dumps(about))
    return folder.parent


def write_recipe(folder: Path, steps: int = 2, key: int = 8) -> Path:
    path = folder / f"recipe_{steps}_{key}.toml"
    path.write_text(RECIPE.format(steps=steps, key=key))
    return path


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return int(done.value.code or 0)


def test_validation_cases_are_not_trained_on(data: Path) -> None:
    assert sorted(image.case for image in open_images(data, "train")) == ["p100", "s007"]
    assert sorted(image.case for image in open_images(data, "val")) == ["128"]


def state(folder: Path, **splits: str | None) -> None:
    rows = {f"images/{case}.png": {"case": case, "modality": None, "split": of} for case, of in splits.items()}
    (folder / "cases.json").write_text(json.dumps(rows))


def divided(folder: Path, split: str) -> list[str]:
    """Set and case of the images that train, or are measured, which are the same."""
    images = open_images(folder, split)
    assert not isinstance(images, Corpus)
    found = [next(iter(read_pairs(place.folder, rows={place.row}))) for place in list_places(folder, split)]
    assert [image.path for image in found] == [image.path for image in images]
    return [f"{image.dataset}/{image.case}" for image in images]


def test_splits_that_pairs_state_are_kept(data: Path) -> None:
    folder = data / "discs"
    state(folder, s007="test", p100="train", elsewhere="val")
    assert divided(data, "test") == ["discs/s007"]
    assert divided(data, "train") == ["discs/p100"]
    assert divided(data, "val") == ["discs/128"]  # nothing is stated of it
    shutil.copy(folder / "images" / "s007.png", folder / "images" / "s007_2.png")
    shutil.copy(folder / "labels" / "s007.png", folder / "labels" / "s007_2.png")
    assert divided(data, "test") == ["discs/s007"] * 2  # nothing of the second image, but of its case
    state(folder, s007=None, p100=None)
    assert divided(data, "val") == ["discs/128"]
    for splits, told in (
        ({"s007": "testing"}, r"has s007\.png in the split 'testing'; call it one of train, val, test"),
        ({"s007": "test", "s007_2": "train"}, "has the case s007 in the splits test and train; correct it"),
        ({"elsewhere": "test"}, r"names no image that is there, but images/elsewhere\.png"),
    ):
        state(folder, **splits)
        with pytest.raises(vs.VesaliusError, match=rf"discs/cases\.json: {told}"):
            open_images(data, "train")


def test_a_set_is_divided_the_same_whatever_is_beside_it(data: Path) -> None:
    shutil.copytree(data / "discs", data / "more")
    state(data / "more", **dict.fromkeys(("s007", "p100", "128"), "test"))
    assert divided(data, "train") == divided(data / "discs", "train") == ["discs/p100", "discs/s007"]
    assert divided(data, "val") == divided(data / "discs", "val") == ["discs/128"]
    assert len(divided(data, "test")) == 3


def test_stated_splits_without_validation_lend_it_a_tenth_of_the_training_cases(data: Path) -> None:
    folder = data / "discs"
    for name in ("images", "labels"):
        for case in range(20):
            shutil.copy(folder / name / "128.png", folder / name / f"c{case}.png")
    about = json.loads((folder / "set.json").read_text())
    (folder / "set.json").write_text(json.dumps(about | {"cases": 23}))
    state(folder, **dict.fromkeys(("128", "s007", "p100"), "test"), **{f"c{case}": "train" for case in range(20)})
    lent = divided(data, "val")
    assert len(lent) == 2
    assert sorted([*lent, *divided(data, "train")]) == sorted(f"discs/c{case}" for case in range(20))


def test_the_command_leaves_a_checkpoint_that_answers(data: Path, tmp_path: Path, capsys) -> None:
    recipe, output = write_recipe(tmp_path), tmp_path / "run"
    line = ("train", recipe, "--corpus", data, "-o", output, "--device", "cpu")
    assert command(*line) == 0
    told = capsys.readouterr().err
    assert re.search(r"^encoder: ([\d,]+) of \1 parameters train$", told, re.MULTILINE)
    model = vs.load_model(output / "checkpoint")
    (prediction,) = model.predict(model.encode(np.zeros((60, 80), np.uint8)), [vs.Prompt(box=(10, 10, 50, 50))])
    assert prediction.mask.shape == (60, 80)
    run = json.loads((output / "run.json").read_text())
    assert run["config"]["steps"] == 2
    assert run["corpus"] == str(data)
    assert len(run["start_weights"]) == 64
    header, row = (output / "validation.csv").read_text().splitlines()
    assert header == "step,dice,box,1_point,3_points,5_points"
    assert float(row.split(",")[1]) == pytest.approx(np.mean([float(v) for v in row.split(",")[2:]]), abs=1e-4)
    assert (output / "best" / "config.json").exists()
    assert command(*line) == 2
    assert "--resume" in capsys.readouterr().err
    assert command(*line, "--resume") == 0


@pytest.mark.parametrize(
    ("first", "rounds", "decisive"),
    [
        ("box = 1, point = 0, mask = 0", 1, ["box"]),
        ("box = 1, point = 0, mask = 0", 2, ["box", "1_point", "3_points", "5_points"]),
        ("box = 0.5, point = 0.5, mask = 0", 1, ["box", "1_point", "3_points", "5_points"]),
        ("box = 0, point = 1, mask = 0", 1, ["1_point", "3_points", "5_points"]),
    ],
)
def test_the_best_network_is_that_under_the_prompts_it_is_trained_for(
    first: str, rounds: int, decisive: list[str], data: Path, tmp_path: Path
) -> None:
    recipe, output = write_recipe(tmp_path, steps=1), tmp_path / "run"
    recipe.write_text(recipe.read_text().replace("rounds = 2", f"rounds = {rounds}\nfirst = {{ {first} }}"))
    assert command("train", recipe, "--corpus", data, "-o", output, "--device", "cpu") == 0
    header, row = (output / "validation.csv").read_text().splitlines()
    figures = dict(zip(header.split(","), map(float, row.split(",")), strict=True))
    assert list(figures) == ["step", "dice", "box", "1_point", "3_points", "5_points"]
    assert len(set(figures.values())) > 3
    assert figures["dice"] == pytest.approx(np.mean([figures[name] for name in decisive]), abs=1e-5)


def test_a_run_can_start_from_a_checkpoint(data: Path, tmp_path: Path) -> None:
    run_training(write_recipe(tmp_path), data, tmp_path / "a")
    seen = {"discs/s007", "discs/p100"}
    assert cases_seen(tmp_path / "a" / "checkpoint") == seen
    (data / "discs" / "images" / "s007.png").unlink()
    (data / "discs" / "labels" / "s007.png").unlink()
    about = data / "discs" / "set.json"
    about.write_text(about.read_text().replace('"cases": 3', '"cases": 2'))
    run_training(write_recipe(tmp_path, steps=1), data, tmp_path / "b", init=tmp_path / "a" / "checkpoint")
    assert cases_seen(tmp_path / "b" / "checkpoint") == seen
    with pytest.raises(ModelError, match="no model"):
        run_training(write_recipe(tmp_path), data, tmp_path / "c", init="nothing")


def test_a_network_without_words_learns_those_of_the_corpus(data: Path, tmp_path: Path) -> None:
    recipe, asked = write_recipe(tmp_path, steps=1), tmp_path / "words.toml"
    start = run_training(recipe, data, tmp_path / "a")
    first = "first = { point = 0, box = 0, mask = 0, text = 1 }"
    asked.write_text(f"{recipe.read_text()}{first}\n[network]\nwords = true\n")
    trained = run_training(asked, data, tmp_path / "b", init=tmp_path / "a" / "checkpoint")
    assert (start.config.words, trained.config.words) == ((), ("disc",))
    model = vs.load_model(tmp_path / "b" / "checkpoint")
    assert "text" in model.takes
    with pytest.raises(vs.VesaliusError, match=r"not trained on 'optic disc'.*say one of: disc"):
        model.predict(model.encode(np.zeros((60, 80), np.uint8)), [vs.Prompt(text="optic disc")])
    again = run_training(asked, data, tmp_path / "c", init=tmp_path / "b" / "checkpoint")
    assert again.config.words == ("disc",)
    save_checkpoint(specialist("deeplab"), tmp_path / "deeplab")
    with pytest.raises(ConfigError, match="not for 'deeplab'"):
        run_training(asked, data, tmp_path / "d", init=tmp_path / "deeplab")


def test_names_that_a_network_does_not_know_are_told_before_the_first_step(data: Path, tmp_path: Path) -> None:
    asked = tmp_path / "words.toml"
    first = "first = {{ point = 0, box = 0.5, mask = 0, text = {} }}"
    recipe = write_recipe(tmp_path, steps=1).read_text().replace("rounds = 2", "rounds = 1")
    asked.write_text(f"{recipe}{first.format(0.5)}\n")
    save_checkpoint(
        Tiny(TinyConfig(widths=(8,) * 5, depths=(1,) * 5, decoder=(8,) * 5, key=8, words=("liver",))),
        tmp_path / "start",
    )
    with pytest.raises(ConfigError, match=r"was not trained on disc; .*interaction.first.text = 0"):
        run_training(asked, data, tmp_path / "a", init=tmp_path / "start")
    assert not (tmp_path / "a").exists()
    asked.write_text(f"{recipe}{first.format(0).replace('0.5', '1')}\n")
    run_training(asked, data, tmp_path / "b", init=tmp_path / "start")


@pytest.mark.parametrize("name", ["ft-sam", "imis-net", "lora", "finetune-tiny"])
def test_what_tunes_a_trained_network_is_not_given_a_random_one(name: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--init"):
        run_training(name, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_is_not_for_another_kind_of_network(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"for networks of kind 'unet', .* is of kind 'tiny'"):
        run_training("unet", data, tmp_path / "run", init="vesalius-tiny")
    assert not (tmp_path / "run").exists()


def test_a_damaged_image_of_validation_is_not_passed_over(tmp_path: Path, capsys) -> None:
    folder = made_corpus.write(tmp_path / "corpus", [list(range(20))]).folder
    corpus = Corpus(folder)
    damaged = (rows_of(corpus, "val") & (corpus.images["masks"].to_numpy() > 0)).nonzero()[0][0]
    shard = folder / "images" / "00000.parquet"
    table = pq.read_table(shard)
    place = table.schema.get_field_index("image")
    pictures = table["image"].to_pylist()
    pictures[damaged]["bytes"] = b"no picture"
    pq.write_table(
        table.set_column(place, table.schema.field(place), pa.array(pictures, table.field(place).type)), shard
    )
    line = ("train", write_recipe(tmp_path), "--corpus", folder, "-o", tmp_path / "run", "--device", "cpu")
    assert command(*line) == 2
    assert "no validation" not in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_curated_corpus_is_trained_on(tmp_path: Path) -> None:
    corpus = made_corpus.write(tmp_path / "corpus", [[0, 1, 2, 3], [4, 5]])
    trained = run_training(write_recipe(tmp_path), corpus.folder, tmp_path / "run")
    assert trained.architecture == "tiny"
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(record["corpus_digest"]) == 64
    images, trains = corpus.images, rows_of(corpus, "train")
    pairs = zip(images["dataset"].to_pylist(), images["case"].to_pylist(), trains, strict=True)
    assert record["trained_on"] == sorted({f"{dataset}/{case}" for dataset, case, train in pairs if train})


def test_a_corpus_without_a_validation_split_is_validated_on_what_is_held_out(tmp_path: Path, capsys) -> None:
    corpus = made_corpus.write(tmp_path / "corpus", [list(range(20))])
    output = tmp_path / "run"
    assert command("train", write_recipe(tmp_path), "--corpus", corpus.folder, "-o", output, "--device", "cpu") == 0
    held_out, counts = rows_of(corpus, "val"), corpus.images["masks"].to_numpy()
    assert held_out.any()
    told = capsys.readouterr().err
    assert f"no validation split: {held_out.sum()} training images are held out for it" in told
    assert (output / "validation.csv").exists()
    trained = rows_of(corpus, "train") & (counts > 0)
    assert json.loads((output / "run.json").read_text())["images"] == trained.sum()


def test_a_run_is_not_resumed_on_a_corpus_that_was_split_anew(tmp_path: Path, capsys) -> None:
    folder = made_corpus.write(tmp_path / "corpus", [list(range(20))]).folder
    line = ("train", write_recipe(tmp_path), "--corpus", folder, "-o", tmp_path / "run", "--device", "cpu", "--resume")
    assert command(*line) == 0
    assert command(*line) == 0
    assert command("corpus", "split", folder, "--shares", 0.6, 0.2, 0.2) == 0
    capsys.readouterr()
    assert command(*line) == 2
    assert "holds a run of another configuration: about.corpus_digest was" in capsys.readouterr().err


def test_the_digest_of_images_is_of_their_modality_too() -> None:
    images = disc_images(2)
    assert images_digest(images) == images_digest(disc_images(2))
    assert images_digest(images) != images_digest([dataclasses.replace(image, modality="ct") for image in images])


def test_the_digest_of_a_corpus_is_of_its_splits_and_masks_too(tmp_path: Path) -> None:
    folder = made_corpus.write(tmp_path / "corpus", [[1, 2, 3]]).folder
    digests = {images_digest(Corpus(folder))}
    assert images_digest(Corpus(folder)) in digests
    digests.add(images_digest(Corpus(folder, splits={("set", "case0"): "val"})))
    masks = folder / "masks" / "00000.parquet"
    table = pq.read_table(masks)
    (folder / PSEUDO).mkdir()
    pq.write_table(table, folder / PSEUDO / masks.name)
    digests.add(images_digest(Corpus(folder)))
    names = ["spleen"] * len(table)
    masks.unlink()
    pq.write_table(table.set_column(table.schema.get_field_index("target"), "target", [names]), masks)
    digests.add(images_digest(Corpus(folder)))
    assert len(digests) == 4


def test_images_without_objects_are_no_validation(tmp_path: Path, monkeypatch) -> None:
    folder = made_corpus.write(tmp_path / "corpus", [list(range(8))]).folder
    resplit(folder, 1, lambda *_: "val")
    # Every fourth image, from the first on, has no object.
    monkeypatch.setattr(cli_training, "MOST", 2)
    assert [image.path.stem for image in cli_training._validation_images(folder)] == ["1", "5"]
    nothing = made_corpus.write(tmp_path / "nothing", [[0, 4]]).folder
    resplit(nothing, 1, lambda *_: "val")
    with pytest.raises(ReadError, match="no image of the validation split has an object"):
        cli_training._validation_images(nothing)


def test_a_recipe_that_stops_by_validation_needs_one(tmp_path: Path, capsys) -> None:
    # Too few cases for some to be held out.
    folder = made_corpus.write(tmp_path / "corpus", [list(range(8))]).folder
    recipe = write_recipe(tmp_path)
    line = ("train", recipe, "--corpus", folder, "-o", tmp_path / "run", "--device", "cpu")
    recipe.write_text(f"patience = 3\n{recipe.read_text()}")
    assert command(*line) == 2
    told = capsys.readouterr().err
    assert "no validation: " in told
    assert "patience = 3 stops a run by its validation, and there is none" in told
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_splits_is_told_to_be_divided(tmp_path: Path, capsys) -> None:
    folder = made_corpus.write(tmp_path / "corpus", [list(range(20))]).folder
    resplit(folder, 1, lambda *_: None)
    line = ("train", write_recipe(tmp_path), "--corpus", folder, "-o", tmp_path / "run", "--device", "cpu")
    assert command(*line) == 2
    told = capsys.readouterr().err
    assert "no image of the split 'train' has an object" in told
    _, remedy = " ".join(told.split()).split("divide it by case: vesalius ")
    assert command(*shlex.split(remedy)) == 0
    assert command(*line) == 0
    nothing = made_corpus.write(tmp_path / "nothing", [[4, 8]]).folder
    with pytest.raises(ReadError, match="give a corpus with labelled images"):
        run_training(write_recipe(tmp_path), nothing, tmp_path / "nowhere")


def test_bundled_recipes_are_found_and_others_named(tmp_path: Path) -> None:
    assert find_recipe("vesalius-tiny").is_file()
    with pytest.raises(ConfigError, match="vesalius-tiny-1"):
        find_recipe("sam-med3d")
    with pytest.raises(ReadError, match="no set"):
        open_images(tmp_path, "train")
