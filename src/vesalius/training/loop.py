"""The training loop: resumable, seeded, one step after the other."""

from __future__ import annotations

import copy
import csv
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

import vesalius
from vesalius.core.config import Config
from vesalius.core.errors import ConfigError, VesaliusError
from vesalius.core.files import replacing
from vesalius.corpus.objects import LabelledImage
from vesalius.models.base import SegmentationModel, normalise
from vesalius.models.presets import Preset
from vesalius.training.dataset import AugmentConfig, Sample, SampleSource
from vesalius.training.interaction import InteractionConfig, interactive_loss


class TrainConfig(Config):
    """Everything that decides a training run.

    Attributes:
        model: Architecture configuration of the network, as the network itself documents it.
        steps: Optimiser steps of the whole schedule.
        stop: Step to stop at, before the schedule ends; None to go through with it.
        images: Images per step.
        rate: Peak learning rate; it rises over ``warmup`` steps and falls as a cosine to zero.
        warmup: Steps to the peak.
        decay: Weight decay (AdamW).
        ema: Decay of the running average of the weights, which is what is kept.
        clip: Largest gradient norm.
        bf16: Whether the forward pass runs under bfloat16 autocast.
        balance: A data set of n images is drawn with a weight of n to this power.
        seed: Seed of everything random.
        save_every: Steps between checkpoints.
        augment: How samples are drawn.
        interaction: The rounds of prompts.
    """

    steps: int
    stop: int | None = None
    model: dict[str, Any] = Field(default_factory=dict)
    images: int = 8
    rate: float = 2e-3
    warmup: int = 200
    decay: float = 0.05
    ema: float = 0.999
    clip: float = 1.0
    bf16: bool = True
    balance: float = 0.5
    seed: int = 0
    save_every: int = 250
    augment: AugmentConfig = AugmentConfig()
    interaction: InteractionConfig = InteractionConfig()


def train(
    model: SegmentationModel, images: Sequence[LabelledImage], config: TrainConfig, output: Path, device: str = "cpu"
) -> SegmentationModel:
    """Trains a network and returns the running average of its weights.

    A folder that holds an unfinished run of the same configuration is taken up where it stopped; the result is the
    one that an undisturbed run gives.

    Args:
        model: The network, changed in place.
        images: Training images.
        config: The run.
        output: Folder for ``state.pt`` (to resume), ``log.csv`` and ``run.json``.
        device: Where to train.

    Raises:
        ConfigError: The folder holds a run of another configuration.
        VesaliusError: The loss is no longer a finite number; the last good state is kept.
    """
    output.mkdir(parents=True, exist_ok=True)
    preset = model.preset
    source = SampleSource(images, preset.side, config.augment, config.seed, config.balance)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(_parameter_groups(model, config.decay), lr=config.rate, betas=(0.9, 0.98))
    start = _resume(output, config, model, average, optimiser, device)
    end = config.stop or config.steps

    def batch(step: int) -> list[Sample]:
        return [source[step * config.images + i] for i in range(config.images)]

    model.train()
    recent: list[tuple[float, list[float]]] = []
    clock = time.perf_counter()
    with ThreadPoolExecutor(1) as pool, _progress() as progress:
        task = progress.add_task("train", total=end, completed=start)
        ahead = pool.submit(batch, start)
        for step in range(start, end):
            samples = ahead.result()
            if step + 1 < end:
                ahead = pool.submit(batch, step + 1)
            for group in optimiser.param_groups:
                group["lr"] = config.rate * _schedule(step, config)
            rng = np.random.default_rng((config.seed, step, 1))
            pixels, truth, rows = _tensors(samples, preset)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.bf16):
                features = model.encode(pixels.to(device))
                loss, ious = interactive_loss(
                    model, features, truth.to(device), rows.to(device), config.interaction, rng
                )
            if not math.isfinite(loss.item()):
                raise VesaliusError(
                    f"the loss became {loss.item()} at step {step}", path=output, remedy="lower the learning rate"
                )
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimiser.step()
            _average(average, model, min(config.ema, (step + 1) / (step + 10)))
            recent.append((loss.item(), ious))
            progress.update(task, completed=step + 1, description=f"loss {loss.item():.3f}")
            if (step + 1) % config.save_every == 0 or step + 1 == end:
                seconds, clock = time.perf_counter() - clock, time.perf_counter()
                _log(output / "log.csv", step + 1, recent, seconds)
                recent = []
                _save(output, config, step + 1, model, average, optimiser)
    return average


def _tensors(samples: list[Sample], preset: Preset) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images (B, 3, S, S), low-resolution truth (N, 1, h, h), and the image of each object (N,)."""
    pixels = normalise(torch.from_numpy(np.stack([sample.image for sample in samples])), preset)
    side = (preset.mask_side, preset.mask_side)
    low = [
        cv2.resize(mask.astype(np.float32), side, interpolation=cv2.INTER_AREA)
        for sample in samples
        for mask in sample.masks
    ]
    rows = [i for i, sample in enumerate(samples) for _ in sample.masks]
    return pixels, torch.from_numpy(np.stack(low))[:, None], torch.tensor(rows)


def _schedule(step: int, config: TrainConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup)))


def _parameter_groups(model: SegmentationModel, decay: float) -> list[dict[str, Any]]:
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()
def _average(average: SegmentationModel, model: SegmentationModel, decay: float) -> None:
    for kept, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(now, 1 - decay)
        else:
            kept.copy_(now)


def _save(
    output: Path,
    config: TrainConfig,
    step: int,
    model: SegmentationModel,
    average: SegmentationModel,
    optimiser: torch.optim.Optimizer,
) -> None:
    state = {
        "step": step,
        "config": config.model_dump_json(),
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    with replacing(output / "state.pt") as partial:
        torch.save(state, partial)
    run = {"version": vesalius.__version__, "torch": torch.__version__, "step": step, "config": config.model_dump()}
    with replacing(output / "run.json") as partial:
        partial.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def _resume(
    output: Path,
    config: TrainConfig,
    model: SegmentationModel,
    average: SegmentationModel,
    optimiser: torch.optim.Optimizer,
    device: str,
) -> int:
    path = output / "state.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    if state["config"] != config.model_dump_json():
        raise ConfigError("holds a run of another configuration", path=output, remedy="choose another folder")
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _log(path: Path, step: int, recent: list[tuple[float, list[float]]], seconds: float) -> None:
    rounds = np.mean([ious for _, ious in recent], axis=0)
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["step", "loss", *(f"iou_round_{i + 1}" for i in range(len(rounds))), "seconds"])
        loss = np.mean([value for value, _ in recent])
        writer.writerow([step, f"{loss:.4f}", *(f"{value:.4f}" for value in rounds), f"{seconds:.1f}"])


def _progress() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
