from pathlib import Path

import numpy as np
import pytest
import torch

from vesalius.core.types import Slice
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.models.tiny import PRESET, Tiny, TinyConfig
from vesalius.training.config import TrainConfig
from vesalius.training.loop import Task
from vesalius.training.samples import SampleSource

SMALL = TinyConfig(widths=(8, 8, 16, 16, 16), depths=(1, 1, 1, 1, 1), decoder=(8, 8, 8, 16, 16), key=8)


@pytest.fixture
def small_model() -> Tiny:
    return tiny()


def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny(SMALL, PRESET.model_copy(update={"side": 64, "mask_side": 32}))


def disc_images(count: int, seed: int = 0) -> list[LabelledImage]:
    """Grey noise with a brighter disc, its true mask, and a second object in a corner."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(count):
        y, x = np.mgrid[0:90, 0:120]
        cx, cy, radius = rng.uniform(40, 80), rng.uniform(30, 60), rng.uniform(12, 25)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        corner = (x < 15) & (y < 12)
        grey = 80 + 90 * disc + 60 * corner + rng.normal(0, 8, disc.shape)
        images.append(
            LabelledImage(
                Slice(np.clip(grey, 0, 255).astype(np.uint8)),
                "mr",
                "discs",
                f"case{i}",
                Path(f"{i}.png"),
                [ObjectMask(disc, "disc", 1), ObjectMask(corner, "corner", 2)],
            )
        )
    return images


def discs(model, config: TrainConfig, count: int = 4, **other) -> Task:
    """A task of ``count`` images of discs."""
    return Task(SampleSource(disc_images(count), model.preset, config.samples, config.seed), **other)
