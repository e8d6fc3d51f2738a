"""Measuring a network while it is trained."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from math import nan
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import PromptError
from vesalius.core.types import Prompt
from vesalius.corpus.objects import LabelledImage
from vesalius.evaluation.engine import scene_of
from vesalius.evaluation.images import name_of
from vesalius.evaluation.prompts import generator_of
from vesalius.evaluation.scores import image_name
from vesalius.evaluation.strategies import STRATEGIES, predict_strategies
from vesalius.metrics.overlap import dice
from vesalius.models.base import SegmentationModel
from vesalius.models.torch_runtime import TorchRuntime
from vesalius.predict.predictor import Predictor


def validation(
    images: Sequence[LabelledImage],
    device: str = "cpu",
    max_objects: int = 5,
    strategies: Sequence[str] = STRATEGIES,
) -> Callable[[SegmentationModel], dict[str, float]]:
    """Measures networks by the protocol of `vesalius evaluate` on some images.

    Args:
        images: The images.
        device: Where to compute.
        max_objects: Of an image with more objects, this many are drawn, as `vesalius evaluate` draws them.
        strategies: Prompts whose mean decides.

    Returns:
        A function of a network to its mean Dice under each prompt that it takes, ``dice`` being the mean of those that
        decide; sets count equally, whatever their number of objects. A network that takes names alone is measured on
        all objects of a target together, for each target that it knows. ``dice`` is NaN if nothing can be asked.
    """

    def validate(model: SegmentationModel) -> dict[str, float]:
        # What runs a network changes it for inference alone.
        predictor = Predictor(TorchRuntime(copy.deepcopy(model), device), "training")
        scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for labelled in images:
            objects = scene_of(name_of(labelled), labelled, None, 0, max_objects).labelled.masks
            if not objects:
                continue
            if predictor.takes == {"text"}:
                for mask, truth in _named(predictor, model, labelled):
                    scores["text"][labelled.dataset].append(dice(mask, truth))
                continue
            generators = [generator_of(0, image_name(labelled), entry.instance) for entry in objects]
            embedding = predictor.encode(labelled.image)
            truths = [entry.mask for entry in objects]
            for strategy, found in predict_strategies(predictor, embedding, truths, generators):
                values = [dice(one.mask, truth) for one, truth in zip(found, truths, strict=True)]
                scores[strategy][labelled.dataset] += values
        figures = {strategy: fmean(fmean(values) for values in sets.values()) for strategy, sets in scores.items()}
        decisive = [value for strategy, value in figures.items() if strategy in (*strategies, "text")]
        return {
            "dice": fmean(decisive) if decisive else nan,
            **{name.replace(" ", "_"): value for name, value in figures.items()},
        }

    return validate


def _named(
    predictor: Predictor, model: SegmentationModel, labelled: LabelledImage
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Masks found by name, and true ones, of an image's targets that a network knows."""
    truths: dict[str, NDArray[np.bool_]] = {}
    for entry in (entry for entry in labelled.masks if not entry.pseudo):
        truths[entry.target] = truths.get(entry.target, np.zeros_like(entry.mask)) | entry.mask
    known = {name: truth for name, truth in truths.items() if name and truth.any() and _knows(model, name)}
    found = predictor.predict(predictor.encode(labelled.image), [Prompt(text=name) for name in known])
    for prediction, truth in zip(found, known.values(), strict=True):
        yield prediction.mask, truth


def _knows(model: SegmentationModel, name: str) -> bool:
    try:
        model.embed_text([name])
    except PromptError:
        return False
    return True
