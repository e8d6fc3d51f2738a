"""The strategies by which the papers prompt a model, as data: what is said first, and how answers are corrected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vesalius.core.types import Prompt
from vesalius.corpus.objects import ObjectMask
from vesalius.prompts.sample import (
    Mask,
    central_error_point,
    central_points,
    error_points,
    nearby_background,
    random_point,
    shift_box,
    shift_points,
    tight_box,
)

First = Callable[[ObjectMask, np.random.Generator], Prompt]

# The protocol of what an annotator said.
ANNOTATOR = "annotator"

CLICKS, CORRECTIONS = 20, 5
# MedSAM moves boxes by up to so many pixels of an image of this side.
MEDSAM_SHIFT, MEDSAM_SIDE = 20, 1024
SHIFTS = ((0, 10), (10, 20), (20, 30))
GRIDS = (8, 16, 32, 64, 128, 256)
# Of everything mode where none is named.
GRID = 32


@dataclass(frozen=True)
class Strategy:
    """One way to prompt a model about an object.

    Attributes:
        protocol: Name of the protocol that it is of.
        name: Its own, such as ``"S5"``, ``"box"`` or ``"points"``.
        variant: What distinguishes runs of one strategy, such as the range of a jitter; else empty.
        repeat: Number of the draw, where it is drawn several times.
        first: The first prompt of an object; None where everything in the image is outlined instead, or where an
            annotator's prompts are given.
        rounds: Answers, of which all but the first are to corrections.
        correct: Where a correction is clicked: on a random pixel of the error, or in the middle of the largest error.
        matched: Whether the mask nearest the truth is scored too, beside the model's own choice.
        grid: Clicks along each side of the image, where everything is outlined.
        adapters: Whether the model uses its adapters.
        effort: Whether the human correction effort is measured.
    """

    protocol: str
    name: str
    variant: str = ""
    repeat: int = 0
    first: First | None = None
    rounds: int = 1
    correct: Literal["random", "central"] = "random"
    matched: bool = False
    grid: int | None = None
    adapters: bool = True
    effort: bool = False

    @property
    def draw(self) -> tuple[str, str, int]:
        """What tells its random prompts from those of other strategies; with and without adapters they are the same."""
        return self.name, "" if self.protocol == "adapter-off" else self.variant, self.repeat


def _box(entry: ObjectMask, _: np.random.Generator) -> Prompt:
    return Prompt(box=tight_box(entry.mask))


def _click(entry: ObjectMask, rng: np.random.Generator) -> Prompt:
    return Prompt(points=[random_point(entry.mask, rng)])


def _middle(entry: ObjectMask, _: np.random.Generator) -> Prompt:
    nothing = np.zeros_like(entry.mask)
    return Prompt(points=central_error_point(nothing, entry.mask, np.empty((0, 2)))[0])


def _word(entry: ObjectMask, _: np.random.Generator) -> Prompt:
    return Prompt(text=entry.target)


def _one_point(entry: ObjectMask, _: np.random.Generator) -> Prompt:
    return Prompt(points=central_points(entry.mask, 1))


def _five_points(entry: ObjectMask, _: np.random.Generator) -> Prompt:
    return Prompt(points=central_points(entry.mask, 5))


def _ten_points(entry: ObjectMask, _: np.random.Generator) -> Prompt:
    inside, outside = central_points(entry.mask, 5), nearby_background(entry.mask, 5)
    return Prompt(points=np.concatenate([inside, outside]), labels=[1] * len(inside) + [0] * len(outside))


def _box_and_point(entry: ObjectMask, _: np.random.Generator) -> Prompt:
    return Prompt(box=tight_box(entry.mask), points=central_points(entry.mask, 1))


def _medsam_box(entry: ObjectMask, rng: np.random.Generator) -> Prompt:
    """MedSAM's box: each edge up to 20 pixels too far out, in the image stretched to 1024 x 1024."""
    height, width = entry.mask.shape
    box = np.array(tight_box(entry.mask), np.float64) * (MEDSAM_SIDE / np.array([width, height] * 2))
    x0, y0, x1, y1 = box + rng.uniform(0, MEDSAM_SHIFT, 4) * (-1, -1, 1, 1)
    across, down = width / MEDSAM_SIDE, height / MEDSAM_SIDE
    edges = (max(0.0, x0 * across), max(0.0, y0 * down), min(width, x1 * across), min(height, y1 * down))
    return Prompt(box=edges)


def _shifted(first: First, low: float, high: float) -> First:
    def moved(entry: ObjectMask, rng: np.random.Generator) -> Prompt:
        prompt, size = first(entry, rng), (entry.mask.shape[0], entry.mask.shape[1])
        points = np.asarray(prompt.points, np.float64)
        return replace(
            prompt,
            points=shift_points(points, size, low, high, rng),
            box=None if prompt.box is None else shift_box(tight_box(entry.mask), size, low, high, rng),
        )

    return moved


# COSMOS 1050K, section 3.3.
_COSMOS: dict[str, First] = {
    "S2": _one_point,
    "S3": _five_points,
    "S4": _ten_points,
    "S5": _box,
    "S6": _box_and_point,
}

PROTOCOLS: dict[str, tuple[Strategy, ...]] = {
    # COSMOS 1050K, sections 3.2 to 3.5: everything mode, points, boxes; mask matching.
    "cosmos": (
        Strategy("cosmos", "S1", matched=True, grid=GRID),
        *(Strategy("cosmos", name, first=first, matched=True, effort=name == "S5") for name, first in _COSMOS.items()),
    ),
    # SAM-Med2D, section 4.2A: a box; clicks on random pixels, of the object and then of the error, each with the
    # low-resolution mask of the answer before.
    "sam-med2d": (
        Strategy("sam-med2d", "box", first=_box),
        Strategy("sam-med2d", "points", first=_click, rounds=5),
    ),
    # MedSAM, supplement: a box that is up to 20 pixels too large.
    "medsam": (Strategy("medsam", "box", f"0-{MEDSAM_SHIFT}", first=_medsam_box),),
    # IMIS-Bench: a box, a click or a word, and up to five corrections.
    "imis": tuple(
        Strategy("imis", name, first=first, rounds=1 + CORRECTIONS)
        for name, first in (("box", _box), ("point", _click), ("text", _word))
    ),
    # Clicks in the middle of the largest error, as FocalClick and SimpleClick are scored.
    "interactive": (Strategy("interactive", "clicks", first=_middle, rounds=CLICKS, correct="central"),),
    # COSMOS 1050K, section 4.10 and table 8.
    "jitter": tuple(
        strategy
        for name, first in _COSMOS.items()
        for strategy in (
            Strategy("jitter", name, "0", first=first),
            *(
                Strategy("jitter", name, f"{low}-{high}", repeat, first=_shifted(first, low, high))
                for low, high in SHIFTS
                for repeat in range(3)
            ),
        )
    ),
    # COSMOS 1050K, table 5: everything mode from more and more clicks.
    "grid": tuple(Strategy("grid", "S1", str(side), matched=True, grid=side) for side in GRIDS),
    # What an annotator said, in the annotator's order.
    ANNOTATOR: (Strategy(ANNOTATOR, "prompts"),),
    # SAM-Med2D, table 4: what the adapters bring.
    "adapter-off": tuple(
        Strategy("adapter-off", name, variant, first=first, adapters=variant == "on")
        for variant in ("on", "off")
        for name, first in (("box", _box), ("points", _click))
    ),
}


def strategies_of(protocols: Sequence[str]) -> list[Strategy]:
    """The strategies of some protocols, in order."""
    return [strategy for protocol in protocols for strategy in PROTOCOLS[protocol]]


def correction(
    prompt: Prompt, answer: Mask, truth: Mask, how: Literal["random", "central"], rng: np.random.Generator
) -> Prompt | None:
    """The prompt with one more click where the answer is wrong; None if it is right.

    What else was said stays, but a rough mask, in whose place the answer's logits come: the caller adds them.

    Args:
        prompt: What was said.
        answer: (H, W) bool.
        truth: (H, W) bool.
        how: See `Strategy.correct`.
        rng: Source of random clicks.
    """
    said = np.asarray(prompt.points, np.float64)
    if how == "central":
        points, labels = central_error_point(answer, truth, said)
    else:
        points, labels = error_points(answer, truth, 1, rng)
    if not len(points):
        return None
    return replace(
        prompt,
        points=np.concatenate([said, points]),
        labels=np.concatenate([np.asarray(prompt.labels, np.int64), labels]),
        mask=None,
        logits=None,
    )
