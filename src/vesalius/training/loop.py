"""The training loop: resumable, seeded, one step after the other."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vesalius.core.errors import ConfigError, VesaliusError, WriteError
from vesalius.core.files import locked, make_folder, remove_stand_ins, replacing
from vesalius.models.base import SegmentationModel
from vesalius.models.checkpoint import save_checkpoint
from vesalius.models.lora import has_lora, merge_lora
from vesalius.models.sam.model import Sam
from vesalius.models.tuning import counts
from vesalius.training.batches import collate, steps
from vesalius.training.config import TrainConfig
from vesalius.training.distributed import World
from vesalius.training.embeddings import FeatureCache, frozen_digest
from vesalius.training.interaction import Batch, InteractiveStep
from vesalius.training.monitor import LOG, PREDICTIONS, VALIDATION, Monitor, check_folder, contact_sheet, write_run
from vesalius.training.samples import SampleSource

STATE, BEST, FEATURES, _LOCK = "state.pt", "best", "features", ".lock"

# Settings that a run may be continued with other values of.
_FREE: dict[str, Any] = {"stop": True, "workers": True, "cache": True, "samples": {"memory"}}
# What is told of a run beside digests, which say whether it is the same.
_TOLD = {"corpus", "model", "seen_before", "trained_on"}
# Samples on a contact sheet.
_SHOWN = 8

# Measures a network: names of figures and their values, of which "dice" decides which network is the best.
Validation = Callable[[SegmentationModel], Mapping[str, float]]


@dataclass(frozen=True)
class Task:
    """What a run works on, besides its configuration.

    Attributes:
        source: Samples to train on.
        names: Names of all categories, for networks that tell what a mask shows.
        validate: Measures the network now and then.
        about: What else ``run.json`` shall tell, such as the corpus; a resumed run must tell the same, but for where
            the ``corpus`` and the ``model`` are and which cases these have and had seen, as it tells the digests of
            both.
    """

    source: SampleSource
    names: Sequence[str] = ()
    validate: Validation | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Images in an epoch."""
        return len(self.source)


def train(
    model: SegmentationModel,
    task: Task,
    config: TrainConfig,
    output: Path,
    world: World | None = None,
    resume: bool = True,
) -> SegmentationModel:
    """Trains those parameters of a network that ask for a gradient, and leaves the others as they are.

    With ``patience``, the network is validated as it comes in too, which may be found the best.

    A folder that holds an unfinished run of the same configuration, network and task is taken up where it stopped; the
    result is the one that an undisturbed run gives.

    Args:
        model: The network as it was at the start, changed in place.
        task: What is trained on.
        config: The run.
        output: Folder for ``state.pt`` (to resume), ``log.csv``, ``validation.csv``, ``run.json``, contact sheets and
            the checkpoint ``best``.
        world: The processes; this one alone on the CPU if None.
        resume: Whether a run that is there already is continued.

    Returns:
        The network, with the running average of its weights if the configuration has one.

    Raises:
        ConfigError: The folder holds a run, or that of another configuration; or the configuration does not fit, such
            as ``patience`` where nothing validates, or validation can measure nothing.
        VesaliusError: The loss is no longer a finite number, or all masks are empty; the last good state is kept, and
            the batch is in ``bad_batch.pt``.
        WriteError: Another process trains into the folder, it cannot be made, or it has files of another kind under
            the names of these.
    """
    return _Run(model, task, config, output, world or World()).go(resume)


class Average:
    """The running average of what trains, and of the network's buffers.

    Args:
        model: The network.
        decay: If 0, the average is the network itself.
    """

    def __init__(self, model: SegmentationModel, decay: float) -> None:
        self.values = {name: value.clone() if decay else value for name, value in moving(model).items()}

    @torch.no_grad()
    def update(self, model: SegmentationModel, decay: float) -> None:
        """Moves towards the network as it is now."""
        for name, now in moving(model).items():
            if now.is_floating_point():
                self.values[name].lerp_(now, 1 - decay)
            else:
                self.values[name].copy_(now)

    @contextmanager
    def applied(self, model: SegmentationModel) -> Iterator[None]:
        """A block in which the network has the average's values."""
        now = {name: value.clone() for name, value in moving(model).items()}
        load(model, self.values)
        try:
            yield
        finally:
            load(model, now)


def moving(model: SegmentationModel) -> dict[str, Tensor]:
    """The parameters that train, and the buffers: all that a step may change."""
    trained = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    return {**trained, **dict(model.named_buffers())}


@torch.no_grad()
def load(model: SegmentationModel, values: Mapping[str, Tensor]) -> None:
    """Gives what `moving` names these values.

    Raises:
        ConfigError: They are of other parameters.
    """
    now = moving(model)
    if {k: v.shape for k, v in now.items()} != {k: v.shape for k, v in values.items()}:
        raise ConfigError("the parameters that train are not those of the run")
    for name, value in now.items():
        value.copy_(values[name])


def checkpoint(model: SegmentationModel, folder: Path, half: bool = False) -> None:
    """Saves a network as a checkpoint, low-rank updates merged; see `save_checkpoint`."""
    if has_lora(model):
        model = copy.deepcopy(model)
        merge_lora(model)
    save_checkpoint(model, folder, half=half)


class _Run:
    """One run: what its steps share."""

    def __init__(self, model: SegmentationModel, task: Task, config: TrainConfig, output: Path, world: World) -> None:
        self.task, self.config, self.output, self.world = task, config, output, world
        if config.images < config.accumulate * world.size:
            raise ConfigError(
                f"{world.size} processes need {config.accumulate * world.size} images per step, and the recipe has "
                f"{config.images}",
                remedy=f"start at most {config.images // config.accumulate}, or raise images in the recipe",
            )
        self.device = torch.device(world.device)
        self.steps = config.total_steps(task.count)
        self.end = min(config.stop or self.steps, self.steps)
        self.epoch = max(1, math.ceil(task.count / config.images))
        if config.checkpointing:
            if not isinstance(model, Sam):
                raise ConfigError(f"checkpointing is for SAM networks, not for {model.architecture!r}")
            model.image_encoder.checkpointing = True
        self.model: SegmentationModel = model.to(self.device)
        self.trained = [value for value in model.parameters() if value.requires_grad]
        if not self.trained:
            raise ConfigError("no parameter of the network trains", remedy="choose another network.tuning")
        # Before anything changes: a resumed run starts from the same network.
        self.identity = json.dumps(
            {
                "config": _fixed(config),
                # An image encoded by itself has other last bits than one encoded beside others.
                "features kept": config.cache != "none",
                "count": task.count,
                "processes": world.size,
                "names": list(task.names),
                "frozen": frozen_digest(model),
                "about": {key: value for key, value in task.about.items() if key not in _TOLD},
            },
            sort_keys=True,
        )
        self.step = InteractiveStep(model, config.interaction, config.loss, config.seed, task.names)
        self.wrapped = world.wrap(self.step)
        self.average = Average(model, config.ema)
        self.optimiser = optimiser_of(model, config)
        self.cache = None
        if config.cache != "none":
            folder = output / FEATURES if config.cache == "disk" else None
            self.cache = FeatureCache(model, str(config.bf16), folder)
        self.done, self.best, self.empty, self.waited = 0, -math.inf, 0, 0
        self.saved = 0

    def go(self, resume: bool) -> SegmentationModel:
        """Takes all steps."""
        # The other processes leave validation to the first one.
        if self.config.patience is not None and self.task.validate is None and self.world.is_first:
            raise ConfigError(
                f"patience = {self.config.patience} stops a run by its validation, and there is none",
                remedy="give images to validate on, or leave patience out of the recipe",
            )
        if self.world.is_first:
            check_folder(self.output)
        make_folder(self.output)
        # The first process alone writes there.
        with locked(self.output / _LOCK) if self.world.is_first else nullcontext():
            return self._go(resume)

    def _go(self, resume: bool) -> SegmentationModel:
        self._resume(resume)
        if self.world.is_first:
            for folder in (self.output, self.output / FEATURES, self.output / PREDICTIONS):
                remove_stand_ins(folder)
        # Nobody writes before that is done.
        self.world.wait()
        if self.world.is_first:
            self._record()
            # Before the source is at work for the steps.
            self.sheet = list(self._sheet())
            with Monitor(self.output, self.done, self.end) as monitor:
                if self.config.patience is not None and not self.done:
                    # What came in is a candidate too, so that nobody is left with a worse network.
                    self._validate(monitor)
                elif self.task.validate is not None and not self.done and self.model.takes == {"text"}:
                    # It may know no name that the validation images show, which nobody wants to hear after an epoch.
                    self.model.eval()
                    _measured(self.task.validate(self.model))
                self._take(monitor)
        else:
            self._take(None)
        load(self.model, self.average.values)
        return self.model

    def _take(self, monitor: Monitor | None) -> None:
        config = self.config
        if self._is_enough():
            return
        coming = steps(self.task.source, self.model.preset, config, self.done, self.end, self.world)
        recent: list[Tensor] = []
        clock, since = time.perf_counter(), self.done
        for step, batches in coming:
            self._mode()
            told = self._one(step, batches)
            recent.append(told)
            self.done = step + 1
            if monitor is not None:
                monitor.step(self.done, float(told[0]))
            # Where a run is only stopped for a while, nothing is measured that it would not measure without.
            due = self.done % (config.validate_every or self.epoch) == 0 or self.done == self.steps
            if self.done % config.save_every == 0 or due or self.done == self.end:
                seconds = time.perf_counter() - clock
                if monitor is not None:
                    rate = config.images * (self.done - since) / max(seconds, 1e-9)
                    self._log(monitor, torch.stack(recent).mean(0), seconds, rate)
                    if due:
                        self._validate(monitor)
                    self._save()
                self.world.wait()
                if due and self._is_enough():
                    return
                recent, clock, since = [], time.perf_counter(), self.done

    def _is_enough(self) -> bool:
        """Whether the run stops early; the first process knows, and tells the others."""
        tired = self.world.is_first and self.config.patience is not None and self.waited >= self.config.patience
        return bool(self.world.total(torch.tensor(float(tired), device=self.device)))

    def _one(self, step: int, batches: Sequence[Batch]) -> Tensor:
        """One optimiser step; (2 + rounds,) loss, norm of the gradient, and mean IoU of each round."""
        config, world = self.config, self.world
        rate = config.rate_at(step, self.task.count)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        count = world.total(torch.tensor(float(sum(map(len, batches))), device=self.device))
        # DDP takes the mean over the processes, the loss is the mean over all objects of the step.
        total = float(count) / world.size
        losses = torch.zeros((), device=self.device)
        sums = torch.zeros(config.interaction.rounds + 2, device=self.device)
        self.optimiser.zero_grad(set_to_none=True)
        for part, batch in enumerate(batches, start=1):
            batch = batch.to(self.device)
            with world.unsynchronised(self.wrapped, part < len(batches)):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
                    if self.cache is not None:
                        batch = self.cache.fill(batch)
                    loss, stats = self.wrapped(batch, total)
                torch.autograd.backward(loss)
            losses += loss.detach()
            sums += stats
        gradients = [value.grad for value in self.trained if value.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if config.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.trained, config.clip, norm)
        losses = world.total(losses) / world.size
        sums = world.total(sums)
        self._check(step, batches, losses, norm, sums)
        self.optimiser.step()
        if config.ema:
            self.average.update(self.model, min(config.ema, (step + 1) / (step + 10)))
        return torch.stack([losses, norm, *(sums[:-2] / sums[-1])]).cpu()

    def _check(self, step: int, batches: Sequence[Batch], loss: Tensor, norm: Tensor, sums: Tensor) -> None:
        # All processes see the same sums, so all of them stop.
        self.empty = 0 if sums[-2] > 0 else self.empty + 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise VesaliusError(
                f"the {what} became {float(loss if what == 'loss' else norm)} at step {step}",
                path=self._keep(step, batches),
                remedy="the batch is in the file; begin anew with a lower learning rate, in another folder"
                + (f" (this one holds the run as it was after step {self.saved})" if self.saved else ""),
            )
        if self.empty >= self.config.collapse:
            raise VesaliusError(
                f"the training collapsed: no mask had a pixel in {self.empty} steps up to step {step}",
                path=self._keep(step, batches),
                remedy="look at the batch in the file, or begin anew with a lower learning rate, in another folder",
            )

    def _keep(self, step: int, batches: Sequence[Batch]) -> Path:
        path = self.output / ("bad_batch.pt" if self.world.is_first else f"bad_batch_{self.world.rank}.pt")
        kept = [{**vars(batch), "features": None} for batch in batches]
        _write({"step": step, "batches": kept}, path)
        return path

    def _mode(self) -> None:
        """Parts that do not train stay as in use, so that their running statistics do not change either."""
        self.model.train()
        for part in self.model.modules():
            weights = list(part.parameters())
            if weights and not any(value.requires_grad for value in weights):
                part.eval()

    def _log(self, monitor: Monitor, told: Tensor, seconds: float, rate: float) -> None:
        loss, norm, *ious = told.tolist()
        values = {"loss": loss, **{f"iou_round_{i}": iou for i, iou in enumerate(ious, start=1)}}
        values |= {"gradient": norm, "rate": self.config.rate_at(self.done - 1, self.task.count)}
        monitor.row(LOG, self.done, {**values, "images_per_second": rate, "seconds": seconds})

    def _validate(self, monitor: Monitor) -> None:
        with self.average.applied(self.model):
            self.model.eval()
            monitor.picture(self.done, contact_sheet(self.step, (batch.to(self.device) for batch in self.sheet)))
            if self.task.validate is None:
                return
            figures = _measured(self.task.validate(self.model))
            monitor.row(VALIDATION, self.done, figures)
            monitor.tell(f"step {self.done}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
            self.waited += 1
            if figures["dice"] > self.best:
                self.best, self.waited = figures["dice"], 0
                checkpoint(self.model, self.output / BEST, self.config.half)

    def _sheet(self) -> Iterator[Batch]:
        # One image at a time, which takes no more memory than a step does.
        for number in range(_SHOWN):
            sample = self.task.source[number]
            yield collate([sample], [number], 0, self.model.preset, self.config.interaction.grid)

    def _save(self) -> None:
        state = {
            "identity": self.identity,
            "step": self.done,
            "best": self.best,
            "empty": self.empty,
            "waited": self.waited,
            "model": moving(self.model),
            "average": self.average.values,
            "optimiser": self.optimiser.state_dict(),
        }
        _write(state, self.output / STATE)
        self.saved = self.done
        self._record()

    def _record(self) -> None:
        record = {
            "step": self.done,
            "steps": self.steps,
            "images": self.task.count,
            "processes": self.world.size,
            "device": str(self.device),
            "best_dice": None if math.isinf(self.best) else self.best,
            "parameters": {part: count._asdict() for part, count in counts(self.model).items()},
            "frozen_weights": json.loads(self.identity)["frozen"],
            **self.task.about,
            "config": self.config.model_dump(mode="json"),
        }
        write_run(self.output, record)

    def _resume(self, wanted: bool) -> None:
        path = self.output / STATE
        self.world.wait()
        if not path.exists():
            return
        if not wanted:
            raise ConfigError("holds a run", path=self.output, remedy="give --resume to go on, or another folder")
        state = torch.load(path, map_location=self.device, weights_only=True)
        before, now = json.loads(state["identity"]), json.loads(self.identity)
        # Settings that are newer than the run had the values that they have where they are not given.
        before["config"] = _fixed(TrainConfig.from_dict(before["config"], path))
        if before != now:
            told = _difference(before, now)
            raise ConfigError(
                f"holds a run of another configuration: {told}", path=self.output, remedy="choose another folder"
            )
        load(self.model, state["model"])
        for name, value in self.average.values.items():
            value.copy_(state["average"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done, self.best = int(state["step"]), float(state["best"])
        self.empty, self.waited = int(state["empty"]), int(state["waited"])
        self.saved = self.done


def _measured(figures: Mapping[str, float]) -> Mapping[str, float]:
    if math.isnan(figures["dice"]):
        raise ConfigError(
            "this network can be asked for nothing that the validation images show",
            remedy="validate on images of objects that it takes prompts for, such as targets that it knows",
        )
    return figures


def _write(content: Mapping[str, Any], path: Path) -> None:
    """Writes a file of torch, whole or not at all; WriteError if that cannot be."""
    try:
        # Given a name in place of a file, torch says of a full disk that a position is unexpected.
        with replacing(path) as part, part.open("wb") as file:
            torch.save(content, file)
    except OSError as error:
        raise WriteError(
            f"cannot be written ({error.strerror})",
            path=path,
            remedy="make room there, and go on with --resume from what was kept before",
        ) from error


def _fixed(config: TrainConfig) -> dict[str, Any]:
    """Settings that a run keeps from its start to its end, as JSON has them."""
    return config.model_dump(mode="json", exclude=_FREE)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> str:
    for key in sorted({*before, *now}):
        a, b = before.get(key), now.get(key)
        if a != b:
            if isinstance(a, dict) and isinstance(b, dict):
                return _difference(a, b, f"{path}{key}.")
            return f"{path}{key} was {a}, and is {b}"
    return ""


def optimiser_of(model: SegmentationModel, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of what trains; fused, so that it goes over weights and gradients once."""
    trained = [value for value in model.parameters() if value.requires_grad]
    if config.optimiser == "adam":
        return torch.optim.Adam(trained, lr=config.rate, betas=config.betas, fused=True)
    groups = [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": config.decay},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.rate, betas=config.betas, fused=True)
