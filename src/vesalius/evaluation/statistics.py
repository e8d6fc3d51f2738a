"""Averages over data sets with their uncertainty, comparisons of models, and what scores depend on.

Undefined values (NaN) are left out everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
# Upper bounds of the object's share of its image; a bound belongs to the class above.
SIZES = {"< 1 %": 0.01, "1 to 5 %": 0.05, "5 to 20 %": 0.2, "> 20 %": 1.0}


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % confidence interval.

    Attributes:
        mean: The mean; NaN if no value is defined.
        low: Lower bound; NaN if no data set has two cases, so that nothing tells how much they vary.
        high: Upper bound; NaN likewise.
    """

    mean: float
    low: float
    high: float


def macro_average(
    values: ArrayLike, datasets: Sequence[str], cases: Sequence[str], rng: np.random.Generator
) -> Estimate:
    """The mean of the data sets' means, with a percentile bootstrap clustered by case.

    Objects of one case are alike, so cases are resampled, not objects: within each data set, as many cases as it has
    are drawn with replacement, 2000 times (Field and Welsh 2007, cluster bootstrap). The data sets themselves are
    fixed: the interval speaks of new cases from the same sets, not of new sets. A set of a single case adds nothing
    to the interval's width.

    Args:
        values: (N,) one value per object; NaN, which is undefined, is left out.
        datasets: (N,) name of each object's data set.
        cases: (N,) name of its case within the data set.
        rng: Source of the resamples.
    """
    numbers = np.asarray(values, np.float64)
    defined = ~np.isnan(numbers)
    clusters: dict[str, dict[str, list[float]]] = {}
    for value, dataset, case, keep in zip(numbers.tolist(), datasets, cases, defined.tolist(), strict=True):
        if keep:
            clusters.setdefault(dataset, {}).setdefault(case, []).append(value)
    if not clusters:
        return Estimate(np.nan, np.nan, np.nan)
    means, resampled = [], np.zeros(RESAMPLES)
    for by_case in clusters.values():
        sums = np.array([sum(group) for group in by_case.values()])
        counts = np.array([len(group) for group in by_case.values()])
        drawn = rng.integers(len(sums), size=(RESAMPLES, len(sums)), dtype=np.int32)
        means.append(sums.sum() / counts.sum())
        resampled += sums[drawn].sum(1) / counts[drawn].sum(1) / len(clusters)
    low, high = np.percentile(resampled, (2.5, 97.5))
    if max(map(len, clusters.values())) < 2:
        low = high = np.nan
    return Estimate(float(np.mean(means)), float(low), float(high))


@dataclass(frozen=True)
class Quartiles:
    """A median between its quartiles; all NaN if no value is defined."""

    median: float
    first: float
    third: float


def quartiles(values: ArrayLike) -> Quartiles:
    """The median and the quartiles of the defined values, interpolated linearly."""
    numbers = np.asarray(values, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return Quartiles(np.nan, np.nan, np.nan)
    first, median, third = np.percentile(numbers, (25, 50, 75)).tolist()
    return Quartiles(median, first, third)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same objects.

    Attributes:
        objects: Those of which both values are defined.
        difference: Median of the second's value minus the first's.
        effect: Matched-pairs rank-biserial correlation, from -1 (the first is always larger) to 1 (the second is).
        p: Of Wilcoxon's signed-rank test, two-sided; NaN without an object.
    """

    objects: int
    difference: float
    effect: float
    p: float


def signed_rank(first: ArrayLike, second: ArrayLike) -> Comparison:
    """Compares paired values by Wilcoxon's signed-rank test.

    Equal pairs are dropped, as Wilcoxon did (1945). The effect size is the share of the rank sum that speaks for the
    second less the share that speaks for the first (Kerby 2014).

    Args:
        first: (N,) values of the first model.
        second: (N,) values of the second, of the same objects in the same order.
    """
    from scipy.stats import rankdata, wilcoxon

    gaps = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    gaps = gaps[~np.isnan(gaps)]
    if not len(gaps):
        return Comparison(0, np.nan, np.nan, np.nan)
    unequal = gaps[gaps != 0]
    if not len(unequal):
        return Comparison(len(gaps), 0.0, 0.0, 1.0)
    ranks = rankdata(np.abs(unequal))
    effect = float(ranks @ np.sign(unequal) / ranks.sum())
    return Comparison(len(gaps), float(np.median(gaps)), effect, float(wilcoxon(unequal).pvalue))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """P-values corrected for their number (Holm 1979).

    Args:
        p: (N,) p-values of one family of tests; NaN is no test.

    Returns:
        (N,) the corrected ones, which are compared with the level as they are.
    """
    values = np.asarray(p, np.float64)
    corrected = values.copy()
    order = np.argsort(values)[: np.count_nonzero(~np.isnan(values))]
    steps = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps)) if len(order) else []
    return corrected


@dataclass(frozen=True)
class Correlation:
    """How two quantities go together where others are held fixed.

    Attributes:
        value: From -1 to 1; NaN where it is undefined, as for a quantity that does not vary.
        p: Of the hypothesis that it is 0.
        objects: How many it is computed from.
    """

    value: float
    p: float
    objects: int


def partial_correlation(values: ArrayLike, attribute: ArrayLike, others: Sequence[ArrayLike]) -> Correlation:
    """Spearman's partial rank correlation.

    Ranks are compared by least squares with and without the attribute: the correlation is the square root of the share
    of what the others leave unexplained that the attribute explains, with the sign of its slope; its p-value is that of
    the F-test. For an attribute of numbers this is the usual partial correlation of ranks. Names, such as modalities,
    have no order: each is a column of zeros and ones, and as the attribute they have a multiple correlation, without a
    sign.

    Args:
        values: (N,) what is explained.
        attribute: (N,) numbers or names.
        others: (N,) numbers or names each, which are held fixed.
    """
    from scipy.stats import f as f_distribution
    from scipy.stats import rankdata

    columns = [np.asarray(values, np.float64), *(np.asarray(one) for one in (attribute, *others))]
    defined = np.all([column == column for column in columns], axis=0)
    outcome, explaining, *held = (_columns(column[defined], rankdata) for column in columns)
    count = int(defined.sum())
    without = np.hstack([np.ones((count, 1)), *held])
    (rest, rank, _), (rest_with, rank_with, slopes) = (
        _unexplained(outcome[:, 0], design) for design in (without, np.hstack([without, explaining]))
    )
    degrees = count - rank_with
    if degrees <= 0 or rank_with == rank or rest <= 1e-9 * count:
        return Correlation(np.nan, np.nan, count)
    share = min(1.0, max(0.0, 1 - rest_with / rest))
    sign = 1.0 if columns[1].dtype.kind in "OUT" else float(np.sign(slopes[-1]))
    extra = rank_with - rank
    ratio = share / extra / max((1 - share) / degrees, 1e-300)
    return Correlation(sign * share**0.5, float(f_distribution.sf(ratio, extra, degrees)), count)


def _columns(column: NDArray[Any], rankdata: Any) -> NDArray[np.float64]:
    """(N, K) the centred ranks of numbers, or a column per name but the first."""
    if column.dtype.kind in "OUT":
        names = np.unique(column.astype(str))
        return np.asarray(column.astype(str)[:, None] == names[None, 1:], np.float64)
    ranks = rankdata(column)
    return np.asarray((ranks - ranks.mean())[:, None] / max(len(ranks), 1), np.float64)


def _unexplained(outcome: NDArray[np.float64], design: NDArray[np.float64]) -> tuple[float, int, NDArray[np.float64]]:
    """The sum of squares that least squares leave, the rank of the design and the slopes."""
    slopes, _, rank, _ = np.linalg.lstsq(design, outcome, rcond=None)
    return float(np.sum((outcome - design @ slopes) ** 2)), int(rank), np.asarray(slopes, np.float64)


def clicks_needed(curves: ArrayLike, target: float) -> NDArray[np.float64]:
    """How many clicks each object takes to reach a score: the NoC of FocalClick and SimpleClick.

    Args:
        curves: (N, K) score after each of K clicks.
        target: Score to reach, such as 0.9.

    Returns:
        (N,) number of the first click that reaches it; NaN where none does, a failure, which counts as K clicks.
    """
    reached = np.asarray(curves, np.float64) >= target
    return np.where(reached.any(1), reached.argmax(1) + 1.0, np.nan)


def area_under_curve(curves: ArrayLike) -> NDArray[np.float64]:
    """(N,) area under each of (N, K) curves of scores over clicks 1 to K, as a share of what perfect scores have."""
    values = np.asarray(curves, np.float64)
    if values.shape[1] == 1:
        return values[:, 0]
    return np.asarray(np.trapezoid(values, axis=1) / (values.shape[1] - 1), np.float64)
