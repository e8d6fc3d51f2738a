"""Everything that decides a training run; recipes are such configurations as TOML."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vesalius.core.config import Config
from vesalius.models.tuning import Tuning
from vesalius.training.interaction import InteractionConfig
from vesalius.training.losses import LossConfig
from vesalius.training.samples import SampleConfig


class NetworkConfig(Config):
    """The network that is trained.

    Attributes:
        start: What it starts from, if nothing else is given: a model's name, a checkpoint, or None for a new network.
        architecture: Of a new network: a key of `vesalius.models.checkpoint.ARCHITECTURES`.
        sizes: Of a new network, as the network itself documents them; one of vesalius-tiny's kind that is trained
            already grows to its ``depths``, ``deeper`` and ``fine``.
        words: Whether the names of the targets that are trained on are learnt, as ``sizes.words``, by a new network or
            by one of vesalius-tiny's kind; one that takes words already keeps its own.
        preset: How it wants its input: a key of `vesalius.models.presets.PRESETS`; None for what the start says.
        tuning: What is attached to it and which parameters train: a key of `vesalius.models.tuning.TUNINGS`, or a
            table of its own.
    """

    start: str | None = None
    architecture: str = "tiny"
    sizes: dict[str, Any] = Field(default_factory=dict)
    words: bool = False
    preset: str | None = None
    tuning: str | Tuning = "full"


class TrainConfig(Config):
    """A training run.

    Attributes:
        steps: Optimiser steps of the whole schedule; or
        epochs: Times that as many images are drawn as there are to train on.
        stop: Step to stop at, before the schedule ends; None to go through with it. Nothing is measured there that
            would not be measured without.
        images: Images per step, of all processes and parts.
        accumulate: Parts of a step, whose gradients are added up, to save memory.
        optimiser: Adam, or AdamW with decay of the weights that are not vectors.
        rate: Peak learning rate.
        betas: Of the optimiser.
        decay: Weight decay of AdamW.
        schedule: After the warm-up, ``cosine`` to zero, ``constant``, or ``halved`` after some epochs.
        halve: The epochs after which the rate is halved.
        warmup: Steps to the peak.
        clip: Largest norm of the gradient; None for no limit.
        ema: Decay of the running average of the weights, which is what is kept; 0 for the weights themselves.
        bf16: Whether the forward pass runs under bfloat16 autocast.
        checkpointing: Whether the image encoder's blocks are computed twice to save memory.
        cache: Whether image features are computed once and kept: in ``memory`` or on ``disk``.
        workers: Processes that make samples; 0 for a thread.
        collapse: Steps in a row in which no mask has a pixel, after which the run stops.
        seed: Seed of everything random.
        save_every: Steps between checkpoints and rows of the log.
        validate_every: Steps between validations; None for each epoch.
        patience: Validations in a row without a higher Dice than the highest so far, that of the untouched network
            included, after which the run stops; None to go through with it.
        half: Whether trained networks are stored in float16.
        network: What is trained.
        samples: How samples are drawn.
        interaction: The rounds of prompts.
        loss: The loss.
    """

    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    stop: PositiveInt | None = None
    images: PositiveInt = 8
    accumulate: PositiveInt = 1
    optimiser: Literal["adam", "adamw"] = "adamw"
    rate: PositiveFloat = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    decay: NonNegativeFloat = 0.01
    schedule: Literal["cosine", "constant", "halved"] = "constant"
    halve: tuple[PositiveFloat, ...] = ()
    warmup: NonNegativeInt = 0
    clip: PositiveFloat | None = None
    ema: float = Field(default=0.0, ge=0, lt=1)
    bf16: bool = False
    checkpointing: bool = False
    cache: Literal["none", "memory", "disk"] = "none"
    workers: NonNegativeInt = 0
    collapse: PositiveInt = 200
    seed: NonNegativeInt = 0
    save_every: PositiveInt = 250
    validate_every: PositiveInt | None = None
    patience: PositiveInt | None = None
    half: bool = False
    network: NetworkConfig = NetworkConfig()
    samples: SampleConfig = SampleConfig.model_validate({})
    interaction: InteractionConfig = InteractionConfig()
    loss: LossConfig = LossConfig()

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if (self.schedule == "halved") != bool(self.halve):
            raise ValueError('schedule = "halved" and halve belong together')
        if self.samples.joined and not self.interaction.first.text:
            raise ValueError("samples.joined asks by name, which needs interaction.first.text")
        if self.images % self.accumulate:
            raise ValueError("images is not a multiple of accumulate")
        if self.cache != "none" and self.samples.augment:
            raise ValueError("cache keeps features of images as they are, which needs samples.augment = false")
        return self

    def total_steps(self, count: int) -> int:
        """Steps of the whole schedule, with ``count`` images to train on."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * count / self.images))

    def rate_at(self, step: int, count: int) -> float:
        """Learning rate of a step, from 0 on, with ``count`` images to train on."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        if self.schedule == "halved":
            done = step * self.images / count
            return self.rate * 0.5 ** sum(done >= epoch for epoch in self.halve)
        if self.schedule == "constant":
            return self.rate
        part = (step - self.warmup) / max(1, self.total_steps(count) - self.warmup)
        return self.rate * 0.5 * (1 + math.cos(math.pi * part))
