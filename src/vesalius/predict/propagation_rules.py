"""How the next slice of a propagation is asked, and when its answer is not believed: pure functions on masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ConfigError
from vesalius.metrics.overlap import dice
from vesalius.prompts.sample import tight_box

Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]
Rule = Literal["small", "grew", "shrank", "overlap", "quality", "grey", "contrast"]

# Pixels beyond an outline that count as its surroundings.
_AROUND = 3


@dataclass(frozen=True)
class PropagationRules:
    """How the next slice is asked, and when an answer is not believed.

    The defaults were chosen on volumes that the table in docs/volumes.md leaves out.

    Attributes:
        margin: The box reaches past the last outline by this share of its longer side, on every side.
        least_margin: And by at least this many pixels.
        trend: Beyond the outermost of several key slices, the change between the last two is taken to go on for this
            share of their distance: so far, the outline that is asked with is cut to the shape that it leads to.
        least_area: Pixels; a smaller outline is the end of the object.
        most_change: An outline that is this many times larger or smaller than the last one is not believed.
        least_overlap: Nor one whose Dice with the last one is below this.
        least_quality: Nor one whose predicted IoU is below this.
        least_grey: Nor one whose grey values do not look like the key slice's object: of the way from the mean grey
            value around the object to that inside it, both on the key slice, the mean inside the outline must have
            come this share.
        least_contrast: Nor one that stands out less from the pixels around it: the difference between the mean grey
            values inside and around it, as a share of the same difference on the key slice. Neither of these two rules
            counts where that difference is less than a quarter of the standard deviation inside.

    Raises:
        ConfigError: A value is out of range.
    """

    margin: float = 0.05
    least_margin: float = 1.0
    trend: float = 1.0
    least_area: int = 4
    most_change: float = 3.0
    least_overlap: float = 0.3
    least_quality: float = 0.4
    least_grey: float = 0.6
    least_contrast: float = 0.5

    def __post_init__(self) -> None:
        for name in ("margin", "least_margin", "trend"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}", remedy="give a number from 0 on")
        if not self.least_area >= 1:
            raise ConfigError(f"least_area is {self.least_area}", remedy="give a number of pixels from 1 on")
        if not self.most_change > 1:
            raise ConfigError(f"most_change is {self.most_change}", remedy="give a ratio above 1")
        for name in ("least_overlap", "least_quality"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", remedy="give a number from 0 to 1")
        for name in ("least_grey", "least_contrast"):
            if not getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", remedy="give a share of at most 1")


@dataclass(frozen=True)
class Stop:
    """Why an answer was not believed.

    Attributes:
        rule: ``"small"`` (below the least area), ``"grew"``, ``"shrank"``, ``"overlap"``, ``"quality"``, ``"grey"``
            or ``"contrast"``.
        value: What was measured: pixels, ratio of areas, Dice with the last outline, predicted IoU, shares.
        limit: What the rule asks for.
    """

    rule: Rule
    value: float
    limit: float


@dataclass(frozen=True)
class Appearance:
    """What the grey values of a slice show of an outline.

    Attributes:
        inside: Their mean inside the outline.
        around: Their mean in the pixels around it; NaN if there are none.
        spread: Their standard deviation inside.
    """

    inside: float
    around: float
    spread: float

    @property
    def is_distinct(self) -> bool:
        """Whether grey values tell the inside from the surroundings."""
        return abs(self.inside - self.around) >= max(self.spread / 4, 1.0)


def appearance(grey: NDArray[np.float32], mask: Mask) -> Appearance:
    """What (H, W) ``grey``, 0 to 255, shows of an outline, which is not empty."""
    import cv2

    side = 2 * _AROUND + 1
    around = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool) & ~mask
    inside = grey[mask]
    outer = float(grey[around].mean()) if around.any() else float("nan")
    return Appearance(float(inside.mean()), outer, float(inside.std()))


def enlarged_box(mask: Mask, rules: PropagationRules) -> Box:
    """The box in which the next slice is asked: around (H, W) ``mask``, enlarged by the margins, cut at the border.

    Raises:
        PromptError: The mask is empty.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = tight_box(mask)
    margin = max(rules.least_margin, rules.margin * max(x1 - x0, y1 - y0))
    return max(0.0, x0 - margin), max(0.0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)


def judge(
    mask: Mask, last: Mask, quality: float, rules: PropagationRules, greys: tuple[Appearance, Appearance] | None = None
) -> Stop | None:
    """The first rule, in the order of `Rule`, by which an answer is not believed; None if it is.

    Args:
        mask: (H, W) bool, the answer.
        last: (H, W) bool, the outline before it, not empty.
        quality: Predicted IoU of the answer.
        rules: What to ask for.
        greys: What the key slice shows, and what this one does; None if the grey values do not count.
    """
    area = int(mask.sum())
    if area < rules.least_area:
        return Stop("small", area, rules.least_area)
    change = area / int(last.sum())
    if change > rules.most_change:
        return Stop("grew", change, rules.most_change)
    if change < 1 / rules.most_change:
        return Stop("shrank", change, 1 / rules.most_change)
    overlap = dice(mask, last)
    if overlap < rules.least_overlap:
        return Stop("overlap", overlap, rules.least_overlap)
    if quality < rules.least_quality:
        return Stop("quality", quality, rules.least_quality)
    if greys is None or not greys[0].is_distinct:
        return None
    key, now = greys
    difference = key.inside - key.around
    share, contrast = (now.inside - key.around) / difference, (now.inside - now.around) / difference
    if share < rules.least_grey:
        return Stop("grey", share, rules.least_grey)
    if contrast < rules.least_contrast:
        return Stop("contrast", contrast, rules.least_contrast)
    return None
