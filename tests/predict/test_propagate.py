from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import vesalius as vs
from vesalius.core.errors import ConfigError, GeometryError, PromptError
from vesalius.core.frame import Frame
from vesalius.core.types import Logits
from vesalius.metrics.overlap import dice
from vesalius.predict.load import load_model
from vesalius.predict.predictor import Predictor
from vesalius.predict.propagate import accept, assemble, propagate, propagate_slices, shape_between, shape_beyond
from vesalius.predict.propagation_rules import PropagationRules, appearance, enlarged_box, judge
from vesalius.prompts.sample import tight_box

Mask = np.ndarray


class Scripted:
    """Answers by a function of the slice's number and the prompt; keeps what it was asked."""

    def __init__(self, answer: Callable[[int, vs.Prompt], tuple[Mask, float]]) -> None:
        self.answer = answer
        self.asked: list[int] = []

    def predict_slices(self, images: Sequence[vs.Slice], prompts: Sequence[vs.Prompt]) -> list[vs.Prediction]:
        out = []
        for image, prompt in zip(images, prompts, strict=True):
            prompt.check(image.size)
            self.asked.append(image.index)
            mask, quality = self.answer(image.index, prompt)
            out.append(vs.Prediction(mask, quality, Logits(np.zeros((2, 2), np.float32), Frame.stretch(mask.shape, 2))))
        return out


def disc(radius: float, x: float = 20, size: tuple[int, int] = (40, 50)) -> Mask:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - 20) ** 2 <= radius**2


def volume(values: Mask | None = None) -> vs.Volume:
    """12 slices of a bright disc on dark, or the given values."""
    if values is None:
        values = np.repeat(np.where(disc(8), 200, 50).astype(np.uint8)[None], 12, 0)
    depth, height, width = values.shape
    geometry = vs.Geometry((width, height, depth), (0.5, 0.75, 2.0), (1, 2, 3), (0, 1, 0, 1, 0, 0, 0, 0, -1))
    return vs.Volume(values, geometry, (0.0, 255.0))


def follow(index: int, prompt: vs.Prompt) -> tuple[Mask, float]:
    """The prompt's own mask, or its box."""
    if prompt.mask is not None:
        return prompt.mask, 0.9
    x0, y0, x1, y1 = (int(edge) for edge in prompt.box)
    mask = np.zeros((40, 50), bool)
    mask[y0:y1, x0:x1] = True
    return mask, 0.8


def run(answer: Callable[[int, vs.Prompt], tuple[Mask, float]], keys: dict[int, Any], **options: Any) -> Any:
    return propagate(Scripted(answer), volume(), keys, **options)


def test_an_outline_is_carried_to_both_ends() -> None:
    asked: dict[int, vs.Prompt] = {}

    def answer(index: int, prompt: vs.Prompt) -> tuple[Mask, float]:
        asked[index] = prompt
        return (disc(8), 0.9)

    result = run(answer, {5: disc(8)})
    assert (result.mask == disc(8)).all()
    assert list(result.slices) == list(range(12))
    assert {found.keys for found in result.slices.values()} == {(5,)}
    assert result.slices[5].quality is None
    assert result.slices[4].quality == 0.9
    assert (asked[6].mask == disc(8)).all()
    assert asked[6].box == (11, 11, 30, 30)  # the disc's 12,12,29,29, one pixel wider on each side
    assert result.geometry == volume().geometry


@pytest.mark.parametrize(
    ("rule", "mask", "quality", "value"),
    [
        ("small", disc(0), 0.9, 1),
        ("small", np.zeros((40, 50), bool), 0.9, 0),
        ("grew", disc(18), 0.9, disc(18).sum() / disc(8).sum()),
        ("shrank", disc(4), 0.9, disc(4).sum() / disc(8).sum()),
        ("overlap", disc(8, x=34), 0.9, dice(disc(8, x=34), disc(8))),
        ("quality", disc(8), 0.3, 0.3),
        ("grey", disc(8, x=29), 0.9, (disc(8) & disc(8, x=29)).sum() / disc(8).sum()),
        ("contrast", disc(5), 0.9, 1 - appearance(np.float32(disc(8)), disc(5)).around),
    ],
)
def test_each_rule_stops(rule: str, mask: Mask, quality: float, value: float) -> None:
    def answer(index: int, prompt: vs.Prompt) -> tuple[Mask, float]:
        return (mask, quality) if index == 8 else (disc(8), 0.9)

    result = run(answer, {5: disc(8)})
    stop = result.slices[8].stop
    assert stop.rule == rule
    assert stop.value == pytest.approx(value)
    assert [index for index, found in result.slices.items() if found.stop is not None] == [8]
    assert result.mask.any((1, 2)).tolist() == [True] * 8 + [False] * 4
    assert max(result.slices) == 8


@pytest.mark.parametrize(
    ("rules", "mask", "quality"),
    [
        (PropagationRules(least_area=1, most_change=1000, least_overlap=0, least_contrast=-1), disc(0), 0.9),
        (PropagationRules(most_change=10, least_grey=0, least_contrast=-1), disc(18), 0.9),
        (PropagationRules(most_change=10, least_contrast=0), disc(4), 0.9),
        (PropagationRules(least_overlap=0, least_grey=-1, least_contrast=-1), disc(8, x=34), 0.9),
        (PropagationRules(least_quality=0.2), disc(8), 0.3),
        (PropagationRules(least_grey=0.2, least_contrast=-1), disc(8, x=29), 0.9),
    ],
)
def test_each_rule_can_be_loosened(rules: PropagationRules, mask: Mask, quality: float) -> None:
    result = run(lambda index, prompt: (mask, quality) if index == 11 else (disc(8), 0.9), {5: disc(8)}, rules=rules)
    assert (result.mask[11] == mask).all()
    assert not any(found.stop for found in result.slices.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": -0.1},
        {"least_margin": float("nan")},
        {"trend": -1},
        {"least_area": 0},
        {"most_change": 1},
        {"least_overlap": 2},
        {"least_quality": -1},
        {"least_grey": 1.5},
        {"least_contrast": float("nan")},
    ],
)
def test_rules_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PropagationRules(**wrong)


def test_boxes_end_at_the_border() -> None:
    mask = np.zeros((40, 50), bool)
    mask[0:30, 10:50] = True
    assert enlarged_box(mask, PropagationRules(margin=0.1)) == (6, 0, 50, 34)


def test_grey_values_count_only_where_they_tell_the_object_from_its_surroundings() -> None:
    grey = np.where(disc(8), 120, 100).astype(np.float32)
    seen = appearance(grey, disc(8))
    assert (seen.inside, seen.around, seen.spread, seen.is_distinct) == (120, 100, 0, True)
    noisy = (grey + np.random.default_rng(0).normal(0, 200, grey.shape)).astype(np.float32)
    assert not appearance(noisy, disc(8)).is_distinct
    assert not appearance(grey, np.ones_like(disc(8))).is_distinct
    unlike = appearance(grey, disc(8, x=34))
    assert judge(disc(8), disc(8), 0.9, PropagationRules(), (seen, unlike)).rule == "grey"
    assert judge(disc(8), disc(8), 0.9, PropagationRules(), (appearance(noisy, disc(8)), unlike)) is None


def test_between_two_key_slices_the_shape_between_them_asks() -> None:
    low, high = disc(10), disc(4, x=32)
    result = run(follow, {2: low, 8: high})
    middle = result.slices[5]
    assert middle.keys == (2, 8)
    assert dice(middle.mask, disc(7, x=26)) > 0.93
    areas = [int(found.mask.sum()) for index, found in result.slices.items() if 2 <= index <= 8]
    assert areas == sorted(areas, reverse=True)
    assert (result.slices[1].keys, result.slices[9].keys) == ((2, 8), (8, 2))


def test_the_shape_between_reaches_both_ends_and_the_border() -> None:
    low, high = disc(10), disc(4, x=32)
    assert dice(shape_between(low, high, 0), low) > 0.97
    assert dice(shape_between(low, high, 1), high) > 0.97
    whole = np.ones((40, 50), bool)
    assert shape_between(whole, whole, 0.5).all()


def test_beyond_two_outlines_their_change_goes_on_within_the_last_one() -> None:
    inner, outer = disc(14), disc(10, x=24)
    beyond = shape_beyond(inner, outer, np.ones((40, 50), bool), 1.5)
    assert 0 < beyond.sum() < outer.sum()
    assert dice(beyond, disc(8, x=26)) > 0.9
    assert dice(shape_beyond(inner, outer, outer, 1), outer) > 0.97
    assert (shape_beyond(inner, outer, disc(4, x=26), 1.5) == (beyond & disc(4, x=26))).all()
    assert not shape_beyond(inner, disc(2), disc(2), 1.5).any()
    assert dice(shape_beyond(disc(6, x=12), disc(6), np.ones((40, 50), bool), 2), disc(6, x=28)) > 0.9


def test_past_the_outermost_of_several_key_slices_the_object_tapers_as_between_them() -> None:
    asked: dict[int, Mask] = {}

    def answer(index: int, prompt: vs.Prompt) -> tuple[Mask, float]:
        asked[index] = prompt.mask
        return disc(8), 0.9

    run(answer, {5: disc(14), 8: disc(8)})
    assert dice(asked[9], disc(6)) > 0.85
    assert dice(asked[10], disc(4)) > 0.85
    assert asked[10].sum() < asked[9].sum() < disc(8).sum()
    # On the side where it became larger it is not made to grow.
    assert (asked[4] == disc(14)).all()
    # As far as from one key slice to the other; then the last outline asks.
    run(answer, {6: disc(12), 8: disc(8)}, rules=PropagationRules(trend=0.5))
    assert dice(asked[9], disc(6)) > 0.85
    assert (asked[10] == disc(8)).all()
    found = run(answer, {6: disc(12), 8: disc(8)}, rules=PropagationRules(trend=0))
    assert (asked[9] == disc(8)).all()
    assert found.slices[9].keys == (8,)
    found = run(answer, {6: np.zeros((40, 50), bool), 8: disc(8)})
    assert (asked[9] == disc(8)).all()
    assert found.slices[9].keys == (8,)


def test_where_the_taper_ends_the_object_does() -> None:
    model = Scripted(follow)
    rules = PropagationRules(most_change=100, least_overlap=0, least_grey=-10, least_contrast=-10)
    result = propagate(model, volume(), {4: disc(12), 7: disc(6)}, rules=rules)
    last = result.slices[max(result.slices)]
    assert last.index == 10
    assert 9 in model.asked
    assert 10 not in model.asked
    assert (last.stop.rule, last.quality, last.keys) == ("small", None, (7, 4))
    assert last.stop.value < last.stop.limit
    assert [bool(mask.any()) for mask in result.mask] == [True] * 10 + [False] * 2


def test_a_key_slice_smaller_than_the_least_area_is_carried() -> None:
    result = run(lambda index, prompt: (disc(2), 0.9), {5: disc(1)}, rules=PropagationRules(least_area=8))
    assert disc(1).sum() == 5
    assert (result.mask[6] == disc(2)).all()


def test_where_nothing_is_left_between_two_shapes_the_nearer_one_asks() -> None:
    ring, dot = disc(10) & ~disc(8), disc(2)
    assert not shape_between(ring, dot, 0.5).any()
    result = run(follow, {4: ring, 7: dot})
    assert (result.mask[5] == ring).all()
    assert (result.mask[6] == dot).all()


def test_nothing_is_carried_past_a_slice_without_the_object() -> None:
    model = Scripted(follow)
    result = propagate(model, volume(), {4: disc(8), 7: np.zeros((40, 50), bool)})
    assert result.mask.any((1, 2)).tolist() == [True] * 7 + [False] * 5
    assert sorted(model.asked) == [0, 1, 2, 3, 5, 6]


def step(index: int, prompt: vs.Prompt) -> tuple[Mask, float]:
    """The prompt's mask, moved a little by the slice: every outline depends on all before it."""
    mask, quality = follow(index, prompt)
    return np.roll(mask, index % 3 - 1, axis=1), quality


def test_a_correction_changes_only_what_lies_between_its_neighbours() -> None:
    rules = PropagationRules(least_grey=-10, least_contrast=-10)
    box = vs.Prompt(box=(10, 12, 30, 28))
    first = run(step, {1: box, 5: disc(8), 10: disc(6)}, rules=rules)
    model = Scripted(step)
    corrected = {**first.keys, 7: disc(9, x=24)}
    second = propagate(model, volume(), corrected, rules=rules, before=first)
    assert sorted(model.asked) == [6, 8, 9]
    for index in (0, 1, 2, 3, 4, 5, 10, 11):
        assert second.slices[index] is first.slices[index] or index in corrected
        assert (second.mask[index] == first.mask[index]).all()
    assert (second.mask[7] == disc(9, x=24)).all()
    assert (second.mask[6] != first.mask[6]).any()
    anew = run(step, corrected, rules=rules)
    assert (anew.mask[:11] == second.mask[:11]).all()
    assert second.slices[11].keys == (10, 5)
    assert anew.slices[11].keys == (10, 7)


def test_a_changed_or_dropped_key_slice_changes_what_came_from_it() -> None:
    first = run(step, {1: disc(8), 5: disc(8), 10: disc(6)})
    for keys, asked in (
        ({**first.keys, 5: disc(7)}, [0, 2, 3, 4, 6, 7, 8, 9, 11]),
        ({1: disc(8), 10: disc(6)}, [0, *range(2, 10), 11]),
        ({1: disc(8), 5: disc(8)}, list(range(6, 12))),
        ({**first.keys, 11: disc(7)}, []),
        ({**first.keys, 0: disc(7)}, []),
    ):
        model = Scripted(step)
        second = propagate(model, volume(), keys, before=first)
        assert sorted(model.asked) == asked
        assert (second.mask == run(step, keys).mask).all()


def test_slices_come_as_they_are_found_and_the_rest_can_be_cancelled() -> None:
    model = Scripted(follow)
    keys = accept(model, volume(), {5: disc(8)})
    slices = propagate_slices(model, volume(), keys)
    found = [next(slices) for _ in range(3)]
    slices.close()
    assert [outline.index for outline in found] == [5, 6, 4] or [outline.index for outline in found] == [5, 4, 6]
    assert model.asked == [outline.index for outline in found[1:]]
    assert assemble(volume(), "z", keys, found, PropagationRules()).mask.any((1, 2)).sum() == 3


@pytest.mark.parametrize("count", [2, 4, 6, 9])
def test_a_cancelled_result_is_completed(count: int) -> None:
    keys = {3: disc(8), 8: disc(6)}
    expected = run(step, keys)
    slices = propagate_slices(Scripted(step), volume(), keys)
    part = assemble(volume(), "z", keys, [next(slices) for _ in range(count)], PropagationRules())
    assert (run(step, keys, before=part).mask == expected.mask).all()
    assert part.mask.sum() < expected.mask.sum()


@pytest.mark.parametrize(("axis", "order"), [("y", (1, 0, 2)), ("x", (1, 2, 0))])
def test_every_axis_gives_the_same_object(axis: str, order: tuple[int, int, int]) -> None:
    expected = run(step, {2: disc(8), 8: disc(6)})
    turned = volume(volume().voxels.transpose(order).copy())
    result = propagate(Scripted(step), turned, {2: disc(8), 8: disc(6)}, axis=axis)
    assert (result.mask == expected.mask.transpose(order)).all()
    assert result.mask.shape == turned.voxels.shape


def test_a_volume_in_colour_is_as_a_grey_one() -> None:
    keys = {2: disc(8), 8: disc(6)}
    colour = volume()
    colour = vs.Volume(np.repeat(colour.voxels[..., None], 3, 3), colour.geometry, colour.window)
    result = propagate(Scripted(step), colour, keys)
    assert result.mask.shape == (12, 40, 50)
    assert (result.mask == run(step, keys).mask).all()


def test_of_one_slice_the_key_slice_is_all() -> None:
    model = Scripted(follow)
    result = propagate(model, volume(volume().voxels[:1]), {0: disc(8)})
    assert (result.mask == disc(8)).all()
    assert model.asked == []


@pytest.mark.parametrize(
    ("keys", "options", "error", "reason"),
    [
        ({}, {}, PromptError, "no slice has a prompt"),
        ({12: disc(8)}, {}, GeometryError, "slice 12 along z is outside 0 to 11"),
        ({3: disc(8)}, {"axis": "t"}, GeometryError, "no axis 't'"),
        ({3: disc(8)[:30]}, {}, PromptError, r"slice 3 has the shape \(30, 50\)"),
        ({3: disc(8).astype(np.uint8)}, {}, PromptError, "slice 3 has dtype uint8"),
        ({3: vs.Prompt(box=(0, 0, 51, 4))}, {}, PromptError, "reaches outside"),
    ],
)
def test_what_does_not_fit_is_refused(
    keys: dict[int, Any], options: dict[str, Any], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        run(follow, keys, **options)


def test_an_earlier_result_of_another_kind_is_refused() -> None:
    first = run(follow, {5: disc(8)})
    with pytest.raises(GeometryError, match="other rules"):
        run(follow, {5: disc(8)}, before=first, rules=PropagationRules(margin=0.2))


@pytest.fixture(scope="module")
def bundled() -> Predictor:
    return load_model()


@pytest.fixture(scope="module")
def ellipsoid() -> tuple[vs.Volume, Mask]:
    z, y, x = np.mgrid[:12, :32, :36]
    truth = ((z - 6) / 4.5) ** 2 + ((y - 16) / 9) ** 2 + ((x - 18) / 11) ** 2 < 1
    noisy = np.random.default_rng(0).normal(np.where(truth, 150, 80), 12)
    return volume(noisy.clip(0, 255).astype(np.uint8)), truth


@pytest.mark.parametrize(("axis", "middle"), [("z", 6), ("y", 16), ("x", 18)])
def test_the_bundled_model_finds_an_ellipsoid_from_one_box(
    bundled: Predictor, ellipsoid: tuple[vs.Volume, Mask], axis: str, middle: int
) -> None:
    image, truth = ellipsoid
    box = tight_box(np.take(truth, middle, axis="zyx".index(axis)))
    result = propagate(bundled, image, {middle: vs.Prompt(box=box)}, axis=axis)
    assert dice(result.mask, truth) > 0.9
    assert {found.stop.rule for found in result.slices.values() if found.stop} <= {"grey", "contrast"}


def test_more_prompts_find_more_of_it(bundled: Predictor, ellipsoid: tuple[vs.Volume, Mask]) -> None:
    image, truth = ellipsoid
    prompts = {index: vs.Prompt(box=tight_box(truth[index])) for index in (3, 6, 9)}
    assert dice(propagate(bundled, image, prompts).mask, truth) > 0.94
