import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from PIL import Image
from tests.training.conftest import disc_images

import made_corpus
import vesalius as vs
from made_specialists import SIZES, specialist
from vesalius.core.errors import ConfigError
from vesalius.evaluation.validation import validation
from vesalius.models.checkpoint import load_checkpoint
from vesalius.training.config import TrainConfig
from vesalius.training.interaction import InteractionConfig, InteractiveStep
from vesalius.training.loop import Task, train
from vesalius.training.losses import LossConfig
from vesalius.training.run import find_recipe, run_training
from vesalius.training.samples import SampleSource

WORDS = ("corner", "disc")


@pytest.mark.parametrize("name", ["unet", "unet-semantic", "deeplab", "deeplab-semantic"])
def test_a_short_training_lowers_the_loss_and_beats_the_empty_mask(name: str, tmp_path: Path) -> None:
    if "unet" in name:
        pytest.importorskip("monai")
    recipe = TrainConfig.from_toml(find_recipe(name))
    update = {"steps": 45, "images": 4, "warmup": 2, "bf16": False, "ema": 0.0, "rate": 1e-2}
    config = recipe.model_copy(update={**update, "save_every": 5, "validate_every": 45})
    model = specialist(recipe.network.architecture, WORDS if recipe.network.words else ())
    source = SampleSource(disc_images(8), model.preset, config.samples, config.seed)
    train(model, Task(source, validate=validation(disc_images(3, seed=9))), config, tmp_path)
    losses = [float(line.split(",")[1]) for line in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    assert losses[-1] < 0.8 * losses[0]
    header, row = (tmp_path / "validation.csv").read_text().splitlines()
    assert header == ("step,dice,text" if recipe.network.words else "step,dice,box")
    # The Dice of the empty mask is 0.
    assert float(row.split(",")[1]) > 0.3


def small_recipe(folder: Path, name: str) -> Path:
    recipe = TrainConfig.from_toml(find_recipe(name)).model_dump(mode="json", exclude_none=True)
    recipe |= {"steps": 2, "images": 2, "warmup": 1, "bf16": False}
    recipe["network"]["sizes"] = SIZES[recipe["network"]["architecture"]]
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(recipe))
    return path


@pytest.mark.parametrize("name", ["unet-semantic", "deeplab-semantic"])
def test_the_names_are_those_of_the_training_split(name: str, tmp_path: Path) -> None:
    if "unet" in name:
        pytest.importorskip("monai")
    corpus = made_corpus.write(tmp_path / "corpus", [list(range(8))])
    run_training(small_recipe(tmp_path, name), corpus.folder, tmp_path / "run")
    trained = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert trained.config.words == ("target 0", "target 1", "target 2")
    assert trained.takes == {"text"}
    model = vs.load_model(tmp_path / "run" / "checkpoint")
    (prediction,) = model.predict(model.encode(np.zeros((40, 60), np.uint8)), [vs.Prompt(text="target 1")])
    assert prediction.mask.shape == (40, 60)
    # A network to start from keeps the names that it has.
    recipe = small_recipe(tmp_path, name)
    again = run_training(recipe, corpus.folder, tmp_path / "again", init=tmp_path / "run" / "checkpoint")
    assert again.config == trained.config


def test_a_corpus_without_names_cannot_be_learnt_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "set"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for case in ("s007", "p100"):
        Image.fromarray(np.eye(40, dtype=np.uint8) * 90).save(folder / "images" / f"{case}.png")
        Image.fromarray(np.eye(40, dtype=np.uint8)).save(folder / "labels" / f"{case}.png")
    about = {"modality": "mr", "labels": {"1": ""}, "cases": 2, "instances": False}
    (folder / "set.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match="none is known"):
        run_training(small_recipe(tmp_path, "deeplab-semantic"), tmp_path / "data", tmp_path / "run")


def test_a_recipe_with_prompts_that_a_network_does_not_take_is_refused() -> None:
    box = InteractionConfig.from_dict({"rounds": 1, "first": {"point": 0, "box": 1, "mask": 0}})
    InteractiveStep(specialist("deeplab"), box, LossConfig())
    for config, told in (
        (box.model_copy(update={"rounds": 2}), "points or a mask"),
        (InteractionConfig.from_dict({"rounds": 1, "first": {"point": 0.5, "box": 0.5, "mask": 0}}), "points"),
        (InteractionConfig.from_dict({"rounds": 1, "first": {"point": 0, "box": 0.5, "mask": 0.5}}), "a mask"),
    ):
        with pytest.raises(ConfigError, match=f"deeplab networks do not take {told};"):
            InteractiveStep(specialist("deeplab"), config, LossConfig())
    with pytest.raises(ConfigError, match="do not take a box"):
        InteractiveStep(specialist("deeplab", WORDS), box, LossConfig())


def test_names_are_measured_on_all_objects_of_a_target_and_unknown_ones_left_out() -> None:
    images = disc_images(2)
    assert validation(images)(specialist("deeplab", ("disc",))).keys() == {"dice", "text"}
    assert np.isnan(validation(images)(specialist("deeplab", ("liver",)))["dice"])
    both = [replace(image, masks=[*image.masks, replace(image.masks[1], target="disc")]) for image in images]
    network = specialist("deeplab", ("disc",))
    network.network.logits.bias.data.fill_(1e4)  # all of the image is a disc
    areas = [(image.masks[0].mask | image.masks[1].mask).mean() for image in images]
    expected = np.mean([2 * area / (area + 1) for area in areas])
    assert validation(both)(network)["text"] == pytest.approx(expected, abs=1e-6)
    pseudo = [replace(image.masks[0], mask=~image.masks[0].mask, pseudo=True) for image in both]
    more = [replace(image, masks=[*image.masks, mask]) for image, mask in zip(both, pseudo, strict=True)]
    assert validation(more)(network)["text"] == pytest.approx(expected, abs=1e-6)
