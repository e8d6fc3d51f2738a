from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vesalius.core.types import Prompt, Slice
from vesalius.evaluation.strategies import STRATEGIES, first_click, predict_strategies
from vesalius.prompts.sample import tight_box

IMAGE = Slice(np.zeros((30, 50), np.uint8))


def square(left: int, top: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros(IMAGE.size, np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


TRUTHS = [square(3, 4, 9), square(30, 10, 15), square(20, 2, 1)]


def generators() -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(len(TRUTHS))]


def right_half(image: Slice, prompt: Prompt) -> NDArray[np.bool_]:
    mask = np.zeros(image.size, np.bool_)
    mask[:, 25:] = True
    return mask


def test_clicks_come_one_at_a_time_on_the_error_with_the_last_logits(make_model: Any) -> None:
    answered: dict[int, Any] = {}
    model = make_model(right_half)
    results = []
    for name, predictions in predict_strategies(model, IMAGE, TRUTHS, generators()):
        results.append(name)
        assert len(predictions) == len(TRUTHS)
        answered[len(results)] = predictions
    assert tuple(results) == STRATEGIES == ("box", "1 point", "3 points", "5 points")
    boxes, *rounds = model.calls
    assert [prompt.box for prompt in boxes] == [tight_box(truth) for truth in TRUTHS]
    assert len(rounds) == 5
    for clicks, prompts in enumerate(rounds, 1):
        for row, (prompt, truth) in enumerate(zip(prompts, TRUTHS, strict=True)):
            assert prompt.box is None
            assert len(prompt.points) == clicks
            x, y = prompt.points.astype(int).T
            assert prompt.labels.tolist() == truth[y, x].tolist()
            assert prompt.labels[0] == 1
            # Corrections lie where the answer, the right half, is wrong.
            assert (truth[y, x] != (x >= 25))[1:].all()
            if clicks == 1:
                assert prompt.logits is None
            else:
                before = rounds[clicks - 2][row]
                assert (prompt.points[:-1] == before.points).all()
                assert prompt.logits is not None
    assert rounds[1][2].logits is answered[2][2].logits
    assert rounds[2][0].logits is not rounds[1][0].logits


def test_first_clicks_do_not_depend_on_the_model(make_model: Any) -> None:
    always_wrong, always_empty = (
        make_model(right_half),
        make_model(lambda image, prompt: np.zeros(image.size, np.bool_)),
    )
    for model in (always_wrong, always_empty):
        list(predict_strategies(model, IMAGE, TRUTHS, generators()))
    for a, b in zip(always_wrong.calls[1], always_empty.calls[1], strict=True):
        assert (a.points == b.points).all()
    assert any((a.points != b.points).any() for a, b in zip(always_wrong.calls[5], always_empty.calls[5], strict=True))


def test_clicks_do_not_depend_on_the_other_objects(make_model: Any) -> None:
    together, alone = make_model(right_half), make_model(right_half)
    list(predict_strategies(together, IMAGE, TRUTHS, generators()))
    list(predict_strategies(alone, IMAGE, TRUTHS[1:2], generators()[1:2]))
    assert (together.calls[5][1].points == alone.calls[5][0].points).all()


def test_a_right_outline_gets_no_more_clicks_and_stays(make_model: Any) -> None:
    def right_from_second_click(image: Slice, prompt: Prompt) -> NDArray[np.bool_]:
        x, y = np.asarray(prompt.points)[0].astype(int) if prompt.box is None else (0, 0)
        truth = next((truth for truth in TRUTHS if truth[y, x]), TRUTHS[0])
        done = len(np.asarray(prompt.points)) >= (2 if truth is TRUTHS[1] else 3)
        return truth if done else ~truth

    model = make_model(right_from_second_click)
    results = dict(predict_strategies(model, IMAGE, TRUTHS, generators()))
    assert [len(prompts) for prompts in model.calls] == [3, 3, 3, 2]
    for name, right in (("1 point", False), ("3 points", True), ("5 points", True)):
        for prediction, truth in zip(results[name], TRUTHS, strict=True):
            assert (prediction.mask == (truth if right else ~truth)).all()


@pytest.mark.parametrize("truth", TRUTHS)
def test_first_click_is_on_the_object(truth: NDArray[np.bool_]) -> None:
    prompt = first_click(truth, np.random.default_rng(3))
    ((x, y),) = np.asarray(prompt.points).astype(int)
    assert truth[y, x]
    assert np.asarray(prompt.labels).tolist() == [1]
