"""The prompts under which a model is measured: SAM-Med2D's protocol.

A tight box; or clicks, one at a time: the first on a random pixel of the object, each further one on a random pixel
where the last outline is wrong. From the second click on, the model gets all clicks so far and the low-resolution
logits of its last outline (SAM-Med2D, section 4.2A). An outline without an error gets no further click.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vesalius.core.types import Part, Prediction, Prompt, Slice
from vesalius.prompts.sample import error_points, random_point, tight_box

CLICKS = {"1 point": 1, "3 points": 3, "5 points": 5}
STRATEGIES = ("box", *CLICKS)


class Promptable(Protocol):
    """Whatever can be measured: it encodes an image once and answers many prompts.

    Attributes:
        name: Name under which results are listed.
        digest: Digest of the weights, which tells two models of one name apart.
        runs_by: What computes it, such as ``"torch fp32"``.
        takes: Parts of prompts that it takes.
    """

    name: str
    digest: str
    runs_by: str
    takes: frozenset[Part]

    def encode(self, image: Slice, /) -> Any:
        """What the model keeps of an image."""
        ...

    def predict(self, embedding: Any, prompts: Sequence[Prompt], /) -> list[Prediction]:
        """One prediction per prompt, in order."""
        ...


def first_click(truth: NDArray[np.bool_], rng: np.random.Generator) -> Prompt:
    """One click on a random pixel of the object."""
    return Prompt(points=[random_point(truth, rng)])


def next_click(
    prompt: Prompt, prediction: Prediction, truth: NDArray[np.bool_], rng: np.random.Generator
) -> Prompt | None:
    """The prompt with one more click, on a random pixel where the prediction is wrong; None if it is right."""
    points, labels = error_points(prediction.mask, truth, 1, rng)
    if not len(points):
        return None
    return Prompt(
        points=np.concatenate([np.asarray(prompt.points), points]),
        labels=np.concatenate([np.asarray(prompt.labels), labels]),
        logits=prediction.logits,
    )


def predict_strategies(
    model: Promptable,
    embedding: Any,
    truths: Sequence[NDArray[np.bool_]],
    generators: Sequence[np.random.Generator],
) -> Iterator[tuple[str, list[Prediction]]]:
    """Predicts the objects of one image under every strategy, all objects in one batch.

    Args:
        model: The model.
        embedding: What it made of the image.
        truths: The objects' true masks, (H, W) bool, none empty.
        generators: One per object; the first click is its first draw, so it is the same for every model.

    Yields:
        Each of `STRATEGIES` that the model can do, with one prediction per object.
    """
    if "box" in model.takes:
        yield "box", model.predict(embedding, [Prompt(box=tight_box(truth)) for truth in truths])
    if not model.takes >= {"points", "mask"}:
        return
    prompts = [first_click(truth, rng) for truth, rng in zip(truths, generators, strict=True)]
    predictions = model.predict(embedding, prompts)
    names = {clicks: name for name, clicks in CLICKS.items()}
    for clicks in range(1, max(names) + 1):
        if clicks > 1:
            wrong = []
            for row, truth in enumerate(truths):
                following = next_click(prompts[row], predictions[row], truth, generators[row])
                if following is not None:
                    prompts[row] = following
                    wrong.append(row)
            if wrong:
                corrected = model.predict(embedding, [prompts[row] for row in wrong])
                for row, prediction in zip(wrong, corrected, strict=True):
                    predictions[row] = prediction
        if clicks in names:
            yield names[clicks], list(predictions)
