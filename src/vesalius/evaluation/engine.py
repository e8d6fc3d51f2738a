"""Scores of one image: every strategy's prompts in batches, corrections round by round, and all metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.types import Prediction, Prompt
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.corpus.store import encode_mask
from vesalius.evaluation.images import Stack
from vesalius.evaluation.prompts import Key, Turn, generator_of, key_of
from vesalius.evaluation.protocols import ANNOTATOR, Strategy, correction
from vesalius.evaluation.subjects import Asked, Subject
from vesalius.metrics.boundary import boundary_iou
from vesalius.metrics.complexity import aspect_ratio, fourier_order, intensity_difference
from vesalius.metrics.effort import human_correction_effort
from vesalius.metrics.overlap import Mask, dice, iou
from vesalius.metrics.surface import surface_scores
from vesalius.prompts.sample import tight_box
from vesalius.vocabulary.targets import find_target

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Scene:
    """An image whose objects are measured.

    Attributes:
        labelled: The image and the objects.
        names: Of the objects.
        stack: What it is a slice of, if of anything.
        left_out: Targets of the objects that are not measured, one for each.
    """

    labelled: LabelledImage
    names: list[str]
    stack: Stack | None
    left_out: list[str]

    @property
    def spacing(self) -> tuple[float, float]:
        """Distance between pixel centres along (rows, columns), in mm; ones where it is unknown."""
        return self.labelled.image.spacing or (1.0, 1.0)


def scene_of(name: str, labelled: LabelledImage, stack: Stack | None, seed: int, most: int | None) -> Scene:
    """An image with the objects of it that are measured: none empty, none pseudo, and of many some that are drawn.

    Args:
        name: Of the image.
        labelled: The image and all its objects.
        stack: What it is a slice of.
        seed: Of the draw.
        most: Of more objects this many; all if None.
    """
    usable = [i for i, entry in enumerate(labelled.masks) if entry.mask.any() and not entry.pseudo]
    chosen = usable
    if most is not None and len(usable) > most:
        drawn = generator_of(seed, "objects", name).choice(len(usable), most, replace=False)
        chosen = [usable[i] for i in sorted(drawn)]
    masks = [labelled.masks[i] for i in chosen]
    names = [f"{name}#{i}" for i in chosen]
    left_out = [labelled.masks[i].target for i in usable if i not in set(chosen)]
    return Scene(dataclasses.replace(labelled, masks=masks), names, stack, left_out)


def object_rows(scene: Scene, name: str, internal: Sequence[str]) -> list[Row]:
    """The rows of `results` that describe the objects of an image.

    Args:
        scene: The image.
        name: Of the image.
        internal: Data sets that count as internal; where none is named, none is internal or external.
    """
    image = scene.labelled.image
    grey = image.rgb().mean(axis=2)
    about: Row = {
        "image": name,
        "dataset": scene.labelled.dataset,
        "modality": scene.labelled.modality,
        "case": scene.labelled.case,
        "split": scene.labelled.split,
        "origin": ("internal" if scene.labelled.dataset in internal else "external") if internal else None,
        "height": image.size[0],
        "width": image.size[1],
        "row_spacing": image.spacing[0] if image.spacing else None,
        "column_spacing": image.spacing[1] if image.spacing else None,
        "volume": scene.stack.name if scene.stack else None,
        "axis": scene.stack.axis if scene.stack else None,
        "index": scene.stack.index if scene.stack else None,
        "slice_spacing": scene.stack.step if scene.stack else None,
        "left_out": sorted(set(scene.left_out)),
    }
    both = zip(scene.names, scene.labelled.masks, strict=True)
    return [about | {"object": named} | _shape(entry, grey) for named, entry in both]


def _shape(entry: ObjectMask, grey: NDArray[np.floating[Any]]) -> Row:
    x0, y0, x1, y1 = tight_box(entry.mask)
    target = find_target(entry.target)
    return {
        "target": entry.target,
        "group": target.group if target else None,
        "organ": target.organ if target else None,
        "instance": entry.instance,
        "truth": encode_mask(entry.mask),
        "area": int(entry.mask.sum()),
        "share": float(entry.mask.mean()),
        "x0": x0,
        "y0": y0,
        "x1": x1,
        "y1": y1,
        "aspect": aspect_ratio(entry.mask),
        "intensity_difference": intensity_difference(grey, entry.mask),
        "fourier_order": fourier_order(entry.mask).final,
    }


def score_scene(
    subject: Subject,
    scene: Scene,
    strategies: Sequence[Strategy],
    prompts: Mapping[Key, Prompt],
    seed: int,
    tolerance: float,
    turns: Mapping[str, Sequence[Turn]] = MappingProxyType({}),
) -> Iterator[Row]:
    """Scores a subject on the objects of an image under some strategies.

    Every strategy's prompts of one round are asked together. After an answer without an error the rounds that are left
    have the same score.

    Args:
        subject: What is measured.
        scene: The image.
        strategies: How it is prompted.
        prompts: The first prompts.
        seed: Of random corrections; each object has a generator of its own for every strategy.
        tolerance: Of NSD, in mm where the spacing is known, else in pixels.
        turns: What an annotator said about each object.

    Yields:
        Rows of the table of scores.
    """
    ruler = _Ruler(scene, tolerance)
    opened = subject.open(scene.labelled, scene.names)
    asked: list[Asked] = []
    for strategy in strategies:
        if strategy.grid is not None:
            yield from _everything(subject, opened, scene, strategy, ruler)
            continue
        if strategy.protocol == ANNOTATOR:
            for number, name in enumerate(scene.names):
                yield from _replayed(subject, opened, scene, strategy, number, turns[name], ruler)
            continue
        for number, name in enumerate(scene.names):
            prompt = prompts[key_of(name, strategy)]
            reason = subject.cannot(strategy, prompt)
            if reason is None:
                asked.append(Asked(strategy, number, 1, prompt))
            else:
                for turn in range(1, strategy.rounds + 1):
                    yield _row(subject, scene, strategy, number, turn, "own") | {"reason": reason}
    generators: dict[tuple[Strategy, int], np.random.Generator] = {}
    while asked:
        following: list[Asked] = []
        for answer in subject.answer(opened, asked):
            for one in (asked[place] for place in answer.asked):
                if not answer.masks:
                    for turn in range(one.round, one.strategy.rounds + 1):
                        about = _row(subject, scene, one.strategy, one.number, turn, "own")
                        yield about | {"reason": answer.reason}
                    continue
                yield from _scored(subject, scene, one, one.round, answer.masks, ruler)
                if one.round == one.strategy.rounds:
                    continue
                key = one.strategy, one.number
                if key not in generators:
                    name = scene.names[one.number]
                    generators[key] = generator_of(seed, "corrections", name, one.strategy.name)
                after = _corrected(one, answer.masks[0], scene, generators[key])
                # Who takes no clicks has no corrected answers, not even where an outline needs no correction.
                click = dataclasses.replace(one.prompt, points=[(0.0, 0.0)], labels=[1])
                reason = subject.cannot(one.strategy, click if after is None else after.prompt)
                if reason is None and after is not None:
                    following.append(after)
                    continue
                for turn in range(one.round + 1, one.strategy.rounds + 1):
                    if reason is None:
                        yield from _scored(subject, scene, one, turn, answer.masks, ruler)
                    else:
                        yield _row(subject, scene, one.strategy, one.number, turn, "own") | {"reason": reason}
        asked = following


class _Ruler:
    """Measures masks of an image's objects, equal ones once."""

    def __init__(self, scene: Scene, tolerance: float) -> None:
        self._truths = [entry.mask for entry in scene.labelled.masks]
        self._spacing, self._tolerance = scene.spacing, tolerance
        self._known: dict[tuple[int, bytes], Row] = {}

    def measure(self, number: int, mask: Mask, effort: bool) -> Row:
        """Metrics of a mask against the truth of an object, and its RLE."""
        rle = encode_mask(mask)
        row = self._known.get((number, rle))
        truth = self._truths[number]
        if row is None:
            surface = surface_scores(mask, truth, self._spacing, self._tolerance)
            row = {
                "rle": rle,
                "dice": dice(mask, truth),
                "iou": iou(mask, truth),
                "boundary_iou": boundary_iou(mask, truth),
                **dataclasses.asdict(surface),
            }
            self._known[number, rle] = row
        return row | {"hce": human_correction_effort(mask, truth)} if effort else row

    def nearest(self, number: int, masks: Sequence[Mask]) -> int:
        """Which of some masks has the highest Dice with the truth of an object; the first of equal ones."""
        return int(np.argmax([dice(mask, self._truths[number]) for mask in masks]))


def _row(subject: Subject, scene: Scene, strategy: Strategy, number: int, turn: int, choice: str) -> Row:
    return {
        "object": scene.names[number],
        "model": subject.name,
        "protocol": strategy.protocol,
        "strategy": strategy.name,
        "variant": strategy.variant,
        "repeat": strategy.repeat,
        "round": turn,
        "choice": choice,
    }


def _scored(
    subject: Subject, scene: Scene, one: Asked, turn: int, masks: Sequence[Prediction], ruler: _Ruler
) -> Iterator[Row]:
    """The model's own choice and, where the strategy wants it, the mask nearest the truth."""
    choices = {"own": masks[0]}
    if one.strategy.matched:
        choices["matched"] = masks[ruler.nearest(one.number, [found.mask for found in masks])]
    for choice, found in choices.items():
        about = _row(subject, scene, one.strategy, one.number, turn, choice)
        yield about | ruler.measure(one.number, found.mask, one.strategy.effort) | {"quality": found.quality}


def _corrected(one: Asked, answer: Prediction, scene: Scene, rng: np.random.Generator) -> Asked | None:
    truth = scene.labelled.masks[one.number].mask
    after = correction(one.prompt, answer.mask, truth, one.strategy.correct, rng)
    if after is None:
        return None
    return Asked(one.strategy, one.number, one.round + 1, dataclasses.replace(after, logits=answer.logits))


def _replayed(
    subject: Subject,
    opened: Any,
    scene: Scene,
    strategy: Strategy,
    number: int,
    turns: Sequence[Turn],
    ruler: _Ruler,
) -> Iterator[Row]:
    """What an annotator said about an object, a round for each turn; as then, each prompt is asked by itself."""
    # What was said up to a step -> the answer, or why there is none.
    known: dict[tuple[Any, ...], Prediction | str] = {}
    for turn, asked in enumerate(turns, 1):
        about = _row(subject, scene, strategy, number, turn, "own")
        found: Prediction | str = asked.reason or ""
        said: tuple[Any, ...] = ()
        for step in asked.steps:
            said = (*said, np.asarray(step.points).tobytes(), np.asarray(step.labels).tobytes(), step.box, step.text)
            # A folder of masks has one for every round.
            if said not in known or step is asked.steps[-1]:
                logits = found.logits if isinstance(found, Prediction) else None
                one = Asked(strategy, number, turn, dataclasses.replace(step, logits=logits))
                known[said] = _answered(subject, opened, one)
            found = known[said]
            if isinstance(found, str):
                break
        if isinstance(found, str):
            yield about | {"reason": found}
        else:
            yield about | ruler.measure(number, found.mask, strategy.effort) | {"quality": found.quality}


def _answered(subject: Subject, opened: Any, one: Asked) -> Prediction | str:
    """The answer to one prompt, or why there is none."""
    reason = subject.cannot(one.strategy, one.prompt)
    if reason is not None:
        return reason
    (answer,) = subject.answer(opened, [one])
    return answer.masks[0] if answer.masks else answer.reason or ""


def _everything(subject: Subject, opened: Any, scene: Scene, strategy: Strategy, ruler: _Ruler) -> Iterator[Row]:
    """Everything mode: of all masks the one nearest each object."""
    reason = subject.cannot(strategy, None)
    found: list[Mask] = []
    if reason is None:
        assert strategy.grid is not None
        found = subject.everything(opened, strategy.grid) or [np.zeros(scene.labelled.image.size, np.bool_)]
    for number in range(len(scene.names)):
        about = _row(subject, scene, strategy, number, 1, "matched")
        if reason is not None:
            yield about | {"reason": reason}
            continue
        best = found[ruler.nearest(number, found)]
        yield about | ruler.measure(number, best, strategy.effort) | {"quality": math.nan}
