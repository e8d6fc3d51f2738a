"""Scores of a model on labelled images that are in memory, one row per object and strategy: before and after training.

Every object's clicks come from a generator of its own, seeded with the run's seed and the object's name: the order of
work, a resumed run and what else is in the corpus change nothing.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from vesalius.core.errors import ReadError
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.evaluation.prompts import generator_of
from vesalius.evaluation.strategies import Promptable, predict_strategies
from vesalius.metrics.overlap import dice, iou


@dataclass(frozen=True)
class Score:
    """One object, outlined by one model under one strategy.

    Attributes:
        dataset: Name of the set.
        modality: Lower-case modality.
        image: Its name in its corpus, or the stem of its file's name.
        case: Patient, recording, volume or image.
        target: What the object is.
        instance: Its number among the objects of the image, from 1.
        area: Its share of the image, 0 to 1.
        model: Name of the model.
        strategy: One of `strategies.STRATEGIES`.
        dice: Dice of the outline and the truth, 0 to 1.
        iou: Their intersection over union, 0 to 1.
        quality: The model's own estimate of that.
    """

    dataset: str
    modality: str
    image: str
    case: str
    target: str
    instance: int
    area: float
    model: str
    strategy: str
    dice: float
    iou: float
    quality: float


_FIELDS = [field.name for field in dataclasses.fields(Score)]


def collect(
    path: Path, images: Iterable[LabelledImage], total: int, score: Callable[[LabelledImage], list[Score]]
) -> list[Score]:
    """Scores images one after the other, and takes up a table that an interrupted call has left.

    Args:
        path: The table; the scores of each image are added when they are there.
        images: The images.
        total: How many they are, for the progress bar.
        score: Gives the scores of an image.
    """
    scores = _resume(path)
    finished = {(score.dataset, score.image) for score in scores}
    with path.open("a", newline="", encoding="utf-8") as file, progress_bar() as progress:
        task = progress.add_task("evaluate", total=total)
        for labelled in images:
            if (labelled.dataset, image_name(labelled)) not in finished:
                new = score(labelled)
                _append(file, new)
                scores += new
            progress.update(task, advance=1, description=labelled.dataset)
    return scores


def with_drawn_objects(labelled: LabelledImage, seed: int = 0, max_objects: int | None = None) -> LabelledImage:
    """The image with as many of its objects as are measured: of more, this many are drawn by the seed."""
    objects = labelled.masks
    if max_objects is None or len(objects) <= max_objects:
        return labelled
    rng = generator_of(seed, labelled.dataset, image_name(labelled))
    chosen = rng.choice(len(objects), max_objects, replace=False)
    return dataclasses.replace(labelled, masks=[objects[i] for i in sorted(chosen)])


def score_model(labelled: LabelledImage, model: Promptable, seed: int = 0) -> list[Score]:
    """Scores a model under every strategy on the objects of one image."""
    if not labelled.masks:
        return []
    generators = [object_generator(labelled, entry, seed) for entry in labelled.masks]
    embedding = model.encode(labelled.image)
    truths = [entry.mask for entry in labelled.masks]
    scores: list[Score] = []
    for strategy, found in predict_strategies(model, embedding, truths, generators):
        scores += _scores(labelled, model.name, strategy, [p.mask for p in found], [p.quality for p in found])
    return scores


def _scores(
    labelled: LabelledImage,
    model: str,
    strategy: str,
    masks: Sequence[NDArray[np.bool_]],
    qualities: Sequence[float],
) -> list[Score]:
    return [
        Score(
            dataset=labelled.dataset,
            modality=labelled.modality,
            image=image_name(labelled),
            case=labelled.case,
            target=entry.target,
            instance=entry.instance,
            area=float(entry.mask.mean()),
            model=model,
            strategy=strategy,
            dice=dice(mask, entry.mask),
            iou=iou(mask, entry.mask),
            quality=quality,
        )
        for entry, mask, quality in zip(labelled.masks, masks, qualities, strict=True)
    ]


def image_name(labelled: LabelledImage) -> str:
    """What an image is called in a table of scores: its name in its corpus, or the stem of its file's name."""
    return labelled.name or labelled.path.stem


def object_generator(labelled: LabelledImage, entry: ObjectMask, seed: int = 0) -> np.random.Generator:
    """The generator of an object's clicks."""
    return generator_of(seed, labelled.dataset, image_name(labelled), entry.instance)


def read_scores(path: Path) -> list[Score]:
    """Reads a ``scores.csv``.

    Raises:
        ReadError: The file is missing or is not one of scores.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return _parse(file)
    except (OSError, ValueError) as error:
        raise ReadError(f"is not a table of scores ({error})", path=path, remedy="evaluate again") from error


def _resume(part: Path) -> list[Score]:
    """The scores of finished images; the last image in the file may be cut off, so it is dropped and done again."""
    text = part.read_text(encoding="utf-8") if part.exists() else ""
    scores = _parse(text[: text.rfind("\n") + 1].splitlines())
    scores = [s for s in scores if (s.dataset, s.image) != (scores[-1].dataset, scores[-1].image)]
    with part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(_FIELDS)
        _append(file, scores)
    return scores


def _append(file: TextIO, scores: Iterable[Score]) -> None:
    csv.writer(file, lineterminator="\n").writerows(dataclasses.astuple(score) for score in scores)
    file.flush()


def _parse(lines: Iterable[str]) -> list[Score]:
    return TypeAdapter(list[Score]).validate_python(list(csv.DictReader(lines)))


def progress_bar() -> Any:
    """A bar on standard error: what is being done, how much of it, and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
