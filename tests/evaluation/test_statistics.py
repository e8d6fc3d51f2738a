from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from vesalius.evaluation.statistics import (
    Comparison,
    Quartiles,
    area_under_curve,
    clicks_needed,
    holm,
    macro_average,
    partial_correlation,
    quartiles,
    signed_rank,
)


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


def test_quartiles_of_the_defined_values() -> None:
    assert quartiles([5, 1, np.nan, 2, 4, 3]) == Quartiles(3, 2, 4)
    assert quartiles([1, 2]) == Quartiles(1.5, 1.25, 1.75)
    assert np.isnan(quartiles([np.nan]).median)


def test_signed_rank_by_hand() -> None:
    # Differences 0 (dropped), 1, -2, 3, 4, 5: ranks for the second 1 + 3 + 4 + 5 = 13, for the first 2.
    found = signed_rank([1, 1, 3, 1, 1, 1, np.nan], [1, 2, 1, 4, 5, 6, 1])
    assert (found.objects, found.difference) == (6, 2)
    assert found.effect == pytest.approx((13 - 2) / 15)
    # Of the 32 signs of five ranks, those with a rank sum of at most 2: {}, {1}, {2}; twice, as the test is two-sided.
    assert found.p == pytest.approx(2 * 3 / 32)
    assert signed_rank([1, 2], [1, 2]) == Comparison(2, 0, 0, 1)
    assert np.isnan(signed_rank([np.nan], [1.0]).p)
    assert signed_rank([2, 2, 2], [1, 1.5, 1.2]).effect == -1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, np.nan, 0.03]) == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)
    # What a smaller p-value was corrected to, a larger one cannot undercut; and none is over 1.
    assert holm([0.02, 0.025, 0.9]) == pytest.approx([0.06, 0.06, 0.9])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([]).tolist() == []


def test_partial_correlation_is_that_of_textbooks() -> None:
    generator = np.random.default_rng(0)
    z = generator.normal(size=60)
    x, y = z + generator.normal(size=60), np.exp(z - 0.6 * generator.normal(size=60))
    x[0] = np.nan
    found = partial_correlation(y, x, [z])
    xy, xz, yz = (scipy.stats.spearmanr(*pair).statistic for pair in ((x[1:], y[1:]), (x[1:], z[1:]), (y[1:], z[1:])))
    value = (xy - xz * yz) / ((1 - xz**2) * (1 - yz**2)) ** 0.5
    assert found.value == pytest.approx(value)
    assert found.objects == 59
    t = value * ((59 - 2 - 1) / (1 - value**2)) ** 0.5
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(abs(t), 56))
    # Two held fixed: from the inverse of the matrix of rank correlations.
    w = generator.normal(size=60) + y
    inverse = np.linalg.inv(scipy.stats.spearmanr(np.column_stack([x, y, z, w])[1:]).statistic)
    several = -inverse[0, 1] / (inverse[0, 0] * inverse[1, 1]) ** 0.5
    assert partial_correlation(y, x, [z, w]).value == pytest.approx(several)
    assert partial_correlation(y, -x, [z]).value == pytest.approx(-value)


def test_partial_correlation_with_names() -> None:
    statsmodels = pytest.importorskip("statsmodels.api")
    generator = np.random.default_rng(1)
    names = np.array(["ct", "mr", "us"], object)[generator.integers(3, size=50)]
    x = generator.normal(size=50)
    y = x + (names == "mr") + generator.normal(size=50)
    ranks = [scipy.stats.rankdata(column) for column in (y, x)]
    kinds = np.column_stack([names == "mr", names == "us"]).astype(float)
    small = statsmodels.OLS(ranks[0], statsmodels.add_constant(ranks[1])).fit()
    large = statsmodels.OLS(ranks[0], statsmodels.add_constant(np.column_stack([ranks[1], kinds]))).fit()
    found = partial_correlation(y, names, [x])
    assert found.value == pytest.approx((1 - large.ssr / small.ssr) ** 0.5)
    assert found.p == pytest.approx(large.compare_f_test(small)[1])
    alone = statsmodels.OLS(ranks[0], statsmodels.add_constant(kinds)).fit()
    assert partial_correlation(y, x, [names]).value == pytest.approx((1 - large.ssr / alone.ssr) ** 0.5)


def test_what_does_not_vary_has_no_correlation() -> None:
    x = np.arange(10.0)
    assert np.isnan(partial_correlation(x, np.ones(10), []).value)
    assert np.isnan(partial_correlation(np.ones(10), x, []).value)
    assert np.isnan(partial_correlation(x, np.full(10, "ct"), [x[::-1] ** 0.5]).value)
    assert partial_correlation(x, x, []).value == pytest.approx(1)


def test_clicks_by_hand() -> None:
    curves = [[0.5, 0.9, 0.8], [0.2, 0.3, 0.4], [0.95, 0.1, 0.1]]
    assert clicks_needed(curves, 0.9) == pytest.approx([2, np.nan, 1], nan_ok=True)
    # Trapezes: (0.5 / 2 + 0.9 + 0.8 / 2) / 2, ...
    assert area_under_curve(curves) == pytest.approx([0.775, 0.3, 0.3125])
    assert area_under_curve([[0.7]]).tolist() == [0.7]
