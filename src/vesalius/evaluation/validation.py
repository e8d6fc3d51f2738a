"""Measuring a network while it is trained."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean

from vesalius.corpus.objects import LabelledImage
from vesalius.evaluation.evaluate import generator_of, image_name
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
        max_objects: Of an image, no more objects than this.
        strategies: Prompts whose mean decides.

    Returns:
        A function of a network to its mean Dice under each prompt, ``dice`` being the mean of those that decide; sets
        count equally, whatever their number of objects.
    """

    def validate(model: SegmentationModel) -> dict[str, float]:
        # What runs a network changes it for inference alone.
        predictor = Predictor(TorchRuntime(copy.deepcopy(model), device), "training")
        scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for labelled in images:
            objects = [entry for entry in labelled.masks if entry.mask.any()][:max_objects]
            if not objects:
                continue
            generators = [generator_of(0, image_name(labelled), entry.instance) for entry in objects]
            embedding = predictor.encode(labelled.image)
            truths = [entry.mask for entry in objects]
            for strategy, found in predict_strategies(predictor, embedding, truths, generators):
                values = [dice(one.mask, truth) for one, truth in zip(found, truths, strict=True)]
                scores[strategy][labelled.dataset] += values
        figures = {strategy: fmean(fmean(values) for values in sets.values()) for strategy, sets in scores.items()}
        decisive = fmean(figures[strategy] for strategy in strategies)
        return {"dice": decisive, **{name.replace(" ", "_"): value for name, value in figures.items()}}

    return validate
