"""Simulated interaction: several rounds of prompts on one batch.

Sources: Cheng et al., "SAM-Med2D", 2023, section 3.2 C; Ma et al., "Segment Anything in Medical Images", 2024; Cheng et
al., "Interactive Medical Image Segmentation", 2025 (IMIS-Net), section 4, and the code published with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, Self

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn

from vesalius.core.config import Config, Probability
from vesalius.core.errors import ConfigError
from vesalius.core.types import Part, listed
from vesalius.models.base import Features, PromptBatch, SegmentationModel
from vesalius.models.imis.model import Imis
from vesalius.models.presets import Preset
from vesalius.models.torch_runtime import prepare
from vesalius.models.words import is_known
from vesalius.prompts.simulate import pick_pixels, sample_error_points
from vesalius.training.losses import LossConfig, category_loss, mask_loss, true_iou

# Logits of a mask that someone drew: where the object is, not how sure anyone is.
DRAWN = 4.0
# Share of a box's side by which a loose one's edges are out at most.
LOOSE_ROOM = 0.25


class FirstPrompt(Config):
    """Probabilities of the kinds of the first prompt; they add up to one.

    Attributes:
        point: A random pixel of the object.
        box: The box around it, jittered.
        mask: A rough mask of it.
        text: Its name; where that is not known, one of the others. What is joined of all objects of a target is always
            asked for by name first.
    """

    point: Probability = 0.45
    box: Probability = 0.45
    mask: Probability = 0.1
    text: Probability = 0.0

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(sum(self.of(named=True)) - 1) > 1e-6:
            raise ValueError("the probabilities of point, box, mask and text do not add up to 1")
        return self

    def of(self, named: bool) -> tuple[float, float, float, float]:
        """Of point, box, mask and text, for an object whose name is known or not."""
        if named:
            return self.point, self.box, self.mask, self.text
        others = self.point + self.box + self.mask
        if not others:
            return 0.0, 1.0, 0.0, 0.0
        return self.point / others, self.box / others, self.mask / others, 0.0


class InteractionConfig(Config):
    """The rounds of one training step.

    Attributes:
        rounds: Rounds, the first prompt included.
        first: What the first prompt is.
        points: Numbers of corrective points to choose from in each later round, equally likely.
        keep: Whether the earlier points, box and name stay beside new points, or give way to them.
        jitter: Every coordinate of a box moves by itself, by at most this many pixels of the network's input.
        jitter_share: It also moves by at most this share of the box's side; None for no such limit.
        jitter_outward: Whether coordinates only move away from the object (MedSAM).
        loose: Probability that a box leaves room all around: every edge is then out by at most a quarter of its side.
        exact: Probability that no coordinate of a box moves, so that a network may learn to trust boxes that fit.
        mask_only: Later rounds that give the previous mask without new points: each with a probability, or the last
            and one random one between the first and the last.
        mask_text: Whether these rounds give the object's name beside the mask.
        text_for_mask: Probability that another later round gives names in place of the previous masks, where objects
            have names.
        select: Which of several masks the loss is on: that of the lowest loss, of the highest true IoU (SAM-Med2D's
            paper), or of the highest predicted IoU (its published code).
        spread: Weight of the mean over all masks.
        own: Weight of the mask of the highest predicted IoU, which use would show; what the two leave of 1 is the
            weight of the selected mask.
        later: Patterns of the names of the parameters that rounds after the first train, which then learn from the
            image's features as they are; None if all rounds train all that trains.
        grid: Where losses, boxes and points are computed: on the ``low`` resolution of the network's own masks, or on
            its ``input``, to which masks are enlarged.
    """

    rounds: PositiveInt = 3
    first: FirstPrompt = FirstPrompt()
    points: tuple[PositiveInt, ...] = Field(default=(1, 1, 3), min_length=1)
    keep: bool = True
    jitter: NonNegativeFloat = 5.0
    jitter_share: NonNegativeFloat | None = 0.1
    jitter_outward: bool = False
    loose: Probability = 0.0
    exact: Probability = 0.0
    mask_only: Probability | Literal["last and middle"] = 0.1
    mask_text: bool = False
    text_for_mask: Probability = 0.0
    select: Literal["loss", "iou", "quality"] = "loss"
    spread: NonNegativeFloat = 0.05
    own: NonNegativeFloat = 0.0
    later: tuple[str, ...] | None = None
    grid: Literal["low", "input"] = "low"

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.spread + self.own > 1:
            raise ValueError("spread and own leave less than nothing for the selected mask: their sum exceeds 1")
        if self.loose + self.exact > 1:
            raise ValueError("boxes cannot be both loose and exact: the sum of the two probabilities exceeds 1")
        return self


@dataclass(frozen=True, eq=False)
class Batch:
    """Objects of some images.

    Attributes:
        images: (B, S, S, 3) uint8 RGB.
        content: (B, 4) int64 half-open boxes of the pixels that are image, the rest is padding.
        truth: (N, 1, h, w) float, the share of each pixel that an object covers, 0 to 1.
        rows: (N,) int64, the image of each object.
        targets: N names, ``""`` where they are not known.
        pseudo: N times whether a model or an algorithm drew the mask.
        joined: N times whether it is all objects of its target.
        numbers: B numbers of the samples, from which all that is random about them is drawn.
        step: Number of the optimiser's step, from which all that is random about the batch is drawn.
        features: Of the images, where they are known.
    """

    images: Tensor
    content: Tensor
    truth: Tensor
    rows: Tensor
    targets: tuple[str, ...]
    pseudo: tuple[bool, ...]
    joined: tuple[bool, ...]
    numbers: tuple[int, ...]
    step: int
    features: Features | None = None

    def __len__(self) -> int:
        return int(self.truth.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        if self.features is not None:
            moved["features"] = tuple(level.to(device) for level in self.features)
        return replace(self, **moved)


class Turn(NamedTuple):
    """What a whole batch does in one later round.

    Attributes:
        points: Number of corrective points, 0 for none.
        mask: Whether the previous mask is given.
        text: Whether names are given, where they are known.
    """

    points: int
    mask: bool
    text: bool


class Draws(NamedTuple):
    """The random numbers of N objects; each object's come from a generator of its own.

    Attributes:
        kind: (N,) in [0, 1), for the kind of the first prompt.
        point: (N, 3) in [0, 1): which pixel, and where in it.
        jitter: (N, 4) in [0, 1).
        errors: (N, rounds - 1, K) in [0, 1), one per corrective point.
        generators: For rough masks and loose boxes.
    """

    kind: NDArray[np.float64]
    point: NDArray[np.float64]
    jitter: NDArray[np.float64]
    errors: NDArray[np.float64]
    generators: list[np.random.Generator]


class Round(NamedTuple):
    """One round: the prompts given, and all masks of each with what the network says of them.

    Attributes:
        prompts: What was given.
        logits: (N, M, h, w) float32.
        quality: (N, M) float32 predicted IoU.
        shown: (N, M, dim) what the masks show, for networks that tell, or None.
    """

    prompts: PromptBatch
    logits: Tensor
    quality: Tensor
    shown: Tensor | None

    def chosen(self) -> Tensor:
        """(N, 1) the mask of the highest predicted IoU, which is the one that use shows."""
        return self.quality.detach().argmax(1, keepdim=True)


class InteractiveStep(nn.Module):
    """A network with the rounds of prompts that it is trained by, and their loss.

    All rounds are inside `forward`, so that what wraps it (DDP) sees every gradient.

    Args:
        model: The network that is trained.
        config: The rounds.
        loss: The loss.
        seed: Seed of the run.
        names: Names of all categories, for networks that tell what a mask shows.

    Raises:
        ConfigError: The configuration gives prompts that the network does not take, or asks for categories.
    """

    def __init__(
        self,
        model: SegmentationModel,
        config: InteractionConfig,
        loss: LossConfig,
        seed: int = 0,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model, self.config, self.loss, self.seed = model, config, loss, seed
        self.names = {name: row for row, name in enumerate(names)}
        self._embedded: Tensor | None = None
        if lacking := asked_parts(config, loss) - model.takes:
            raise ConfigError(
                f"{model.architecture} networks do not take {listed(lacking)}",
                remedy=f"leave it out of interaction.first and of later rounds: prompt with {listed(model.takes)}",
            )
        if loss.category and not (isinstance(model, Imis) and model.config.semantic_dim == model.config.text.width):
            raise ConfigError("the network does not tell what a mask shows", remedy="set loss.category to zero")
        if config.later is not None:
            for pattern in config.later:
                if not any(fnmatchcase(name, pattern) for name, _ in model.named_parameters()):
                    raise ConfigError(f"interaction.later: {pattern!r} matches no parameter of the network")

    def forward(self, batch: Batch, total: float | None = None) -> tuple[Tensor, Tensor]:
        """Plays all rounds.

        Args:
            batch: The images and objects.
            total: What the sum over objects is divided by; their number if None.

        Returns:
            The loss, a scalar, the mean over rounds; and (rounds + 2,) sums over the objects, without gradient: of
            the chosen masks' IoU in each round, of whether the last chosen mask has a pixel, and of ones.
        """
        truth, config = batch.truth, self.config
        loss = truth.new_zeros(len(batch))
        sums = []
        chosen = truth
        names = self._categories() if self.loss.category else None
        # Where prompts are drawn, so that an object too thin to cover half a pixel is not one that no mask can find.
        real = thresholded(truth)
        for turn in self.play(batch):
            side = truth.shape[2]
            iou = true_iou(_enlarged(turn.logits.detach(), side), real)
            chosen = turn.chosen()
            if config.select == "loss" or config.spread or config.own:
                losses = mask_loss(_enlarged(turn.logits, side), truth, self.loss)
                best = {"loss": losses, "iou": -iou, "quality": -turn.quality}[config.select].argmin(1, keepdim=True)
                loss = loss + (1 - config.spread - config.own) * losses.gather(1, best)[:, 0]
                loss = loss + config.spread * losses.mean(1) + config.own * losses.gather(1, chosen)[:, 0]
            else:
                best = (iou if config.select == "iou" else turn.quality).argmax(1, keepdim=True)
                # Chosen before it is enlarged: the others would only be carried along, and back.
                loss = loss + mask_loss(_enlarged(_gathered(turn.logits, best), side), truth, self.loss)[:, 0]
            loss = loss + self.loss.quality * ((turn.quality - iou) ** 2).mean(1)
            if names is not None and turn.shown is not None:
                shown = turn.shown.float().gather(1, best[:, :, None].expand(-1, -1, turn.shown.shape[2]))[:, 0]
                known = torch.tensor([self.names.get(name, -1) for name in batch.targets], device=shown.device)
                loss = loss + self.loss.category * category_loss(shown, names, known, self.loss.temperature)
            sums.append(iou.gather(1, chosen).sum())
        filled = (_enlarged(_gathered(turn.logits.detach(), chosen), side) > 0).flatten(1).any(1).sum()
        count = torch.tensor(float(len(batch)), device=truth.device)
        stats = torch.stack([*sums, filled.to(truth.dtype), count])
        return loss.sum() / (config.rounds * (total or len(batch))), stats.detach()

    def play(self, batch: Batch) -> Iterator[Round]:
        """The rounds, one after the other."""
        config, preset = self.config, self.model.preset
        truth = batch.truth
        step = preset.side / truth.shape[2]
        real = thresholded(truth)[:, 0]
        draws = draw(batch, self.seed, config)
        turns = draw_turns(config, np.random.default_rng((self.seed, batch.step, 0, 2)))
        features = batch.features
        if features is None:
            features = self.model.encode(prepare(batch.images, batch.content, preset))
        words = self._words(batch, turns)
        named = np.array([words is not None and self._is_named(batch, i) for i in range(len(batch))])
        kinds = first_kinds(config.first, draws, named)
        kinds[named & np.array(batch.joined)] = 3
        first = first_prompts(real, kinds, draws, config, preset, step)
        is_text = torch.from_numpy(kinds == 3).to(truth.device)
        if words is not None and is_text.any():
            first = replace(first, text=torch.where(is_text[:, None], words, torch.nan))
        prompts = replace(first, rows=batch.rows)
        for number in range(config.rounds):
            with self._frozen(number > 0 and config.later is not None):
                now = self._answer(features, prompts)
            yield now
            if number + 1 == config.rounds:
                return
            if number == 0 and config.later is not None:
                features = tuple(level.detach() for level in features)
                words = None if words is None else words.detach()
            turn = turns[number]
            masks = _gathered(now.logits.detach(), now.chosen())
            added, kinds_of_points = sample_error_points(
                _enlarged(masks, truth.shape[2])[:, 0] > 0,
                real,
                torch.from_numpy(draws.errors[:, number, : turn.points]),
            )
            added = (added + 0.5) * step - 0.5
            before = prompts if config.keep else replace(prompts, points=added[:, :0], labels=kinds_of_points[:, :0])
            prompts = replace(
                before,
                points=torch.cat([before.points, added], dim=1),
                labels=torch.cat([before.labels, kinds_of_points], dim=1),
                boxes=before.boxes if config.keep else None,
                masks=_given(on_scale(masks, preset), turn, words),
                text=words if turn.text else before.text if config.keep else None,
            )

    def _answer(self, features: Features, prompts: PromptBatch) -> Round:
        multimask = self.model.preset.multimask
        if self.loss.category and isinstance(self.model, Imis):
            logits, quality, shown = self.model.decode_named(features, prompts, multimask)
            return Round(prompts, logits.float(), quality.float(), shown)
        logits, quality = self.model.decode(features, prompts, multimask)
        return Round(prompts, logits.float(), quality.float(), None)

    def _words(self, batch: Batch, turns: Sequence[Turn]) -> Tensor | None:
        """(N, dim) embeddings of the objects' names, NaN where they are not known; None if there are none."""
        named = [i for i in range(len(batch)) if self._is_named(batch, i)]
        if not named or not (self.config.first.text or any(turn.text for turn in turns)):
            return None
        unique = sorted({batch.targets[i] for i in named})
        embedded = self.model.embed_text(unique).float()
        place = torch.tensor([unique.index(batch.targets[i]) for i in named], device=embedded.device)
        at = torch.tensor(named, device=embedded.device)
        nothing = embedded.new_full((len(batch), embedded.shape[1]), torch.nan)
        return nothing.index_copy(0, at, embedded.index_select(0, place))

    def _is_named(self, batch: Batch, i: int) -> bool:
        # In a mirror a name loses its side, and what is left may be none that the network knows.
        known = self.model.vocabulary
        name = batch.targets[i]
        return bool(name) and not batch.pseudo[i] and (not known or is_known(name, known))

    def _categories(self) -> Tensor:
        if not self.names:
            raise ConfigError("there are no names of categories to learn", remedy="set loss.category to zero")
        if self._embedded is not None:
            return self._embedded
        assert isinstance(self.model, Imis)
        embedded = self.model.embed_names(list(self.names)).float()
        if not any(parameter.requires_grad for parameter in self.model.text_model.parameters()):
            # They stay as they are: the projection of prompts, which may train, has no part in them.
            self._embedded = embedded
        return embedded

    @contextmanager
    def _frozen(self, later: bool) -> Iterator[None]:
        """Keeps the gradient from all parameters but those that later rounds train."""
        off: list[nn.Parameter] = []
        if later:
            patterns = self.config.later or ()
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad and not any(fnmatchcase(name, pattern) for pattern in patterns):
                    off.append(parameter)
        for parameter in off:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            # The first round's gradient is not computed until all rounds are played, so it still reaches them.
            for parameter in off:
                parameter.requires_grad_(True)


def asked_parts(config: InteractionConfig, loss: LossConfig) -> frozenset[Part]:
    """Parts of prompts that a configuration gives to a network, to objects whose names are known."""
    first, again = config.first, config.rounds > 1
    given: dict[Part, float] = {
        "points": first.point or again,
        "box": first.box,
        "mask": first.mask or again,
        "text": first.text or config.mask_text or config.text_for_mask or loss.category,
    }
    return frozenset(part for part, share in given.items() if share)


def draw(batch: Batch, seed: int, config: InteractionConfig) -> Draws:
    """The random numbers of a batch's objects, which depend on the seed, their sample and their place in it alone."""
    rows: list[int] = batch.rows.tolist()
    places = [rows[:i].count(row) for i, row in enumerate(rows)]
    # The last word keeps the stream apart from that of (seed, number), by which the sample is drawn.
    generators = [
        np.random.default_rng((seed, batch.numbers[row], place, 1)) for row, place in zip(rows, places, strict=True)
    ]
    shape = (config.rounds - 1, max(config.points))
    return Draws(
        np.array([rng.random() for rng in generators]),
        np.array([rng.random(3) for rng in generators]),
        np.array([rng.random(4) for rng in generators]),
        np.array([rng.random(shape) for rng in generators]),
        generators,
    )


def draw_turns(config: InteractionConfig, rng: np.random.Generator) -> list[Turn]:
    """What the rounds after the first give."""
    later = config.rounds - 1
    numbers = rng.choice(config.points, size=later)
    if config.mask_only == "last and middle":
        middle = int(rng.integers(later - 1)) if later > 1 else -1
        alone = [i in (middle, later - 1) for i in range(later)]
    else:
        alone = [bool(u < config.mask_only) for u in rng.random(later)]
    instead = rng.random(later) < config.text_for_mask
    return [
        Turn(0, mask=True, text=config.mask_text)
        if alone[i]
        else Turn(int(numbers[i]), not instead[i], bool(instead[i]))
        for i in range(later)
    ]


def first_kinds(first: FirstPrompt, draws: Draws, named: Sequence[bool] | NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) kinds of the first prompts: 0 point, 1 box, 2 mask, 3 text."""
    kinds = []
    for uniform, is_named in zip(draws.kind, named, strict=True):
        chances = np.array(first.of(is_named))
        # Rounding may leave the sum of the probabilities a little under one.
        last = np.flatnonzero(chances)[-1]
        kinds.append(min(np.searchsorted(chances.cumsum(), uniform, "right"), last))
    return np.array(kinds, np.int64)


def first_prompts(
    real: Tensor, kinds: NDArray[np.int64], draws: Draws, config: InteractionConfig, preset: Preset, step: float
) -> PromptBatch:
    """The first prompt of each object, but for names.

    Args:
        real: (N, h, w) bool, none empty.
        kinds: (N,) as of `first_kinds`.
        draws: Random numbers.
        config: The jitter.
        preset: How the network wants boxes and masks.
        step: Pixels of the network's input per pixel of ``real``.

    Returns:
        Points (N, 1, 2), padding where there is none; boxes and masks NaN where there is none, or None.
    """
    device, count = real.device, real.shape[0]
    kind = torch.from_numpy(kinds).to(device)
    given = torch.from_numpy(draws.point).to(device)
    inside, _ = pick_pixels(real, given[:, :1])
    points = (inside + given[:, None, 1:]) * step - 0.5
    labels = torch.where(kind[:, None] == 0, 1, -1)
    boxes = masks = None
    if (kinds == 1).any():
        fit = np.array([rng.random() if kinds[i] == 1 else 0.0 for i, rng in enumerate(draws.generators)])
        uniforms = torch.from_numpy(draws.jitter).to(device)
        moved = jittered(tight_boxes(real) * step, uniforms, torch.from_numpy(fit).to(device), config, preset.side)
        if preset.box == "inclusive":
            moved = moved - torch.tensor([0, 0, 1, 1], device=device)
        boxes = torch.where(kind[:, None] == 1, moved, torch.nan).float()
    if (kinds == 2).any():
        low = F.adaptive_avg_pool2d(real.float()[:, None], preset.mask_side)
        low_real = thresholded(low)[:, 0].cpu().numpy()
        drawn = np.full((count, 1, preset.mask_side, preset.mask_side), np.nan, np.float32)
        for i in np.flatnonzero(kinds == 2):
            drawn[i, 0] = _roughen(low_real[i], draws.generators[i])
        masks = on_scale(torch.from_numpy(drawn).to(device), preset)
    return PromptBatch(points.float(), labels, boxes, masks)


def tight_boxes(real: Tensor) -> Tensor:
    """(N, 4) half-open boxes around the whole of (N, h, w) masks, in their own pixels."""
    edges = []
    for axis in (1, 2):  # any over rows leaves columns (x), over columns rows (y)
        seen = real.any(axis).int()
        edges.append((seen.argmax(1), seen.shape[1] - seen.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = edges
    return torch.stack([x0, y0, x1, y1], dim=1).double()


def jittered(boxes: Tensor, uniforms: Tensor, fit: Tensor, config: InteractionConfig, side: int) -> Tensor:
    """(N, 4) boxes of which some leave room all around, some stay as they are, and the others move, within a square.

    Args:
        boxes: (N, 4) half-open, in pixels of the network's input.
        uniforms: (N, 4) that decide how far each coordinate moves, by itself.
        fit: (N,) uniforms that decide which boxes are loose, the lowest, and which are exact, the highest.
        config: The probabilities of these, and the jitter of all others.
        side: Of the square.
    """
    reach = torch.full_like(boxes, config.jitter)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    if config.jitter_share is not None:
        reach = torch.minimum(reach, config.jitter_share * sides)
    outward = torch.tensor([-1, -1, 1, 1], device=boxes.device)
    move = uniforms * outward if config.jitter_outward else 2 * uniforms - 1
    moved = boxes + reach * move
    loose, exact = (fit < config.loose)[:, None], (fit >= 1 - config.exact)[:, None]
    # A jitter that would turn a small box inside out is not applied.
    valid = (moved[:, 2:] - moved[:, :2] >= 2).all(1, keepdim=True)
    moved = torch.where(valid & ~exact, moved, boxes)
    return torch.where(loose, boxes + LOOSE_ROOM * sides * uniforms * outward, moved).clamp(0, side)


def on_scale(logits: Tensor, preset: Preset) -> Tensor:
    """Mask logits on the scale on which a network takes its mask prompt."""
    return logits.sigmoid() if preset.mask_prompt == "probability" else logits


def _given(masks: Tensor, turn: Turn, words: Tensor | None) -> Tensor | None:
    """The (N, 1, h, w) previous masks that a turn gives back, NaN or None where it gives none."""
    if turn.mask or words is None:
        return masks
    # Only a name takes the place of a mask; objects without one keep theirs.
    named = words.isfinite().all(1)
    return None if named.all() else torch.where(named[:, None, None, None], torch.nan, masks)


def thresholded(truth: Tensor) -> Tensor:
    """(N, 1, h, w) bool of shares; what covers no pixel by half has those that it covers most."""
    peak = truth.amax((2, 3), keepdim=True)
    return truth > torch.where(peak > 0.5, 0.5, 0.5 * peak)


def _enlarged(logits: Tensor, side: int) -> Tensor:
    if logits.shape[2] == side:
        return logits
    return F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)


def _gathered(logits: Tensor, index: Tensor) -> Tensor:
    """(N, 1, h, w) of (N, M, h, w) by (N, 1)."""
    return logits.gather(1, index[:, :, None, None].expand(-1, -1, *logits.shape[2:]))


def _roughen(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """(h, w) logits of a mask as someone might scribble it: wavy, shifted, too wide or too narrow."""
    radius = float(np.sqrt(mask.sum() / np.pi))
    side = mask.shape[0]
    flow = rng.standard_normal((2, side, side)).astype(np.float32)
    flow = np.stack([cv2.GaussianBlur(f, (0, 0), max(2.0, radius / 2)) for f in flow])
    flow *= rng.uniform(0, 0.35) * radius / (flow.std() + 1e-6)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    shift = rng.uniform(-0.1, 0.1, 2) * radius
    moved = cv2.remap(
        mask.astype(np.float32),
        x + flow[0] + np.float32(shift[0]),
        y + flow[1] + np.float32(shift[1]),
        cv2.INTER_LINEAR,
    )
    return np.where(moved > rng.uniform(0.3, 0.7), DRAWN, -DRAWN).astype(np.float32)
