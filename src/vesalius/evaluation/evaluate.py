"""Scores of a model and of the baselines on labelled images, one row per object, model and strategy.

Every object's clicks come from a generator of its own, seeded with the run's seed and the object's name: the order of
work, a resumed run and what else is in the corpus change nothing.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, TypeAdapter

import vesalius
from vesalius.core.config import Config
from vesalius.core.errors import ConfigError, ReadError, WriteError
from vesalius.core.files import replacing
from vesalius.corpus.layouts.pairs import find_sets, list_cases, read_pairs
from vesalius.corpus.objects import MIN_AREA, LabelledImage, ObjectMask
from vesalius.corpus.split import split_of
from vesalius.evaluation.baselines import BASELINES
from vesalius.evaluation.strategies import Promptable, predict_strategies
from vesalius.metrics.overlap import dice, iou
from vesalius.prompts.sample import tight_box


class EvaluationConfig(Config):
    """What is measured.

    Attributes:
        data: A folder in the layout of image and label pairs, or a folder of such folders.
        split: Which cases.
        seed: Seed of the clicks and of the choice of objects.
        max_objects: Of an image with more objects, this many are drawn; a field of cells would outweigh all else.
    """

    data: Path
    split: Literal["train", "val"] = "val"
    seed: NonNegativeInt = 0
    max_objects: PositiveInt = 10


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
        model: Name of the model or baseline.
        strategy: One of `strategies.STRATEGIES`.
        dice: Dice of the outline and the truth, 0 to 1.
        iou: Their intersection over union, 0 to 1.
        quality: The model's own estimate of that; NaN for baselines, which make none.
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


def evaluate(config: EvaluationConfig, model: Promptable | None, output: Path) -> list[Score]:
    """Scores the baselines and a model, and writes ``scores.csv`` and ``run.json``.

    A folder that holds an unfinished run of the same configuration and model is taken up where it stopped.

    Args:
        config: What is measured.
        model: The model; None for the baselines alone.
        output: Folder for the results; made if its parent exists.

    Raises:
        ReadError: The data cannot be read, or there is no object in this split.
        ConfigError: The folder holds another run.
        WriteError: The folder cannot be made.
    """
    import cv2

    sets = {folder: _in_split(folder, config.split) for folder in find_sets(config.data)}
    if not any(sets.values()):
        raise ReadError(f"no case falls into the {config.split} split", path=config.data, remedy="use the other split")
    run = {
        "version": vesalius.__version__,
        "opencv": cv2.__version__,
        "seed": config.seed,
        "split": config.split,
        "max_objects": config.max_objects,
        "min_area": MIN_AREA,
        "model": {"name": model.name, "digest": model.digest, "runs_by": model.runs_by} if model else None,
        "cases": {folder.name: sorted(set(paths.values())) for folder, paths in sets.items()},
    }
    _start(output, run)
    path, part = output / "scores.csv", output / "scores.csv.part"
    if path.exists():
        return read_scores(path)
    left_out = 0

    def images() -> Iterator[LabelledImage]:
        nonlocal left_out
        for folder, paths in sets.items():
            for labelled in read_pairs(folder) if paths else ():
                if labelled.path in paths:
                    left_out += max(0, len(labelled.masks) - config.max_objects)
                    yield labelled

    total = sum(map(len, sets.values()))
    scores = collect(part, images(), total, lambda image: score_image(image, model, config.seed, config.max_objects))
    if not scores:
        raise ReadError(f"no image of the {config.split} split has an object", path=config.data)
    _write_run(output, {**run, "objects": len({_object(s) for s in scores}), "objects_left_out": left_out})
    part.replace(path)
    return scores


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
    with path.open("a", newline="", encoding="utf-8") as file, _progress() as progress:
        task = progress.add_task("evaluate", total=total)
        for labelled in images:
            if (labelled.dataset, image_name(labelled)) not in finished:
                new = score(labelled)
                _append(file, new)
                scores += new
            progress.update(task, advance=1, description=labelled.dataset)
    return scores


def score_image(
    labelled: LabelledImage, model: Promptable | None, seed: int = 0, max_objects: int | None = None
) -> list[Score]:
    """Scores the baselines, which take a box, and the model under every strategy, on the objects of one image.

    Args:
        labelled: The image and its objects.
        model: The model; None for the baselines alone.
        seed: Seed of the clicks and of the choice of objects.
        max_objects: Of more objects, this many are drawn.
    """
    labelled = with_drawn_objects(labelled, seed, max_objects)
    return score_baselines(labelled) + ([] if model is None else score_model(labelled, model, seed))


def with_drawn_objects(labelled: LabelledImage, seed: int = 0, max_objects: int | None = None) -> LabelledImage:
    """The image with as many of its objects as are measured; see `score_image`."""
    objects = labelled.masks
    if max_objects is None or len(objects) <= max_objects:
        return labelled
    rng = generator_of(seed, labelled.dataset, image_name(labelled))
    chosen = rng.choice(len(objects), max_objects, replace=False)
    return dataclasses.replace(labelled, masks=[objects[i] for i in sorted(chosen)])


def score_baselines(labelled: LabelledImage) -> list[Score]:
    """Scores the baselines on the objects of one image."""
    pixels = labelled.image.rgb()
    scores: list[Score] = []
    for baseline, outline in BASELINES.items():
        masks = [outline(pixels, tight_box(entry.mask)) for entry in labelled.masks]
        scores += _scores(labelled, baseline, "box", masks, [math.nan] * len(masks))
    return scores


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


def generator_of(seed: int, *name: object) -> np.random.Generator:
    """A generator that depends on the seed and the name alone."""
    digest = hashlib.sha256("\0".join(map(str, name)).encode()).digest()
    return np.random.default_rng((seed, int.from_bytes(digest, "big")))


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


def read_run(path: Path) -> dict[str, Any]:
    """Reads a ``run.json``.

    Raises:
        ReadError: The file is missing or is not JSON.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadError(f"cannot be read ({error})", path=path, remedy="evaluate again") from error
    return found


def _in_split(folder: Path, split: str) -> dict[Path, str]:
    return {path: case for path, case in list_cases(folder).items() if split_of(case) == split}


def _object(score: Score) -> tuple[str, str, int]:
    return score.dataset, score.image, score.instance


def _start(output: Path, run: dict[str, Any]) -> None:
    """Makes the folder of a new run, or makes sure that the run in it is this one."""
    path = output / "run.json"
    if path.exists():
        found = read_run(path)
        if {key: found.get(key) for key in run} != run:
            raise ConfigError("holds another evaluation", path=output, remedy="choose another folder")
        return
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"cannot be made ({error.strerror})", path=output, remedy="choose a folder in one that exists"
        ) from error
    _write_run(output, run)


def _write_run(output: Path, run: dict[str, Any]) -> None:
    with replacing(output / "run.json") as part:
        part.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


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


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
