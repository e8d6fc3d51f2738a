"""Two models on the same objects, under the same prompts: paired differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from vesalius.core.errors import ConfigError
from vesalius.evaluation.scores import Score
from vesalius.evaluation.statistics import Estimate, macro_average, signed_rank

# Fewer cases never differ by signed ranks at the level of 5 %, whatever their values: 2 / 2**5 is more.
JUDGED_CASES = 6
LEVEL = 0.05
NONE = "–"

T = TypeVar("T")
K = TypeVar("K")


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
        cases: Cases that the objects are of.
        p: Of Wilcoxon's signed-rank test of the cases' mean differences, two-sided.
    """

    strategy: str
    before: Estimate
    after: Estimate
    difference: Estimate
    objects: int
    better: int
    worse: int
    cases: int
    p: float

    @property
    def verdict(self) -> Literal["better", "worse", "no clear difference", "too few cases"]:
        """Which is better, where the interval of the difference leaves out zero and the test by cases says so too.

        The interval alone is too narrow where cases are few: of two, it reaches from one's mean to the other's.
        """
        if self.cases < JUDGED_CASES:
            return "too few cases"
        if self.p >= LEVEL:
            return "no clear difference"
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
        by_case = grouped(zip(gaps, group, strict=True), lambda pair: (pair[1].dataset, pair[1].case))
        differences = [float(np.mean([gap for gap, _ in of_case])) for of_case in by_case.values()]
        changes.append(
            Change(
                strategy,
                average([first.dice for first, _ in pairs], group, seed),
                average([second.dice for _, second in pairs], group, seed),
                average(gaps, group, seed),
                len(gaps),
                sum(gap > 0 for gap in gaps),
                sum(gap < 0 for gap in gaps),
                len(by_case),
                signed_rank(np.zeros(len(by_case)), differences).p,
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


def object_of(score: Score) -> tuple[str, str, int]:
    """What tells an object from all others: its data set, image and number."""
    return score.dataset, score.image, score.instance


def average(values: Sequence[float], group: Sequence[Score], seed: int) -> Estimate:
    """The `macro_average` of one value per score, by the scores' data sets and cases."""
    # A generator per number, so that no table depends on what was computed before it.
    rng = np.random.default_rng(seed)
    return macro_average(values, [score.dataset for score in group], [score.case for score in group], rng)


def interval(estimate: Estimate) -> str:
    """The mean, and its interval in brackets where it is known."""
    if np.isnan(estimate.mean):
        return NONE
    if np.isnan(estimate.low):
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by their key, in order of appearance."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
