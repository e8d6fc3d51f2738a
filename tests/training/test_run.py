import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vesalius as vs
from vesalius.cli import main
from vesalius.core.errors import ConfigError, ModelError, ReadError
from vesalius.training.run import find_recipe, train_tiny, training_images

RECIPE = """
steps = {steps}
images = 1
warmup = 1
bf16 = false
[model]
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


def test_validation_cases_are_not_trained_on(data: Path) -> None:
    assert sorted(image.case for image in training_images(data)) == ["p100", "s007"]


def test_the_command_leaves_a_checkpoint_that_answers(data: Path, tmp_path: Path) -> None:
    recipe, output = write_recipe(tmp_path), tmp_path / "run"
    main_exits = pytest.raises(SystemExit)
    with main_exits as done:
        main(["train", str(recipe), "--data", str(data), "-o", str(output)])
    assert done.value.code in (0, None)
    model = vs.load_model(output / "checkpoint")
    (prediction,) = model.predict(model.encode(np.zeros((60, 80), np.uint8)), [vs.Prompt(box=(10, 10, 50, 50))])
    assert prediction.mask.shape == (60, 80)
    assert json.loads((output / "run.json").read_text())["config"]["steps"] == 2


def test_a_run_can_start_from_a_checkpoint_of_its_own_kind(data: Path, tmp_path: Path) -> None:
    train_tiny(write_recipe(tmp_path), data, tmp_path / "a")
    train_tiny(write_recipe(tmp_path, steps=1), data, tmp_path / "b", init=tmp_path / "a" / "checkpoint")
    with pytest.raises(ModelError, match="recipe's kind"):
        train_tiny(write_recipe(tmp_path, key=16), data, tmp_path / "c", init=tmp_path / "a" / "checkpoint")


def test_bundled_recipes_are_found_and_others_named(tmp_path: Path) -> None:
    assert find_recipe("vesalius-tiny").is_file()
    with pytest.raises(ConfigError, match="vesalius-tiny-1"):
        find_recipe("sam-med3d")
    with pytest.raises(ReadError, match="no set"):
        training_images(tmp_path)
