"""One object through a volume: the outlines of a few slices, carried from slice to slice.

A *key slice* is one whose outline somebody has accepted. What is found depends on where a slice lies:

- Between two key slices with an outline, a slice is asked with the shape that lies between these two (`shape_between`),
  weighted by how near each is: as a mask prompt, and a box around it. The two ends meet in every slice.
- Outside the key slices, the outline is carried: the next slice is asked with the last outline as mask prompt and a box
  around it, its answer is the next outline, and so on until a rule stops it (`PropagationRules`) or the volume ends.
  With two key slices the outline asked with is also cut to the shape that they lead to (`shape_beyond`): asked with the
  last outline alone, the network hardly follows an object that tapers. It is the same beside a key slice on which the
  object is said to be absent.

So what lies between two key slices depends on these two alone, and a correction on another slice changes nothing beyond
the next ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vesalius.core.errors import GeometryError, PromptError
from vesalius.core.geometry import Geometry
from vesalius.core.types import AXES, Prediction, Prompt, Slice, Volume
from vesalius.predict.predictor import Predictor
from vesalius.predict.propagation_rules import (
    Appearance,
    Mask,
    PropagationRules,
    Stop,
    appearance,
    enlarged_box,
    judge,
)
from vesalius.prompts.sample import tight_box

# Slices between key slices that are asked at once.
_BATCH = 8


@dataclass(frozen=True, eq=False)
class SliceOutline:
    """What was found on one slice.

    Attributes:
        index: The slice.
        mask: (H, W) bool; empty where propagation was stopped.
        keys: The key slices it comes from: the two that it lies between; or the one that it was carried from and the
            one behind that, where there is one; ``index`` itself for a key slice.
        quality: Predicted IoU of the answer; None for a mask that was given, and where the model was not asked.
        stop: Why the answer was not believed; None if it was.
    """

    index: int
    mask: Mask
    keys: tuple[int, ...]
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
    before=before)``. Only what lies between it and the next key slices is found anew; the rest is ``before``'s, as long
    as the key slices that it comes from are as they were.

    Args:
        predictor: The model.
        volume: The volume.
        keys: Slice -> a prompt, which the model answers; an accepted prediction; or an accepted (H, W) bool mask in
            pixels of the slice, which is kept as it is. An empty mask says that the object is not on that slice, and
            nothing is carried past it.
        axis: Array axis along which the object is carried: ``"x"``, ``"y"`` or ``"z"``.
        rules: How slices are asked and when propagation stops; if left out, those of ``before``, or the defaults.
        before: Result of the same model, volume, axis and rules for other key slices, or the first part of one.

    Raises:
        PromptError: There is no key slice, or a prompt or mask does not fit its slice.
        GeometryError: The axis or a slice does not exist, or ``before`` is of another grid or axis.
    """
    rules = rules or (PropagationRules() if before is None else before.rules)
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

    Close the iterator to cancel; each slice comes once.

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
    rules = rules or (PropagationRules() if before is None else before.rules)
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
        yield SliceOutline(index, masks[index], (index,), said.quality if isinstance(said, Prediction) else None)
    between: list[tuple[int, int, int]] = []
    fronts: list[_Front] = []
    for low, high in pairwise([-1, *masks, count]):
        if before is not None and _knows(before, low, high, masks):
            yield from (found for index, found in before.slices.items() if low < index < high)
            continue
        full = [key for key in (low, high) if key in masks and masks[key].any()]
        if len(full) == 2:
            between += [(low, index, high) for index in range(low + 1, high)]
        else:
            fronts += [_Front.at_key(volume, axis, key, high if key == low else low, masks, rules) for key in full]
    for start in range(0, len(between), _BATCH):
        yield from _ask_between(predictor, volume, axis, masks, between[start : start + _BATCH], rules)
    while fronts := [front for front in fronts if front.reached + front.step != front.end and front.stop is None]:
        shapes = [front.next_shape(rules) for front in fronts]
        for front, shape in zip(fronts, shapes, strict=True):
            # A key slice may be smaller; it is not for a rule to doubt it.
            if shape.sum() < min(rules.least_area, front.mask.sum()):
                yield front.run_out(shape, rules)
        asked = [(front, shape) for front, shape in zip(fronts, shapes, strict=True) if front.stop is None]
        images = [volume.slice(axis, front.reached + front.step) for front, _ in asked]
        answers = _ask(predictor, images, [shape for _, shape in asked], rules)
        for (front, _), image, answer in zip(asked, images, answers, strict=True):
            yield front.take(image, answer, rules)


def assemble(
    volume: Volume,
    axis: str,
    keys: Mapping[int, Prediction | Mask],
    found: Iterable[SliceOutline],
    rules: PropagationRules,
) -> Propagation:
    """The label volume of outlines in the order in which `propagate_slices` gave them, all or the first of them."""
    slices = {outline.index: outline for outline in found}
    mask = np.zeros(volume.voxels.shape[:3], np.bool_)
    along = np.moveaxis(mask, 2 - AXES.index(axis), 0)
    for index, outline in slices.items():
        along[index] = outline.mask
    return Propagation(mask, volume.geometry, axis, rules, dict(keys), dict(sorted(slices.items())))


def shape_between(low: Mask, high: Mask, weight: float) -> Mask:
    """The shape between two outlines, after Raya and Udupa 1990 (shape-based interpolation), moved along a line.

    Each outline is moved so that its centre comes to lie between the two centres; then the signed distances to both
    edges are averaged, and what lies inside is the shape. Without the move, outlines that hardly overlap, as those of
    a slanting object, would have little or nothing between them.

    Args:
        low: (H, W) bool, not empty.
        high: (H, W) bool, not empty.
        weight: 0 for ``low``, 1 for ``high``.
    """
    # Nothing lies beyond the outlines' common box.
    return _blended(low, high, weight, tight_box(low | high))


def shape_beyond(inner: Mask, outer: Mask, last: Mask, weight: float) -> Mask:
    """What is left of the last outline where the change from one outline to the next goes on as it was between them.

    Centre and signed distances go on in a line, as in `shape_between`; what would lie outside ``last`` does not count,
    so that an object is not made to grow.

    Args:
        inner: (H, W) bool, not empty.
        outer: (H, W) bool, not empty.
        last: (H, W) bool, not empty; the outline that was found last.
        weight: 1 for ``outer``, 2 for as far beyond it as it is from ``inner``.

    Returns:
        (H, W) bool; may be empty.
    """
    return _blended(inner, outer, weight, tight_box(inner | outer | last)) & last


def _blended(low: Mask, high: Mask, weight: float, box: tuple[int, int, int, int]) -> Mask:
    """Both outlines moved to where the line through their centres has ``weight``, distances added; inside a box."""
    x0, y0, x1, y1 = box
    # A frame of background keeps distances right at the border.
    shapes = [np.pad(mask[y0:y1, x0:x1], 2) for mask in (low, high)]
    centres = [np.argwhere(shape).mean(0) for shape in shapes]
    centre = (1 - weight) * centres[0] + weight * centres[1]
    moved = [
        ndimage.shift(_signed_distance(shape), centre - own, order=1, mode="nearest")
        for shape, own in zip(shapes, centres, strict=True)
    ]
    out = np.zeros_like(low)
    out[y0:y1, x0:x1] = ((1 - weight) * moved[0] + weight * moved[1] > 0)[2:-2, 2:-2]
    return out


def _signed_distance(mask: Mask) -> NDArray[np.float64]:
    """Distance in pixels of each pixel to the other side of the edge, positive inside."""
    return np.asarray(ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask))


def _ask(
    predictor: Predictor, images: Sequence[Slice], shapes: Sequence[Mask], rules: PropagationRules
) -> list[Prediction]:
    prompts = [Prompt(box=enlarged_box(shape, rules), mask=shape) for shape in shapes]
    return predictor.predict_slices(images, prompts)


def _ask_between(
    predictor: Predictor,
    volume: Volume,
    axis: str,
    masks: Mapping[int, Mask],
    places: Sequence[tuple[int, int, int]],
    rules: PropagationRules,
) -> Iterator[SliceOutline]:
    """Outlines of slices, each between two key slices: (lower key slice, slice, higher key slice)."""
    shapes = []
    for low, index, high in places:
        shape = shape_between(masks[low], masks[high], (index - low) / (high - low))
        # Nothing may be left between two thin shapes; then the nearer one is asked for.
        shapes.append(shape if shape.any() else masks[low if 2 * index <= low + high else high])
    images = [volume.slice(axis, index) for _, index, _ in places]
    for (low, index, high), shape, answer in zip(places, shapes, _ask(predictor, images, shapes, rules), strict=True):
        yield _outline(index, (low, high), answer, judge(answer.mask, shape, answer.quality, rules))


def _outline(index: int, keys: tuple[int, ...], answer: Prediction, stop: Stop | None) -> SliceOutline:
    mask = answer.mask if stop is None else np.zeros_like(answer.mask)
    return SliceOutline(index, mask, keys, answer.quality, stop)


@dataclass(eq=False)
class _Front:
    """How far the outline of a key slice has been carried in one direction.

    Attributes:
        keys: The key slice, and the one behind it, if it has the object too.
        outlines: Of these.
        seen: What the key slice shows.
        end: The slice before which it ends.
        step: 1 or -1.
        reached: The last slice whose outline was believed.
        mask: That outline.
        stop: Why it goes no further.
    """

    keys: tuple[int, ...]
    outlines: tuple[Mask, ...]
    seen: Appearance
    end: int
    step: int
    reached: int
    mask: Mask
    stop: Stop | None = None

    @classmethod
    def at_key(
        cls, volume: Volume, axis: str, key: int, end: int, masks: Mapping[int, Mask], rules: PropagationRules
    ) -> _Front:
        """The start."""
        seen = appearance(_grey(volume.slice(axis, key)), masks[key])
        step = 1 if end > key else -1
        order = [*masks][::step]
        behind = order[: order.index(key)][-1:]
        keys = (key, *(index for index in behind if rules.trend and masks[index].any()))
        return cls(keys, tuple(masks[index] for index in keys), seen, end, step, key, masks[key])

    def next_shape(self, rules: PropagationRules) -> Mask:
        """With what the next slice is asked."""
        if len(self.keys) == 1:
            return self.mask
        key, behind = self.keys
        gone_on = (self.reached + self.step - key) / (key - behind)
        if gone_on > rules.trend:
            return self.mask
        return shape_beyond(self.outlines[1], self.outlines[0], self.mask, 1 + gone_on)

    def run_out(self, shape: Mask, rules: PropagationRules) -> SliceOutline:
        """Stops before the next slice, for which too little is left to ask with."""
        self.stop = Stop("small", int(shape.sum()), rules.least_area)
        return SliceOutline(self.reached + self.step, np.zeros_like(shape), self.keys, None, self.stop)

    def take(self, image: Slice, answer: Prediction, rules: PropagationRules) -> SliceOutline:
        """Goes on to the next slice by its answer, or stops."""
        greys = (self.seen, appearance(_grey(image), answer.mask)) if answer.mask.any() else None
        self.stop = judge(answer.mask, self.mask, answer.quality, rules, greys)
        found = _outline(image.index, self.keys, answer, self.stop)
        if self.stop is None:
            self.reached, self.mask = image.index, answer.mask
        return found


def _grey(image: Slice) -> NDArray[np.float32]:
    """(H, W) grey values as they are shown to the network."""
    return np.asarray(image.rgb().mean(2, dtype=np.float32))


def _knows(before: Propagation, low: int, high: int, masks: Mapping[int, Mask]) -> bool:
    """Whether ``before`` has all between ``low`` and ``high`` (a border, where not in ``masks``) for these masks."""
    count = before.mask.shape[2 - AXES.index(before.axis)]
    if (low, high) not in pairwise([-1, *sorted(before.keys), count]):
        return False
    ends = {key for key in (low, high) if key in masks}
    found = [outline for index, outline in before.slices.items() if low < index < high]
    for key in ends.union(*(outline.keys for outline in found)):
        if key not in masks or not np.array_equal(masks[key], _mask(before.keys[key])):
            return False
    full = sum(bool(masks[key].any()) for key in ends)
    # A result that was cancelled lacks slices; what was carried from one side is whole if a rule has stopped it.
    return not full or len(found) == high - low - 1 or (full == 1 and any(outline.stop for outline in found))


def _mask(said: Prediction | Mask) -> Mask:
    return said.mask if isinstance(said, Prediction) else said
