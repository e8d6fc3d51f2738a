"""Two models on the same objects, under the same prompts: paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vesalius.core.errors import ConfigError
from vesalius.evaluation.evaluate import Score
from vesalius.evaluation.report import average, grouped, interval, object_of, table
from vesalius.evaluation.statistics import Estimate


@dataclass(frozen=True)
class Change:
    """The Dice of two models under one prompt.

    Attributes:
        strategy: The prompt.
        before: Of the first model.
        after: Of the second.
        difference: Of the second minus the first, object by object.
        objects: How many there are.
        better: Objects on which the second is better.
        worse: Objects on which it is worse.
    """

    strategy: str
    before: Estimate
    after: Estimate
    difference: Estimate
    objects: int
    better: int
    worse: int

    @property
    def verdict(self) -> Literal["better", "worse", "no clear difference"]:
        """Which is better, where the interval of the difference leaves out zero."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "no clear difference"


def compare(before: Sequence[Score], after: Sequence[Score], seed: int = 0) -> list[Change]:
    """Compares two models, prompt by prompt; averages and intervals are those of `macro_average`.

    Args:
        before: Scores of the first model.
        after: Scores of the second, on the same objects under the same prompts.
        seed: Seed of the resamples.

    Raises:
        ConfigError: They are of other objects or prompts.
    """
    sides = [{(score.strategy, object_of(score)): score for score in scores} for scores in (before, after)]
    if sides[0].keys() != sides[1].keys():
        raise ConfigError("the two tables of scores are not of the same objects and prompts", remedy="score both again")
    changes = []
    for strategy, group in grouped(before, lambda score: score.strategy).items():
        pairs = [(score, sides[1][strategy, object_of(score)]) for score in group]
        gaps = [second.dice - first.dice for first, second in pairs]
        changes.append(
            Change(
                strategy,
                average([first.dice for first, _ in pairs], group, seed),
                average([second.dice for _, second in pairs], group, seed),
                average(gaps, group, seed),
                len(gaps),
                sum(gap > 0 for gap in gaps),
                sum(gap < 0 for gap in gaps),
            )
        )
    return changes


def change_table(changes: Sequence[Change]) -> str:
    """The changes as a table in Markdown."""
    rows = [
        [
            change.strategy,
            interval(change.before),
            interval(change.after),
            _signed(change.difference),
            f"{change.better} of {change.objects}",
            f"{change.worse} of {change.objects}",
            change.verdict,
        ]
        for change in changes
    ]
    return table(["prompt", "before", "after", "difference", "objects better", "objects worse", "verdict"], rows)


def target_table(before: Sequence[Score], after: Sequence[Score], seed: int = 0) -> str:
    """Mean Dice before and after by target, as a table in Markdown."""
    now = grouped(after, lambda score: score.target)
    rows = []
    heads = ["target", "objects"]
    for target, group in sorted(grouped(before, lambda score: score.target).items()):
        changes = compare(group, now.get(target, []), seed)
        heads = ["target", "objects", *(change.strategy for change in changes)]
        cells = [f"{change.before.mean:.3f} → {change.after.mean:.3f}" for change in changes]
        rows.append([target, str(changes[0].objects), *cells])
    return table(heads, rows)


def _signed(estimate: Estimate) -> str:
    if np.isnan(estimate.low):
        return f"{estimate.mean:+.3f}"
    return f"{estimate.mean:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
