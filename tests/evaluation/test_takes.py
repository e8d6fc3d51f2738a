from typing import Any

import numpy as np
import pytest

from made_specialists import specialist
from vesalius.core.types import Prompt, Slice
from vesalius.evaluation.protocols import Strategy
from vesalius.evaluation.strategies import predict_strategies
from vesalius.evaluation.subjects import ModelSubject
from vesalius.models.torch_runtime import TorchRuntime
from vesalius.predict.predictor import Predictor

IMAGE = Slice(np.zeros((30, 50), np.uint8))
BOX, CLICK, NAME = Prompt(box=(1, 1, 9, 9)), Prompt(points=[(3, 3)]), Prompt(text="disc")


@pytest.mark.parametrize(
    ("takes", "strategies"),
    [({"box"}, ["box"]), ({"points", "mask"}, ["1 point", "3 points", "5 points"]), ({"points"}, []), ({"text"}, [])],
)
def test_a_model_is_measured_under_what_it_takes(takes: set[str], strategies: list[str], make_model: Any) -> None:
    truth = np.zeros(IMAGE.size, np.bool_)
    truth[5:9, 5:9] = True
    model = make_model(lambda image, prompt: ~truth)
    model.takes = frozenset(takes)
    found = predict_strategies(model, IMAGE, [truth], [np.random.default_rng(0)])
    assert [name for name, _ in found] == strategies


@pytest.mark.parametrize(
    ("words", "able", "reasons"),
    [
        ((), BOX, {CLICK: "it takes no points", NAME: "it takes no words"}),
        (("disc",), NAME, {CLICK: "it takes no points", BOX: "it takes no boxes"}),
    ],
)
def test_what_a_specialist_cannot_do_is_a_reason(words: Any, able: Prompt, reasons: dict[Prompt, str]) -> None:
    subject = ModelSubject(Predictor(TorchRuntime(specialist("deeplab", words)), "deeplab"))
    strategy = Strategy(protocol="cosmos", name="x")
    assert subject.cannot(strategy, able) is None
    for prompt, reason in reasons.items():
        assert subject.cannot(strategy, prompt) == reason
    assert "everything mode" in str(subject.cannot(strategy, None))
