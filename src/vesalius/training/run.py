"""From a recipe and a folder of sets to a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from vesalius.core.errors import ConfigError, ModelError, ReadError
from vesalius.corpus.layouts.pairs import find_sets, read_pairs
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.split import split_of
from vesalius.models.base import SegmentationModel
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint
from vesalius.models.tiny import Tiny, TinyConfig
from vesalius.training.loop import TrainConfig, train

RECIPES = Path(__file__).parent / "recipes"


def find_recipe(name: str | Path) -> Path:
    """Path of a recipe: a TOML file, or the name of one that comes with the package.

    Raises:
        ConfigError: There is no such file or name.
    """
    bundled = RECIPES / f"{name}.toml"
    if bundled.exists():
        return bundled
    if Path(name).exists():
        return Path(name)
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    raise ConfigError("there is no such recipe", path=name, remedy=f"give a TOML file or one of: {known}")


def training_images(data: str | Path) -> list[LabelledImage]:
    """Images of the training split of the paired sets in ``data`` (see `find_sets`).

    Raises:
        ReadError: There is no set, or none of its cases is for training.
    """
    sets = find_sets(Path(data))
    images = [image for folder in sets for image in read_pairs(folder) if split_of(image.case) == "train"]
    if not images:
        raise ReadError("none of its cases belongs to the training split", path=data, remedy="give more cases")
    return images


def train_tiny(
    recipe: str | Path, data: str | Path, output: str | Path, init: str | Path | None = None
) -> SegmentationModel:
    """Trains a network of vesalius-tiny's kind, or takes an interrupted run up again.

    Args:
        recipe: See `find_recipe`.
        data: See `training_images`.
        output: Folder for the run; the trained network is kept in its ``checkpoint`` folder.
        init: Checkpoint folder to start from; None to start from nothing.

    Returns:
        The running average of the network's weights.

    Raises:
        ModelError: ``init`` is not a checkpoint of this kind of network.
    """
    config = TrainConfig.from_toml(find_recipe(recipe))
    torch.manual_seed(config.seed)
    model: SegmentationModel = Tiny(TinyConfig.from_dict(config.model))
    if init is not None:
        start = load_checkpoint(init)
        if not isinstance(start, Tiny) or start.config != model.config:
            raise ModelError("is not a network of the recipe's kind and sizes", path=init)
        model = start
    trained = train(model, training_images(data), config, Path(output))
    save_checkpoint(trained, Path(output) / "checkpoint", half=True)
    return trained
