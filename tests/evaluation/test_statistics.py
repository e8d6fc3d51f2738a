from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from vesalius.evaluation.statistics import macro_average


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_data_sets_weigh_the_same_whatever_their_size() -> None:
    values = [0.2, 0.4, 0.6, 1.0]
    estimate = macro_average(values, ["a", "a", "a", "b"], ["1", "1", "2", "1"], rng())
    assert estimate.mean == pytest.approx((0.4 + 1.0) / 2)
    assert estimate.low <= estimate.mean <= estimate.high


def test_interval_is_the_percentile_bootstrap_of_independent_cases() -> None:
    values = np.random.default_rng(1).beta(4, 2, 60)
    estimate = macro_average(values, ["a"] * 60, [str(i) for i in range(60)], rng())
    oracle = scipy.stats.bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=rng())
    assert estimate.low == pytest.approx(oracle.confidence_interval.low, abs=0.006)
    assert estimate.high == pytest.approx(oracle.confidence_interval.high, abs=0.006)


def test_interval_of_two_data_sets_is_that_of_the_mean_of_means() -> None:
    a, b = np.random.default_rng(1).beta(4, 2, 40), np.random.default_rng(2).beta(2, 4, 25)
    estimate = macro_average([*a, *b], ["a"] * 40 + ["b"] * 25, [str(i) for i in range(65)], rng())
    oracle = scipy.stats.bootstrap(
        (a, b), lambda x, y, axis: (x.mean(axis) + y.mean(axis)) / 2, n_resamples=9999, method="percentile", rng=rng()
    )
    assert estimate.low == pytest.approx(oracle.confidence_interval.low, abs=0.006)
    assert estimate.high == pytest.approx(oracle.confidence_interval.high, abs=0.006)


def test_many_objects_of_few_cases_tell_little() -> None:
    by_case = np.random.default_rng(1).uniform(0.3, 0.9, 6)
    values = np.repeat(by_case, 50)
    clustered = macro_average(values, ["a"] * 300, np.repeat(np.arange(6), 50).astype(str).tolist(), rng())
    independent = macro_average(values, ["a"] * 300, [str(i) for i in range(300)], rng())
    assert clustered.mean == pytest.approx(independent.mean)
    assert clustered.high - clustered.low > 4 * (independent.high - independent.low)


def test_a_drawn_case_brings_all_its_objects() -> None:
    # Cases of 1 to 12 objects, the larger the worse, with values that vary within the case.
    generator = np.random.default_rng(3)
    groups = [generator.uniform(0, 1.2 - 0.08 * size, size) for size in (1, 2, 3, 5, 8, 12)]
    cases = [str(i) for i, group in enumerate(groups) for _ in group]
    estimate = macro_average(np.concatenate(groups), ["a"] * len(cases), cases, rng())
    drawn = [
        np.concatenate([groups[i] for i in generator.integers(len(groups), size=len(groups))]).mean()
        for _ in range(8000)
    ]
    assert [estimate.low, estimate.high] == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.012)


def test_cases_of_one_name_in_two_sets_are_two() -> None:
    one_each = macro_average([0.2, 0.8], ["a", "b"], ["1", "1"], rng())
    assert one_each.mean == pytest.approx(0.5)
    # Neither set has a second case, so nothing is known of the spread.
    assert np.isnan([one_each.low, one_each.high]).all()


def test_undefined_values_are_left_out() -> None:
    with_nan = macro_average([0.1, np.nan, 0.5, np.nan], ["a", "a", "a", "b"], ["1", "2", "3", "1"], rng())
    without = macro_average([0.1, 0.5], ["a", "a"], ["1", "3"], rng())
    assert with_nan == without
    nothing = macro_average([np.nan], ["a"], ["1"], rng())
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()
