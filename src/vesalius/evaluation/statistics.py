"""Averages over data sets, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000


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
        drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
        means.append(sums.sum() / counts.sum())
        resampled += drawn @ sums / (drawn @ counts) / len(clusters)
    low, high = np.percentile(resampled, (2.5, 97.5))
    if max(map(len, clusters.values())) < 2:
        low = high = np.nan
    return Estimate(float(np.mean(means)), float(low), float(high))
