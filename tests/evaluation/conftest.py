from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vesalius.core.frame import Frame
from vesalius.core.types import Logits, Prediction, Prompt, Slice
from vesalius.models.runtime import SPATIAL

Answer = Callable[[Slice, Prompt], NDArray[np.bool_]]


class FakeModel:
    """A model that answers as told and remembers what it was asked: one list of prompts per call."""

    def __init__(self, answer: Answer, name: str = "fake", digest: str = "0123") -> None:
        self.runs_by = "hand"
        self.takes = SPATIAL
        self.answer, self.name, self.digest = answer, name, digest
        self.encoded: list[str] = []
        self.calls: list[list[Prompt]] = []

    def encode(self, image: Slice) -> Slice:
        self.encoded.append(image.source.stem if image.source else "")
        return image

    def predict(self, embedding: Slice, prompts: Sequence[Prompt]) -> list[Prediction]:
        self.calls.append(list(prompts))
        logits = [Logits(np.zeros((8, 8), np.float32), Frame.stretch(embedding.size, 32)) for _ in prompts]
        masks = [self.answer(embedding, prompt) for prompt in prompts]
        return [Prediction(mask, 0.25, low) for mask, low in zip(masks, logits, strict=True)]


def write_set(folder: Path, cases: Sequence[str], modality: str = "mr", images_per_case: int = 2) -> None:
    """A paired set of 40 x 60 pictures with three bright objects of two kinds each."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for case in cases:
        for number in range(images_per_case):
            rng = np.random.default_rng([number, *case.encode()])
            labels = np.zeros((40, 60), np.uint8)
            for value, left in ((1, 2), (2, 22), (2, 42)):
                top, width, height = rng.integers(2, 12), rng.integers(6, 15), rng.integers(8, 25)
                labels[top : top + height, left : left + width] = value
            pixels = np.where(labels > 0, 170, 60) + rng.integers(0, 20, labels.shape)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{case}_{number}.png")
            Image.fromarray(labels).save(folder / "labels" / f"{case}_{number}.png")
    about = {"labels": {"1": "bar", "2": "block"}, "cases": len(cases), "instances": False, "modality": modality}
    (folder / "set.json").write_text(json.dumps(about), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sets with images of the same names; of their eight cases, some are in the validation split."""
    folder = tmp_path / "data"
    cases = [f"p{number}" for number in range(8)]
    write_set(folder / "first", cases)
    write_set(folder / "second", cases, modality="ct")
    return folder


@pytest.fixture
def make_model() -> type[FakeModel]:
    return FakeModel
