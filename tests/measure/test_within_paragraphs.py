import numpy as np
import pytest
from scipy.stats import kstest, rankdata, spearmanr

from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.within_paragraphs import mean_where_defined, rank_correlation, shuffle_tests, shuffles


def slow_partial(one, other, given):
    """Correlate by hand what least squares leaves of two rankings of one paragraph."""
    design = np.column_stack([np.ones(len(one)), given])
    left = [ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0] for ranks in (one, other)]
    return np.corrcoef(*left)[0, 1]


def ranked(values):
    return rankdata(values, axis=1)


@pytest.mark.parametrize("n_levels", [3, 1000])  # with many ties and with hardly any
def test_correlations_equal_spearman_and_least_squares_in_every_paragraph(n_levels):
    random = np.random.default_rng(0)
    one, other, given = random.integers(n_levels, size=(3, 8, 15)).astype(float)
    other += one * (random.random((8, 1)) > 0.5)
    found = rank_correlation(ranked(one), ranked(other))
    partly = rank_correlation(ranked(one), ranked(other), ranked(given))
    for row in range(8):
        assert found[row] == pytest.approx(spearmanr(one[row], other[row]).statistic, abs=1e-12)
        slow = slow_partial(ranked(one)[row], ranked(other)[row], ranked(given)[row])
        assert partly[row] == pytest.approx(slow, abs=1e-12)


def test_a_correlation_is_undefined_where_nothing_is_left_to_correlate():
    position = np.tile(np.arange(9.0), (4, 1))
    one = np.stack([np.zeros(9), np.arange(9.0), -(np.arange(9.0) ** 3), np.array([3, 1, 4, 1, 5, 9, 2, 6, 5.0])])
    other = ranked(np.random.default_rng(0).random((4, 9)))
    assert np.isnan(rank_correlation(ranked(one), other)).tolist() == [True, False, False, False]
    # Drops that follow the position exactly leave rounding alone once it is regressed out.
    assert np.isnan(rank_correlation(ranked(one), other, position)).tolist() == [True, True, True, False]
    assert np.isnan(rank_correlation(other, ranked(one), position)).tolist() == [True, True, True, False]
    assert np.isnan(rank_correlation(0.1 * position, other, position)).all()


def test_regressing_out_a_constant_changes_nothing():
    one, other = (ranked(values) for values in np.random.default_rng(1).random((2, 5, 9)))
    flat = np.full((5, 9), 5.0)
    assert rank_correlation(one, other, flat) == pytest.approx(rank_correlation(one, other), abs=1e-15)


def test_shuffles_keep_each_paragraphs_values_and_repeat_with_the_seed():
    values = np.arange(24.0).reshape(3, 8)
    made = list(shuffles(values, seed=2, n=4000))
    assert all((np.sort(one, axis=1) == values).all() for one in made[:50])
    assert np.mean(made, axis=0) == pytest.approx(np.repeat(values.mean(1, keepdims=True), 8, axis=1), abs=0.2)
    assert all((a == b).all() for a, b in zip(made[:5], shuffles(values, seed=2, n=5), strict=True))


def test_means_are_of_the_paragraphs_where_the_statistic_is_defined():
    values, cluster = np.array([1.0, np.nan, 2.0, 5.0]), np.array([0, 0, 1, 2])
    mean, low, high = bootstrap_mean(np.array([1.0, 2.0, 5.0]), seed=3, clusters=np.array([0, 1, 2]))
    assert mean_where_defined(values, cluster, seed=3) == pytest.approx((float(mean), float(low), float(high)))
    assert np.isnan(mean_where_defined(np.full(4, np.nan), cluster, seed=0)).all()


def test_shuffle_tests_equal_a_plain_loop():
    random = np.random.default_rng(4)
    values, other = ranked(random.integers(6, size=(5, 7))), random.random((5, 7))
    values[2] = 4.0  # a paragraph without a correlation

    def statistic(ranks):
        return rank_correlation(ranks, ranked(other))

    def slow(ranks):
        return np.mean([spearmanr(ranks[row], other[row]).statistic for row in (0, 1, 3, 4)])

    null = [slow(one) for one in shuffles(values, seed=6, n=60)]
    far = sum(abs(one - np.mean(null)) >= abs(slow(values) - np.mean(null)) for one in null)
    ((centre, p),) = shuffle_tests([statistic], values, seed=6, n=60)
    assert centre == pytest.approx(np.mean(null), abs=1e-12)
    assert p == pytest.approx((1 + far) / 61)


def test_p_is_uniform_where_there_is_nothing_to_find():
    random = np.random.default_rng(5)
    found = []
    for seed in range(150):
        one, other = ranked(random.random((4, 8))), ranked(random.random((4, 8)))
        ((_, p),) = shuffle_tests([lambda ranks, other=other: rank_correlation(ranks, other)], one, seed=seed, n=60)
        found.append(p)
    assert kstest(found, "uniform").pvalue > 0.01
    assert min(found) >= 1 / 61


def test_without_a_defined_paragraph_there_is_no_test():
    other = ranked(np.random.default_rng(0).random((3, 6)))
    assert np.isnan(shuffle_tests([lambda ranks: rank_correlation(ranks, other)], np.ones((3, 6)), seed=0, n=5)).all()
