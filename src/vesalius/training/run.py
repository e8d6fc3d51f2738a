"""From a recipe and a corpus to a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path

import numpy as np
import torch

from vesalius.core.config import Config
from vesalius.core.errors import ConfigError, ReadError
from vesalius.corpus.digest import corpus_digest
from vesalius.corpus.layouts.pairs import find_sets, list_splits, read_pairs
from vesalius.corpus.layouts.support import read_json
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.store import PSEUDO, Corpus, is_corpus
from vesalius.models.base import SegmentationModel
from vesalius.models.baseline_sam2 import is_sam2
from vesalius.models.checkpoint import ARCHITECTURES, weights_digest
from vesalius.models.convert import load_network
from vesalius.models.presets import PRESETS
from vesalius.models.tiny import Tiny, TinyConfig, grown, with_words
from vesalius.models.tuning import Count, Tuning, apply_tuning, find_tuning
from vesalius.models.words import is_known
from vesalius.predict.load import find_model
from vesalius.training.config import NetworkConfig, TrainConfig
from vesalius.training.distributed import World
from vesalius.training.interaction import asked_parts
from vesalius.training.loop import Task, Validation, checkpoint, train
from vesalius.training.monitor import RUN, is_record
from vesalius.training.pool import rows_of
from vesalius.training.samples import SampleSource

RECIPES = Path(__file__).parent / "recipes"
CHECKPOINT = "checkpoint"


class EmptySplitError(ReadError):
    """A split of a corpus has no image, or none with an object."""


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


def open_images(corpus: str | Path, split: str) -> Corpus | list[LabelledImage]:
    """A corpus, or the images of one split of a folder of paired sets (see `find_sets`).

    Raises:
        ReadError: The folder is neither, or an image of it cannot be read.
        EmptySplitError: None of its cases belongs to the split.
    """
    folder = Path(corpus)
    if is_corpus(folder):
        return Corpus(folder)
    images: list[LabelledImage] = []
    for path in find_sets(folder):
        images += read_pairs(path, rows={row for row, found in enumerate(list_splits(path).values()) if found == split})
    if not images:
        raise EmptySplitError(
            f"none of its cases belongs to the split {split!r}",
            path=folder,
            remedy="give more cases, or state splits in cases.json",
        )
    return images


def images_digest(images: Corpus | Sequence[LabelledImage]) -> str:
    """SHA-256 of what a corpus, with its splits and masks, or labelled images in memory, are."""
    if isinstance(images, Corpus):
        return corpus_digest(images, tables=("masks", PSEUDO))
    digest = hashlib.sha256()
    for image in images:
        named = [(entry.target, entry.mask.shape) for entry in image.masks]
        about = image.dataset, image.case, image.modality, image.path.name, image.image.pixels.shape
        digest.update(repr((*about, named)).encode())
        digest.update(np.ascontiguousarray(image.image.pixels).tobytes())
        for entry in image.masks:
            digest.update(np.packbits(entry.mask).tobytes())
    return digest.hexdigest()


def make_network(
    config: NetworkConfig, seed: int, start: str | Path | None = None, words: Sequence[str] = ()
) -> SegmentationModel:
    """The network of a recipe as it is before tuning.

    Args:
        config: The network.
        seed: Seed of new weights.
        start: Model, checkpoint or published file to start from, in place of the recipe's own.
        words: Names of targets that a new network, or one of vesalius-tiny's kind without words, shall learn.

    Raises:
        ModelError: There is no such model, it cannot be read, or it cannot grow to the sizes.
        ConfigError: There is no such architecture or preset, a new network needs one, a size is out of range, or what
            it starts from cannot be trained, is of another kind than the recipe's or for images of another size, or
            cannot be given words.
    """
    start = start or config.start
    if config.preset is not None and config.preset not in PRESETS:
        raise ConfigError(f"there is no preset {config.preset!r}", remedy=f"give one of {', '.join(PRESETS)}")
    if start is not None:
        path = find_model(start)
        # A SAM 2 tells its own preset; that the recipe is for another kind is told before that it names one.
        model = load_network(path, None if is_sam2(path) else config.preset)
        _check_start(model, config, start)
        torch.manual_seed(seed)
        if isinstance(model, Tiny) and config.architecture == model.architecture and config.sizes:
            wanted = TinyConfig.from_dict({**model.config.model_dump(mode="json"), **config.sizes})
            model = grown(model, wanted)
        if not words:
            return model
        if not isinstance(model, Tiny):
            raise ConfigError(
                f"network.words is for new networks and those of vesalius-tiny's kind, not for {model.architecture!r}",
                path=start,
                remedy="leave it out of the recipe",
            )
        return with_words(model, words)
    if config.architecture not in ARCHITECTURES:
        raise ConfigError(
            f"there is no architecture {config.architecture!r}", remedy=f"give one of {', '.join(ARCHITECTURES)}"
        )
    module, config_name, model_name = ARCHITECTURES[config.architecture]
    loaded = import_module(module)
    sizes: Config = getattr(loaded, config_name).from_dict({**config.sizes, **({"words": words} if words else {})})
    network: Callable[..., SegmentationModel] = getattr(loaded, model_name)
    torch.manual_seed(seed)
    if config.preset is not None:
        return network(sizes, PRESETS[config.preset])
    if signature(network).parameters["preset"].default is Parameter.empty:
        raise ConfigError(
            f"nothing says how a new network of kind {config.architecture!r} wants its input",
            remedy="start from a trained network (--init), or name network.preset in the recipe",
        )
    return network(sizes)


def _check_start(model: SegmentationModel, config: NetworkConfig, start: str | Path) -> None:
    """Refuses a network to start from that is of another kind than the recipe's, or for images of another size."""
    if "architecture" in config.model_fields_set and model.architecture != config.architecture:
        raise ConfigError(
            f"the recipe is for networks of kind {config.architecture!r}, and the one to start from is of kind "
            f"{model.architecture!r}",
            path=start,
            remedy="start from another network, or take another recipe",
        )
    if config.preset is not None and model.preset.side != (side := PRESETS[config.preset].side):
        raise ConfigError(
            f"the recipe is for images of {side} pixels, and the network for {model.preset.side}",
            path=start,
            remedy=f"give one that is for {side}: vesalius models convert {start} --side {side} "
            f"--preset {config.preset} -o FOLDER; or leave network.preset out of a recipe of your own",
        )


def cases_seen(start: Path) -> set[str]:
    """Cases (``data set/case``) by which a network was trained here, as the ``run.json`` beside it tells.

    Of `vesalius.finetune.finetune` these are the cases that validated it too.
    """
    record = start.parent / RUN
    if not record.is_file():
        return set()
    told = read_json(record, remedy="give the model in a folder of its own")
    if not is_record(told):
        return set()
    division = told.get("division", {})
    parts = division.get("train", []), division.get("val", []), told.get("trained_on", []), told.get("seen_before", [])
    return {case for part in parts for case in part}


def _cases(images: Corpus | Sequence[LabelledImage]) -> list[str]:
    """The cases that train, as ``data set/case``."""
    if not isinstance(images, Corpus):
        return sorted({f"{image.dataset}/{image.case}" for image in images})
    table = images.images.filter(rows_of(images, "train"))
    pairs = zip(table["dataset"].to_pylist(), table["case"].to_pylist(), strict=True)
    return sorted({f"{dataset}/{case}" for dataset, case in pairs})


def tune(model: SegmentationModel, config: NetworkConfig, seed: int) -> dict[str, Count]:
    """Attaches what a recipe attaches, and leaves a gradient to what it trains; see `apply_tuning`."""
    tuning = config.tuning if isinstance(config.tuning, Tuning) else find_tuning(config.tuning)
    torch.manual_seed(seed)
    return apply_tuning(model, tuning)


def run_training(
    recipe: str | Path,
    corpus: str | Path,
    output: str | Path,
    init: str | Path | None = None,
    resume: bool = True,
    world: World | None = None,
    validate: Validation | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> SegmentationModel:
    """Trains a network by a recipe, or takes an interrupted run up again.

    Args:
        recipe: See `find_recipe`.
        corpus: See `open_images`; its training split is trained on, but for what `rows_of` holds out of it.
        output: Folder for the run; the trained network is kept in its ``checkpoint`` folder, besides what `train` says.
        init: What to start from, in place of the recipe's own.
        resume: Whether a run that is there already is continued.
        world: The processes; this one alone on the CPU if None.
        validate: Measures the network now and then.
        tell: Is told which parameters train, and what is held out.

    Returns:
        The trained network.

    Raises:
        VesaliusError: Something does not fit; see `find_recipe`, `open_images`, `make_network` and `train`.
    """
    path = find_recipe(recipe)
    config, world, output = TrainConfig.from_toml(path), world or World(), Path(output)
    if init is None and config.network.start is None and config.network.tuning != "full":
        raise ConfigError(
            "the recipe tunes a trained network, and none is given to start from",
            path=path,
            remedy="name one by --init, or by network.start in the recipe",
        )
    images = open_images(corpus, "train")
    model = make_network(config.network, config.seed, init)
    source = SampleSource(images, model.preset, config.samples, config.seed)
    if config.network.words and "text" not in model.takes:
        if not source.targets:
            raise ConfigError("the recipe learns names of targets, and none is known", path=corpus)
        model = make_network(config.network, config.seed, init, source.words)
    known = model.vocabulary
    unknown = [name for name in source.words if known and not is_known(name, known)]
    if unknown and "text" in asked_parts(config.interaction, config.loss):
        raise ConfigError(
            f"the recipe asks for objects by name, and the network was not trained on {', '.join(unknown)}",
            path=corpus,
            remedy="leave names out of the recipe's prompts (interaction.first.text = 0), or start from a network "
            "without words, which learns the corpus's own (network.words = true)",
        )
    start = weights_digest(model)
    counts = tune(model, config.network, config.seed)
    for part, count in counts.items():
        tell(f"{part}: {count.trained:,} of {count.total:,} parameters train")
    if isinstance(images, Corpus) and "val" not in images.images["split"].unique().to_pylist():
        tell(f"no validation split: {rows_of(images, 'val').sum():,} training images are held out for it, by case")
    begun = init or config.network.start
    about = {
        "corpus": str(corpus),
        "corpus_digest": images_digest(images),
        "start_weights": start,
        "seen_before": sorted(cases_seen(find_model(begun)) if begun else ()),
        "trained_on": _cases(images),
    }
    names = source.targets if config.loss.category else ()
    trained = train(model, Task(source, names, validate, about=about), config, output, world, resume)
    if world.is_first:
        checkpoint(trained, output / CHECKPOINT, config.half)
    world.wait()
    return trained
