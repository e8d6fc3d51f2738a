"""Fine-tuning on a corpus of one's own, with the numbers before and after on cases that are held out."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ConfigError, ReadError, WriteError
from vesalius.core.files import replacing
from vesalius.core.types import Prompt
from vesalius.corpus.layouts.pairs import find_sets, list_splits, read_pairs, stated_splits
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.corpus.split import SPLITS, place_of
from vesalius.corpus.store import Corpus, encode_png, is_corpus
from vesalius.evaluation.comparison import (
    JUDGED_CASES,
    LEVEL,
    Change,
    change_table,
    compare,
    object_of,
    target_table,
)
from vesalius.evaluation.scores import (
    Score,
    collect,
    image_name,
    object_generator,
    read_scores,
    score_model,
    with_drawn_objects,
)
from vesalius.evaluation.strategies import CLICKS, STRATEGIES, first_click
from vesalius.evaluation.validation import validation
from vesalius.models.checkpoint import weights_digest
from vesalius.models.convert import load_network
from vesalius.predict.load import DEFAULT, find_model, load_model
from vesalius.predict.overlay import View, contact_sheet, draw_overlay
from vesalius.predict.predictor import Predictor
from vesalius.prompts.sample import tight_box
from vesalius.training.config import TrainConfig
from vesalius.training.distributed import World
from vesalius.training.interaction import FirstPrompt
from vesalius.training.loop import BEST, STATE, Task, train
from vesalius.training.monitor import RUN, VALIDATION, check_folder
from vesalius.training.run import RECIPES, cases_seen, images_digest, tune
from vesalius.training.samples import SampleSource

Prompts = Literal["any", "box", "point"]
# Scores before and after.
Tables = tuple[list[Score], list[Score]]

# With fewer, neither the network nor the table at the end would learn anything.
LEAST_IMAGES, LEAST_CASES, LEAST_TRAINED = 20, 5, 5
# Share of the cases that is held out, and of the rest that decides when to stop, and the least number of cases.
SHARES = {"test": (0.2, 2), "val": (0.2, 1)}
# Images that a network is measured on during training, and objects of an image in the table at the end.
VALIDATED, MEASURED = 60, 10
# Steps, and how often the network is measured until the last of them.
LEAST_STEPS, MOST_STEPS, VALIDATIONS = 200, 600, 12
# Rows of a sheet of pictures, and how far they look: in longer sides of the object, from its middle.
SHOWN, CONTEXT = 8, 1.5
# The scores on the held-out cases, before and after.
TABLES = "before.csv", "after.csv"
# Least distance from the object's middle, in pixels.
REACH = 16

# What the first prompt is in training, where it is not the recipe's, and what decides which network is the best.
FIRST = {
    "box": FirstPrompt(point=0, box=1, mask=0),
    "point": FirstPrompt(point=1, box=0, mask=0),
}
DECISIVE: dict[Prompts, tuple[str, ...]] = {"any": STRATEGIES, "box": ("box",), "point": tuple(CLICKS)}


@dataclass(frozen=True, eq=False)
class Division:
    """A corpus whose cases are divided for training, validation and a measurement at the end.

    Attributes:
        images: The corpus, or labelled images, with the splits of this division.
        cases: Split -> its cases, as ``data set/case``.
        counts: Split -> its images that have objects.
        told: How it was divided.
    """

    images: Corpus | list[LabelledImage]
    cases: dict[str, list[str]]
    counts: dict[str, int]
    told: str

    def read(self, split: str, most: int | None = None) -> Iterator[LabelledImage]:
        """Images of a split that have objects, which are numbered from 1.

        Args:
            split: Its name.
            most: Of more images, about this many, evenly from all of them.
        """
        if isinstance(self.images, Corpus):
            table = self.images.images
            pairs = enumerate(zip(table["split"].to_pylist(), table["masks"].to_pylist(), strict=True))
            rows = [row for row, (found, masks) in pairs if found == split and masks]
        else:
            rows = [row for row, image in enumerate(self.images) if image.split == split and image.masks]
        for row in rows[:: 1 if most is None else math.ceil(len(rows) / most)]:
            labelled = self.images.read(row) if isinstance(self.images, Corpus) else self.images[row]
            masks = [dataclasses.replace(entry, instance=number) for number, entry in enumerate(labelled.masks, 1)]
            yield dataclasses.replace(labelled, masks=masks)


def divide(folder: str | Path) -> Division:
    """Divides a corpus by case; its files stay as they are.

    The splits that a corpus states are kept, and where one of several sets of pairs states some, those that
    `list_splits` has of all. What it lacks of validation and test is taken from its training cases (from all cases,
    where it states none), those of the lowest `place_of` their names, but none that holds more than half of the images:
    a seeded draw that is the same everywhere.

    Args:
        folder: A corpus, or a folder of sets of pairs.

    Raises:
        ReadError: The folder is neither, or holds too little; see also `list_splits`.
        ConfigError: A case lies in several splits.
    """
    folder = Path(folder)
    if is_corpus(folder):
        table = Corpus(folder).images
        columns = (table[name].to_pylist() for name in ("dataset", "case", "split", "masks"))
        rows, partly = list(zip(*columns, strict=True)), False
    else:
        sets = find_sets(folder)
        stated_of = [set(stated_splits(path).values()) for path in sets]
        stating, partly = any(stated_of), any("val" not in found for found in stated_of)
        own = {image: split for path in sets for image, split in list_splits(path).items()} if stating else {}
        images = [image for path in sets for image in read_pairs(path)]
        rows = [(image.dataset, image.case, own.get(image.path), len(image.masks)) for image in images]
    counts: dict[tuple[str, str], int] = {}
    stated: dict[tuple[str, str], str | None] = {}
    for dataset, case, split, masks in rows:
        if masks:
            counts[dataset, case] = counts.get((dataset, case), 0) + 1
            if stated.setdefault((dataset, case), split) != split:
                raise ConfigError(
                    f"the case {case} of {dataset} lies in several splits",
                    path=folder,
                    remedy=f"divide it by case: vesalius corpus split {folder} --shares 0.6 0.2 0.2",
                )
    if sum(counts.values()) < LEAST_IMAGES or len(counts) < LEAST_CASES:
        raise ReadError(
            f"holds {sum(counts.values())} labelled images of {len(counts)} cases, too few to train on some and to "
            "measure on others",
            path=folder,
            remedy=f"label at least {LEAST_IMAGES} images of at least {LEAST_CASES} cases (patients)",
        )
    splits, told = _complete(stated, counts)
    if partly and "val" in stated.values():
        told["val"] = "Validated on (as the sets state it, or drawn by the names of their cases)"
    anew = "vesalius corpus split" if is_corpus(folder) else "by cases.json of its sets"
    members = {split: [pair for pair, found in splits.items() if found == split] for split in SPLITS}
    if empty := [split for split, pairs in members.items() if not pairs]:
        raise ReadError(
            f"leaves no labelled case for {' and '.join(empty)}",
            path=folder,
            remedy=f"label more cases, or divide it anew: {anew}",
        )
    size = {split: sum(counts[pair] for pair in pairs) for split, pairs in members.items()}
    if size["train"] < LEAST_TRAINED:
        raise ReadError(
            f"leaves {size['train']} images to train on, of {len(members['train'])} cases",
            path=folder,
            remedy=f"label more, or divide it so that at least {LEAST_TRAINED} train: {anew}",
        )
    parts = [f"{told[split]}: {len(members[split])} cases, {size[split]} images." for split in SPLITS]
    if unsplit := [pair for pair, split in splits.items() if split is None]:
        parts.append(f"Left out, being in no split of the corpus: {len(unsplit)} cases.")
    return Division(
        Corpus(folder, splits=splits)
        if is_corpus(folder)
        else [dataclasses.replace(image, split=splits.get((image.dataset, image.case))) for image in images],
        {split: sorted("/".join(pair) for pair in pairs) for split, pairs in members.items()},
        size,
        " ".join(parts),
    )


def _complete(
    stated: Mapping[tuple[str, str], str | None], counts: Mapping[tuple[str, str], int]
) -> tuple[dict[tuple[str, str], str | None], dict[str, str]]:
    """The splits of all cases, and for each split where it comes from."""
    splits = dict(stated)
    told = {"train": "Trained on", "val": "Validated on", "test": "Held out"}
    whole = set(splits.values()) <= {None}
    if whole:
        splits = dict.fromkeys(splits, "train")
    for split, (share, least) in SHARES.items():
        if split in splits.values():
            told[split] += f" (the {split} split of the corpus)"
            continue
        # Cases of one name stay together: they may be one patient in two data sets.
        sizes: Counter[str] = Counter()
        for (dataset, case), found in splits.items():
            sizes[case] += counts[dataset, case] * (found == "train")
        names = sorted((case for case, size in sizes.items() if size), key=place_of)
        # The one case that holds most of the images trains.
        small = [case for case in names if sizes[case] <= sizes.total() / 2]
        drawn = set(small[: max(least, round(share * len(names)))])
        splits = {pair: split if found == "train" and pair[1] in drawn else found for pair, found in splits.items()}
        told[split] += f" (drawn by their names from {'all cases' if whole and split == 'test' else 'the others'})"
    return splits, told


def settings(architecture: str, count: int, prompts: Prompts = "any") -> TrainConfig:
    """The configuration by which a network is fine-tuned: that of the recipe for its kind, as long as suits the data.

    Args:
        architecture: Of the network.
        count: Images to train on.
        prompts: What it is to be good at.

    Raises:
        ConfigError: There is no recipe for this kind of network.
    """
    path = RECIPES / f"finetune-{architecture}.toml"
    if not path.exists():
        known = sorted(recipe.stem.removeprefix("finetune-") for recipe in RECIPES.glob("finetune-*.toml"))
        raise ConfigError(
            f"{architecture} networks cannot be fine-tuned", remedy=f"give one of these kinds: {', '.join(known)}"
        )
    recipe = TrainConfig.from_toml(path)
    steps = min(max(recipe.total_steps(count), LEAST_STEPS), MOST_STEPS)
    first = FIRST.get(prompts, recipe.interaction.first)
    return recipe.model_copy(
        update={
            "epochs": None,
            "steps": steps,
            "warmup": steps // VALIDATIONS,
            "validate_every": steps // VALIDATIONS,
            "interaction": recipe.interaction.model_copy(update={"first": first}),
        }
    )


def finetune(
    corpus: str | Path,
    output: str | Path,
    model: str | Path | None = None,
    prompts: Prompts = "any",
    resume: bool = False,
    world: World | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Path | None:
    """Fine-tunes a network on the training cases of a corpus and measures what that brought on the held-out ones.

    It stops when the validation Dice has not risen for some validations in a row; the untouched network counts as the
    first one. Killed, the same call with ``resume`` ends with the same result.

    Args:
        corpus: See `divide`.
        output: Folder for the run: the network that was best in validation (``best``), ``report.md``, ``report.json``,
            ``before.csv`` and ``after.csv`` (a row per held-out object and prompt), pictures of some of them, and what
            `vesalius.training.loop.train` writes.
        model: See `vesalius.predict.load.load_model`.
        prompts: What the network is to be good at.
        resume: Whether a run that is there already is continued.
        world: The processes; this one alone on the CPU if None.
        tell: Is told how the corpus is divided, and which parameters train.

    Returns:
        The report; None in all processes but the first.

    Raises:
        VesaliusError: Something does not fit; see `divide`, `load_model`, `settings` and `train`.
    """
    output, world, name = Path(output), world or World(), DEFAULT if model is None else str(model)
    if world.is_first:
        check_folder(output)
    division = divide(corpus)
    tell(division.told)
    start = find_model(model)
    network = load_network(start)
    seen = cases_seen(start)
    if warning := _seen_again(seen, division, name):
        tell(warning)
    config = settings(network.architecture, division.counts["train"], prompts)
    about = {
        "corpus": str(corpus),
        "corpus_digest": images_digest(division.images),
        "model": name,
        "start_weights": weights_digest(network),
        "prompts": prompts,
        "division": division.cases,
        "seen_before": sorted(seen),
    }
    for part, count in tune(network, config.network, config.seed).items():
        tell(f"{part}: {count.trained:,} of {count.total:,} parameters train")
    source = SampleSource(division.images, network.preset, config.samples, config.seed)
    validate = None
    if world.is_first:
        images = list(division.read("val", VALIDATED))
        validate = validation(images, world.device, strategies=DECISIVE[prompts])
        if not (output / STATE).exists():
            _remove_scores(output)
    train(network, Task(source, validate=validate, about=about), config, output, world, resume)
    if not world.is_first:
        return None
    before = load_model(model, world.device, runtime="torch")
    after = load_model(output / BEST, world.device, runtime="torch")
    return _measure(output, name, division, (before, after))


def _seen_again(seen: Iterable[str], division: Division, name: str) -> str | None:
    """What is to be said of held-out cases (``data set/case``) by which a start was trained; None if of none."""
    held_out = division.cases["test"]
    again = set(seen).intersection(held_out)
    told = f"{len(again)} of {len(held_out)} held-out cases have names of cases that {name} was trained by"
    return told if again else None


def _remove_scores(output: Path) -> None:
    """Removes the scores of another run, whose state was removed."""
    for path in (output / name for name in TABLES):
        if (output / RUN).exists():
            path.unlink(missing_ok=True)
            _part(path).unlink(missing_ok=True)
        elif path.exists():
            raise WriteError("is there, and is of no run", path=path, remedy="choose another folder")


def _measure(output: Path, name: str, division: Division, predictors: tuple[Predictor, Predictor]) -> Path:
    """Writes what the held-out cases say of the two networks, before and after; returns the report."""
    before, after = predictors
    tables = _scored(output / TABLES[0], division, before), _scored(output / TABLES[1], division, after)
    changes = compare(*tables)
    for strategy in ("box", "1 point"):
        sheet = _sheet(division.read("test"), strategy, predictors, tables)
        with replacing(output / f"before_after_{strategy.replace(' ', '_')}.png") as part:
            part.write_bytes(encode_png(sheet))
    with replacing(output / "report.json") as part:
        part.write_text(json.dumps([_plain(change) for change in changes], indent=2) + "\n", encoding="utf-8")
    report = output / "report.md"
    with replacing(report) as part:
        part.write_text(_report(name, division, changes, tables, output), encoding="utf-8")
    return report


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _scored(path: Path, division: Division, predictor: Predictor) -> list[Score]:
    """Scores on the held-out cases, from the table if it is there."""
    if not path.exists():
        part = _part(path)
        collect(
            part,
            division.read("test"),
            division.counts["test"],
            lambda image: score_model(with_drawn_objects(image, max_objects=MEASURED), predictor),
        )
        part.replace(path)
    return read_scores(path)


def _sheet(
    images: Iterable[LabelledImage],
    strategy: str,
    predictors: Sequence[Predictor],
    tables: Tables,
) -> NDArray[np.uint8]:
    """Image, truth, before and after of some objects, from the largest loss to the largest gain."""
    before, after = ({object_of(s): s.dice for s in scores if s.strategy == strategy} for scores in tables)
    ranked = sorted(before, key=lambda name: (after[name] - before[name], name))
    shown = [ranked[round(i)] for i in np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked)))]
    rows: dict[tuple[str, str, int], list[tuple[str, NDArray[np.uint8]]]] = {}
    for labelled in images:
        for entry in labelled.masks:
            name = (labelled.dataset, image_name(labelled), entry.instance)
            if name in shown:
                pictures = _pictures(labelled, entry, strategy, predictors)
                titles = entry.target, "truth", f"before: {before[name]:.2f}", f"after: {after[name]:.2f}"
                rows[name] = list(zip(titles, pictures, strict=True))
    return contact_sheet([tile for name in shown for tile in rows[name]], columns=4)


def _pictures(
    labelled: LabelledImage, entry: ObjectMask, strategy: str, predictors: Sequence[Predictor]
) -> list[NDArray[np.uint8]]:
    """An object with its prompt, its truth, and what each network makes of it."""
    rng = object_generator(labelled, entry)
    prompt = Prompt(box=tight_box(entry.mask)) if strategy == "box" else first_click(entry.mask, rng)
    answers = [one.predict(one.encode(labelled.image), [prompt])[0] for one in predictors]
    nothing, truth = (dataclasses.replace(answers[0], mask=mask) for mask in (np.zeros_like(entry.mask), entry.mask))
    view = _view(entry.mask)
    return [
        draw_overlay(labelled.image, [prompt], [one], longest=320, view=view, legend=False)
        for one in (nothing, truth, *answers)
    ]


def _view(mask: NDArray[np.bool_]) -> View:
    """The part of the image around an object."""
    x0, y0, x1, y1 = tight_box(mask)
    reach = max(REACH, CONTEXT * max(x1 - x0, y1 - y0))
    height, width = mask.shape
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = max(0, math.floor(x - reach)), max(0, math.floor(y - reach))
    return left, top, min(width, math.ceil(x + reach)), min(height, math.ceil(y + reach))


def _plain(change: Change) -> dict[str, Any]:
    """A change as JSON can hold it."""
    values = {**dataclasses.asdict(change), "verdict": change.verdict}
    for key in ("before", "after", "difference"):
        values[key] = {name: None if math.isnan(value) else value for name, value in values[key].items()}
    return values


def _report(name: str, division: Division, changes: Sequence[Change], tables: Tables, output: Path) -> str:
    run = json.loads((output / RUN).read_text(encoding="utf-8"))
    with (output / VALIDATION).open(newline="", encoding="utf-8") as file:
        validated = {int(row["step"]): float(row["dice"]) for row in csv.DictReader(file)}
    best = max(validated, key=lambda step: (validated[step], -step))
    ended = f"after {run['step']} steps of at most {run['steps']}"
    if run["step"] < run["steps"]:
        ended += f", as {run['config']['patience']} validations in a row were not better"
    verdicts = {kind: [c.strategy for c in changes if c.verdict == kind] for kind in ("better", "worse")}
    sentences = []
    if warning := _seen_again(run["seen_before"], division, name):
        sentences.append(
            f"**{warning}: if they are the same, both columns are better than on new cases. Then start from a model "
            "that has not learnt from them, or hold other cases out.**"
        )
    if best == 0:
        sentences.append(
            "**No step was better in validation than the untouched network, which is kept as it is: fine-tuning "
            "brought nothing here.**"
        )
    if verdicts["worse"]:
        sentences.append(f"**Fine-tuning made it worse: {', '.join(verdicts['worse'])}.**")
    if verdicts["better"]:
        sentences.append(f"Fine-tuning made it better: {', '.join(verdicts['better'])}.")
    if best and not any(verdicts.values()):
        few = changes[0].verdict == "too few cases"
        sentences.append(
            f"{changes[0].cases} held-out cases are too few to say whether fine-tuning made a difference."
            if few
            else "Fine-tuning made no clear difference under any prompt."
        )
    parts = [
        f"# Fine-tuning of {name}",
        " ".join(sentences),
        change_table(changes),
        f"Dice on the held-out cases, under the same prompts before and after: a tight box, or clicks as `vesalius "
        f"evaluate` places them; of an image with more than {MEASURED} objects that many are drawn. Means over objects "
        "within a data set, then over data sets; in brackets the 95 % confidence interval (bootstrap over cases), for "
        f"the difference of the same objects too. There are {changes[0].cases} held-out cases. A verdict wants "
        f"{JUDGED_CASES} of them, an interval of the difference without zero, and p < {LEVEL} by Wilcoxon's signed "
        "ranks of the cases' mean differences.",
        division.told,
        f"Training ended {ended}. Validation Dice (prompts: {run['prompts']}): {validated[0]:.4f} of the untouched "
        f"network, {validated[best]:.4f} at best, at step {best}, which is kept.",
    ]
    if len({score.target for score in tables[0]}) > 1:
        parts += ["## By target", "Dice before → after.", target_table(*tables)]
    parts += [
        "## Use it",
        f"`vesalius segment FILE --box X0,Y0,X1,Y1 --model {output / BEST} -o mask.png`",
        "Pictures, from the largest loss to the largest gain: before_after_box.png, before_after_1_point.png.",
    ]
    return "\n\n".join(parts) + "\n"
