"""One object through a volume: the outlines of a few slices, carried from slice to slice.

A *key slice* is one whose outline somebody has accepted. From each, the outline is carried both ways: the next slice is
asked with a box around the last outline and with that outline as mask prompt, its answer is the next outline, and so on
until a rule stops it (`PropagationRules`), until the volume ends, or until the next key slice.

Between two key slices the outline is carried from both ends, one slice a turn, until the two meet: each slice belongs
to the nearer key slice, the middle one of an odd number to the lower. If one side is stopped, the other goes on to
where that happened, and that slice too. So what lies between two key slices depends on these two alone, and a
correction changes nothing beyond the next key slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ConfigError, GeometryError, PromptError
from vesalius.core.geometry import Geometry
from vesalius.core.types import AXES, Prediction, Prompt, Volume
from vesalius.metrics.overlap import dice
from vesalius.predict.predictor import Predictor
from vesalius.prompts.sample import tight_box

Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]
Rule = Literal["small", "grew", "shrank", "overlap", "quality"]


@dataclass(frozen=True)
class PropagationRules:
    """How the next slice is asked, and when an answer is not believed.

    Attributes:
        margin: The box reaches past the last outline by this share of its longer side, on every side.
        least_margin: And by at least this many pixels.
        least_area: Pixels; a smaller outline is the end of the object.
        most_change: An outline that is this many times larger or smaller than the last one is not believed.
        least_overlap: Nor one whose Dice with the last one is below this.
        least_quality: Nor one whose predicted IoU is below this.

    Raises:
        ConfigError: A value is out of range.
    """

    margin: float = 0.05
    least_margin: float = 1.0
    least_area: int = 4
    most_change: float = 3.0
    least_overlap: float = 0.3
    least_quality: float = 0.4

    def __post_init__(self) -> None:
        for name in ("margin", "least_margin"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}", remedy="give a number from 0 on")
        if not self.least_area >= 1:
            raise ConfigError(f"least_area is {self.least_area}", remedy="give a number of pixels from 1 on")
        if not self.most_change > 1:
            raise ConfigError(f"most_change is {self.most_change}", remedy="give a ratio above 1")
        for name in ("least_overlap", "least_quality"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", remedy="give a number from 0 to 1")


@dataclass(frozen=True)
class Stop:
    """Why an answer was not believed.

    Attributes:
        rule: ``"small"`` (below the least area), ``"grew"``, ``"shrank"``, ``"overlap"`` or ``"quality"``.
        value: What was measured: pixels, ratio of areas, Dice with the last outline, predicted IoU.
        limit: What the rule asks for.
    """

    rule: Rule
    value: float
    limit: float


@dataclass(frozen=True, eq=False)
class SliceOutline:
    """What was found on one slice.

    Attributes:
        index: The slice.
        mask: (H, W) bool; empty where propagation was stopped.
        key: The key slice it was carried from; ``index`` itself for a key slice.
        quality: Predicted IoU of the answer; None for a mask that was given.
        stop: Why the answer was not believed; None if it was.
    """

    index: int
    mask: Mask
    key: int
    quality: float | None
    stop: Stop | None = None


@dataclass(frozen=True, eq=False)
class Propagation:
    """One object in a volume.

    Attributes:
        mask: (Z, Y, X) bool.
        geometry: Of the volume; None if it has none.
        axis: Axis along which the object was carried: ``"x"``, ``"y"`` or ``"z"``.
        rules: By which it was carried.
        keys: What was accepted on each key slice.
        slices: What was found, by slice, in order; slices that were never asked are absent.
    """

    mask: Mask
    geometry: Geometry | None
    axis: str
    rules: PropagationRules
    keys: dict[int, Prediction | Mask]
    slices: dict[int, SliceOutline]


def propagate(
    predictor: Predictor,
    volume: Volume,
    keys: Mapping[int, Prompt | Prediction | Mask],
    *,
    axis: str = "z",
    rules: PropagationRules | None = None,
    before: Propagation | None = None,
) -> Propagation:
    """Outlines one object in a volume, from what is known of it on one or more slices.

    To correct a slice, give it as a key slice more: ``propagate(predictor, volume, {**before.keys, 37: prompt},
    before=before)``. Only what lies between it and the next key slices is found anew; the rest is ``before``'s.

    Args:
        predictor: The model.
        volume: The volume.
        keys: Slice -> a prompt, which the model answers; an accepted prediction; or an accepted (H, W) bool mask in
            pixels of the slice, which is kept as it is. An empty mask says that the object is not on that slice, and
            nothing is carried past it.
        axis: Array axis along which the object is carried: ``"x"``, ``"y"`` or ``"z"``.
        rules: How slices are asked and when propagation stops.
        before: Result of the same model, volume, axis and rules for other key slices.

    Raises:
        PromptError: There is no key slice, or a prompt or mask does not fit its slice.
        GeometryError: The axis or a slice does not exist, or ``before`` is of another grid or axis.
    """
    accepted = accept(predictor, volume, keys, axis=axis)
    found = list(propagate_slices(predictor, volume, accepted, axis=axis, rules=rules, before=before))
    return assemble(volume, axis, accepted, found, rules)


def accept(
    predictor: Predictor, volume: Volume, keys: Mapping[int, Prompt | Prediction | Mask], *, axis: str = "z"
) -> dict[int, Prediction | Mask]:
    """Key slices with their prompts answered, in the order of the slices; arguments and errors as `propagate`."""
    if not keys:
        raise PromptError("no slice has a prompt", remedy="give a box, points or a mask on at least one slice")
    images = {index: volume.slice(axis, index) for index in keys}
    asked = {index: said for index, said in keys.items() if isinstance(said, Prompt)}
    answers = predictor.predict_slices([images[index] for index in asked], list(asked.values()))
    accepted: dict[int, Prediction | Mask] = dict(zip(asked, answers, strict=True))
    for index, said in keys.items():
        if isinstance(said, Prompt):
            continue
        mask = _mask(said)
        if mask.dtype != np.bool_:
            raise PromptError(
                f"the mask of slice {index} has dtype {mask.dtype}",
                path=volume.source,
                remedy="give a boolean array (mask > 0)",
            )
        if mask.shape != images[index].size:
            raise PromptError(
                f"the mask of slice {index} has the shape {mask.shape}, the slice {images[index].size}",
                path=volume.source,
                remedy="give a mask of the slice's size",
            )
        accepted[index] = said
    return dict(sorted(accepted.items()))


def propagate_slices(
    predictor: Predictor,
    volume: Volume,
    keys: Mapping[int, Prediction | Mask],
    *,
    axis: str = "z",
    rules: PropagationRules | None = None,
    before: Propagation | None = None,
) -> Iterator[SliceOutline]:
    """The outlines of `propagate` as they are found: the key slices, what ``before`` knew, then the new ones.

    Close the iterator to cancel. Of two outlines of one slice the later one counts: a slice where one side was stopped
    may be reached from the other.

    Args:
        predictor: As in `propagate`.
        volume: As in `propagate`.
        keys: Accepted predictions and masks, as from `accept`.
        axis: As in `propagate`.
        rules: As in `propagate`.
        before: As in `propagate`.

    Raises:
        GeometryError: The axis does not exist, or ``before`` is of another grid or axis.
    """
    rules = rules or PropagationRules()
    if axis not in AXES:
        raise GeometryError(f"there is no axis {axis!r}", path=volume.source, remedy="use x, y or z")
    if before is not None and (before.axis, before.rules, before.mask.shape) != (axis, rules, volume.voxels.shape[:3]):
        raise GeometryError(
            "the earlier result has another grid, another axis or other rules",
            path=volume.source,
            remedy="start without it",
        )
    count = volume.voxels.shape[2 - AXES.index(axis)]
    masks = {index: _mask(said) for index, said in sorted(keys.items())}
    for index, said in sorted(keys.items()):
        yield SliceOutline(index, masks[index], index, said.quality if isinstance(said, Prediction) else None)
    gaps = []
    for low, high in _neighbours(masks, count):
        if before is not None and _knows(before, low, high, masks, count):
            yield from (found for index, found in before.slices.items() if low < index < high)
        else:
            gaps.append((_Front.at_key(low, 1, masks), _Front.at_key(high, -1, masks)))
    while asking := [front for low, high in gaps for front in _turn(low, high)]:
        prompts = [Prompt(box=enlarged_box(front.mask, rules), mask=front.mask) for front in asking]
        images = [volume.slice(axis, front.reached + front.step) for front in asking]
        for front, answer in zip(asking, predictor.predict_slices(images, prompts), strict=True):
            yield front.take(answer, rules)


def assemble(
    volume: Volume,
    axis: str,
    keys: Mapping[int, Prediction | Mask],
    found: Iterable[SliceOutline],
    rules: PropagationRules | None = None,
) -> Propagation:
    """The label volume of outlines in the order in which `propagate_slices` gave them, all or the first of them."""
    slices = {outline.index: outline for outline in found}
    mask = np.zeros(volume.voxels.shape[:3], np.bool_)
    along = np.moveaxis(mask, 2 - AXES.index(axis), 0)
    for index, outline in slices.items():
        along[index] = outline.mask
    return Propagation(
        mask, volume.geometry, axis, rules or PropagationRules(), dict(keys), dict(sorted(slices.items()))
    )


def enlarged_box(mask: Mask, rules: PropagationRules) -> Box:
    """The box in which the next slice is asked: around (H, W) ``mask``, enlarged by the margins, cut at the border.

    Raises:
        PromptError: The mask is empty.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = tight_box(mask)
    margin = max(rules.least_margin, rules.margin * max(x1 - x0, y1 - y0))
    return max(0.0, x0 - margin), max(0.0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)


def judge(answer: Prediction, last: Mask, rules: PropagationRules) -> Stop | None:
    """The first rule, in the order of `Rule`, by which an answer is not believed; None if it is.

    Args:
        answer: On the next slice.
        last: (H, W) bool, the outline before it, not empty.
        rules: What to ask for.
    """
    area = int(answer.mask.sum())
    if area < rules.least_area:
        return Stop("small", area, rules.least_area)
    change = area / int(last.sum())
    if change > rules.most_change:
        return Stop("grew", change, rules.most_change)
    if change < 1 / rules.most_change:
        return Stop("shrank", change, 1 / rules.most_change)
    overlap = dice(answer.mask, last)
    if overlap < rules.least_overlap:
        return Stop("overlap", overlap, rules.least_overlap)
    if answer.quality < rules.least_quality:
        return Stop("quality", answer.quality, rules.least_quality)
    return None


@dataclass(eq=False)
class _Front:
    """How far the outline of a key slice has been carried in one direction.

    Attributes:
        key: The key slice.
        step: 1 or -1.
        reached: The last slice whose outline was believed.
        mask: That outline.
        live: Whether it goes on.
    """

    key: int
    step: int
    reached: int
    mask: Mask
    live: bool

    @classmethod
    def at_key(cls, key: int, step: int, masks: Mapping[int, Mask]) -> _Front:
        """The start; a border of the volume and an empty key slice have nothing to carry."""
        mask = masks.get(key, np.zeros((0, 0), np.bool_))
        return cls(key, step, key, mask, bool(mask.any()))

    def take(self, answer: Prediction, rules: PropagationRules) -> SliceOutline:
        """Goes on to the next slice by its answer, or stops."""
        index = self.reached + self.step
        stop = judge(answer, self.mask, rules)
        if stop is not None:
            self.live = False
            return SliceOutline(index, np.zeros_like(answer.mask), self.key, answer.quality, stop)
        self.reached, self.mask = index, answer.mask
        return SliceOutline(index, answer.mask, self.key, answer.quality)


def _turn(low: _Front, high: _Front) -> list[_Front]:
    """Those of the two fronts of a gap that go on by one slice now."""
    asking = [low] if low.live and low.reached + 1 < high.reached else []
    if high.live and high.reached - 1 > low.reached + len(asking):
        asking.append(high)
    return asking


def _neighbours(keys: Iterable[int], count: int) -> list[tuple[int, int]]:
    """Neighbouring key slices, in order; the borders of the volume, -1 and ``count``, count as such."""
    return list(pairwise([-1, *sorted(keys), count]))


def _knows(before: Propagation, low: int, high: int, masks: Mapping[int, Mask], count: int) -> bool:
    """Whether ``before`` has carried the same outlines between two neighbouring key slices."""
    if (low, high) not in _neighbours(before.keys, count):
        return False
    return all(np.array_equal(masks[key], _mask(before.keys[key])) for key in (low, high) if key in masks)


def _mask(said: Prediction | Mask) -> Mask:
    return said.mask if isinstance(said, Prediction) else said
