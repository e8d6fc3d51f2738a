"""Samples to batches: which samples a process takes of a step, and in how many parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
import torch

from vesalius.models.presets import Preset
from vesalius.training.config import TrainConfig
from vesalius.training.distributed import World
from vesalius.training.interaction import Batch
from vesalius.training.samples import Sample, SampleSource, batches


def collate(
    samples: Sequence[Sample], numbers: Sequence[int], step: int, preset: Preset, grid: Literal["low", "input"] = "low"
) -> Batch:
    """A batch of samples.

    Args:
        samples: Of the network's own square.
        numbers: Of the samples.
        step: Number of the optimiser's step.
        preset: How the network wants its input.
        grid: As in `InteractionConfig.grid`.
    """
    side = preset.mask_side if grid == "low" else preset.side
    shares = []
    for sample in samples:
        for mask in sample.masks:
            full = mask.astype(np.float32)
            shares.append(full if side == len(full) else cv2.resize(full, (side, side), interpolation=cv2.INTER_AREA))
    return Batch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])),
        content=torch.tensor([sample.content for sample in samples]),
        truth=torch.from_numpy(np.stack(shares))[:, None],
        rows=torch.tensor([i for i, sample in enumerate(samples) for _ in sample.masks]),
        targets=tuple(name for sample in samples for name in sample.targets),
        pseudo=tuple(drawn for sample in samples for drawn in sample.pseudo),
        joined=tuple(whole for sample in samples for whole in sample.joined),
        numbers=tuple(numbers),
        step=step,
    )


def steps(
    source: SampleSource, preset: Preset, config: TrainConfig, first: int, end: int, world: World
) -> Iterator[tuple[int, list[Batch]]]:
    """This process's batches of the steps from ``first`` to before ``end``, drawn ahead of their use.

    Step s is made of the samples s * images to (s + 1) * images - 1, whatever the number of processes and parts. Shares
    and parts may differ by an image, but all processes have as many parts, of an image or more: they meet at the last.
    """
    drawn = batches(source, first, end, config.images, config.workers, (world.rank, world.size))
    for step, samples in enumerate(drawn, start=first):
        numbers = list(range(step * config.images + world.rank, (step + 1) * config.images, world.size))
        edges = [len(samples) * part // config.accumulate for part in range(config.accumulate + 1)]
        yield (
            step,
            [collate(samples[a:b], numbers[a:b], step, preset, config.interaction.grid) for a, b in pairwise(edges)],
        )
