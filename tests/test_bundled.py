"""The bundled model on real images: what the README promises, against references that need no model."""

import json

import numpy as np
import pytest

import vesalius as vs
from vesalius.core.files import file_digest
from vesalius.demo import CASES, read_case
from vesalius.evaluation.baselines import ellipse
from vesalius.metrics.overlap import dice
from vesalius.models.words import rows_of
from vesalius.predict.load import BUNDLED, DEFAULT
from vesalius.predict.predictor import Predictor
from vesalius.vocabulary.targets import target_of


@pytest.fixture(scope="module")
def model() -> Predictor:
    return vs.load_model()


def outline(model: Predictor, name: str) -> tuple[vs.Slice, list[vs.Prediction]]:
    (case,) = (case for case in CASES if case.name == name)
    image = read_case(case)
    return image, model.predict(model.encode(image), case.prompts)


def test_it_is_small_and_whole() -> None:
    weights = BUNDLED / DEFAULT / "model.safetensors"
    assert weights.stat().st_size < 16e6
    assert file_digest(weights) in (BUNDLED / DEFAULT / "config.json").read_text()
    assert file_digest(weights) in (BUNDLED / DEFAULT / "README.md").read_text(encoding="utf-8")


def test_it_understands_the_vocabulary_s_names_of_its_words(model: Predictor) -> None:
    known = json.loads((BUNDLED / DEFAULT / "config.json").read_text())["config"]["words"]
    names = [target_of(word).name for word in known]
    assert len(set(names)) == len(known) > 60
    assert rows_of(names, known) == list(range(len(known)))
    image = np.zeros((64, 64), np.uint8)
    by_name, by_word = model.predict(model.encode(image), [vs.Prompt(text="airway"), vs.Prompt(text="airways")])
    assert by_name.quality == by_word.quality


@pytest.mark.parametrize(("name", "bright"), [("bladder", 200), ("cell", 120)])
def test_bright_objects_are_outlined_at_their_edge(model: Predictor, name: str, bright: int) -> None:
    image, (prediction,) = outline(model, name)
    grey = image.rgb()[:, :, 0]
    rows, columns = np.nonzero(prediction.mask)
    near = np.s_[max(0, rows.min() - 5) : rows.max() + 6, max(0, columns.min() - 5) : columns.max() + 6]
    assert dice(prediction.mask[near], grey[near] > bright) > 0.9


def test_a_correction_improves_the_outline(model: Predictor) -> None:
    # Two halves of different grey: the first click cannot tell that both are meant.
    y, x = np.mgrid[0:256, 0:256]
    truth = (x - 128) ** 2 + (y - 128) ** 2 < 70**2
    grey = np.random.default_rng(0).normal(60 + 60 * truth + 80 * (truth & (x > 128)), 6)
    embedding = model.encode(np.clip(grey, 0, 255).astype(np.uint8))
    (first,) = model.predict(embedding, [vs.Prompt(points=[(90, 130)])])
    prompt, last = vs.Prompt(points=[(90, 130)]), first
    for _ in range(3):
        rows, columns = np.nonzero(last.mask ^ truth)
        middle = len(rows) // 2
        click = (int(columns[middle]), int(rows[middle]))
        prompt = vs.Prompt(
            points=[*np.asarray(prompt.points), click],
            labels=[*np.asarray(prompt.labels), int(truth[click[1], click[0]])],
            logits=last.logits,
        )
        (last,) = model.predict(embedding, [prompt])
    assert dice(first.mask, truth) < 0.9
    assert dice(last.mask, truth) > 0.9


def test_a_box_gives_more_than_its_ellipse(model: Predictor) -> None:
    """A half disc fills its box otherwise than an ellipse does."""
    y, x = np.mgrid[0:256, 0:256]
    truth = ((x - 128) ** 2 + (y - 90) ** 2 < 80**2) & (y > 90)
    grey = np.random.default_rng(1).normal(100 + 60 * truth, 5)
    box = (49, 91, 208, 170)
    embedding = model.encode(np.clip(grey, 0, 255).astype(np.uint8))
    (prediction,) = model.predict(embedding, [vs.Prompt(box=box)])
    assert dice(prediction.mask, truth) > dice(ellipse(embedding.rgb, box), truth) + 0.03


def test_it_takes_words_by_all_their_names(model: Predictor) -> None:
    (case,) = (case for case in CASES if case.name == "retina_disc")
    image = read_case(case)
    asked = [vs.Prompt(text=word) for word in ("optic disc", "Optic disk", "retinal vessels", "liver")]
    by_torch = vs.load_model(runtime="torch")
    answers = [one.predict(one.encode(image), asked) for one in (model, by_torch)]
    for exported, truth in zip(*answers, strict=True):
        assert (exported.mask != truth.mask).mean() < 1e-3
    same, synonym, *others = answers[0]
    assert np.array_equal(same.mask, synonym.mask)
    assert all((same.mask != other.mask).any() for other in others)
    with pytest.raises(vs.VesaliusError, match=r"not trained on 'right kidney'.*say kidney or kidney tumour$"):
        model.predict(model.encode(image), [vs.Prompt(text="right kidney")])
