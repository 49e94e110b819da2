"""References: ordinary least squares on the rows themselves, and every deal done by hand."""

import numpy as np
import pytest
from scipy.stats import norm, permutation_test, t, ttest_ind, ttest_rel

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.measure.membership import N_DEALT, adjusted_difference, cluster_means, membership_p, more_p


def two_sets(seed, *, n=(14, 11), shift=0.0, slope=1.0, apart=1.0, noise=0.3):
    """Values that follow a covariate, which is `apart` lower in the first set, plus a shift of the first set."""
    rng = np.random.default_rng(seed)
    x = rng.random(n[0]) * 2, rng.random(n[1]) * 2 + apart
    y = tuple(slope * one + noise * rng.normal(size=len(one)) for one in x)
    return (y[0] + shift, y[1]), x


def alone(*sets):
    return tuple(np.arange(len(one)) for one in sets)


def in_standard_errors(y, x, *, paired=False):
    """The membership coefficient over its HC2 standard error, by the textbook's matrices."""
    if paired:
        y, design = y[0] - y[1], np.column_stack([x[0] - x[1], np.ones(len(y[0]))])
    else:
        member = np.repeat([1.0, 0.0], [len(one) for one in y])
        y, design = np.concatenate(y), np.column_stack([np.ones(len(member)), np.concatenate(x), member])
    inverse = np.linalg.inv(design.T @ design)
    coefficient = inverse @ design.T @ y
    weight = (y - design @ coefficient) ** 2 / (1 - np.diag(design @ inverse @ design.T))
    return coefficient[-1] / np.sqrt((inverse @ (design.T * weight) @ design @ inverse)[-1, -1])


def intercept(y, x):
    """Of the differences of pairs over the differences in the covariate."""
    return np.polyfit(x[0] - x[1], y[0] - y[1], 1)[1]


def fitted(y, x):
    """Membership coefficient by least squares on rows."""
    member = np.repeat([1.0, 0.0], [len(one) for one in y])
    design = np.column_stack([np.ones(len(member)), member, np.concatenate(x)])
    return np.linalg.lstsq(design, np.concatenate(y), rcond=None)[0][1]


UNEQUAL = (np.array([0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 9]), np.array([3, 3, 1, 0, 0, 5, 6, 7, 8, 9, 10]))


@pytest.mark.parametrize("clusters", [None, UNEQUAL])
def test_the_interval_refits_the_regression_to_clusters_drawn_anew(clusters):
    y, x = two_sets(1)
    clusters = clusters or alone(*y)
    found, low, high = adjusted_difference(*y, covariate=x, clusters=clusters, seed=5, n_draws=200)
    assert found == pytest.approx(fitted(y, x), rel=1e-9)
    drawn, counts = [], [len(np.unique(one)) for one in clusters]
    times = [np.random.default_rng(5 + i).multinomial(n, np.full(n, 1 / n), size=200) for i, n in enumerate(counts)]
    for own, theirs in zip(*times, strict=True):
        rows = [
            np.concatenate(
                [np.tile(np.flatnonzero(label == one), k) for one, k in zip(np.unique(label), weight, strict=True)]
            )
            for label, weight in zip(clusters, (own, theirs), strict=True)
        ]
        drawn.append(
            fitted([one[i] for one, i in zip(y, rows, strict=True)], [one[i] for one, i in zip(x, rows, strict=True)])
        )
    n = min(counts)
    tail = norm.cdf(np.sqrt(n / (n - 1)) * t.ppf(0.025, n - 1))
    np.testing.assert_allclose([low, high], np.quantile(drawn, [tail, 1 - tail]), rtol=1e-9)


def test_paired_sets_are_drawn_together():
    y, x = two_sets(2, n=(12, 12))
    found = adjusted_difference(*y, covariate=x, clusters=alone(*y), seed=5, paired=True, n_draws=100)
    times = np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), size=100)
    rows = [np.repeat(np.arange(12), one) for one in times]
    drawn = [intercept([one[i] for one in y], [one[i] for one in x]) for i in rows]
    tail = norm.cdf(np.sqrt(12 / 11) * t.ppf(0.025, 11))
    np.testing.assert_allclose(found, [intercept(y, x), *np.quantile(drawn, [tail, 1 - tail])], rtol=1e-9)


@pytest.mark.parametrize("paired", [False, True])
def test_a_constant_covariate_leaves_the_difference_of_the_means(paired):
    y, _ = two_sets(3, n=(12, 12))
    x = (np.full(12, 0.3), np.full(12, 0.3))
    found = adjusted_difference(*y, covariate=x, clusters=alone(*y), seed=4, paired=paired)
    plain = bootstrap_mean(y[0] - y[1], seed=4) if paired else bootstrap_difference(*y, seed=4)
    np.testing.assert_allclose(found, plain, rtol=1e-9)
    p = [
        membership_p(
            *(one[:, None] for one in y), clusters=alone(*y), covariate=given, seed=4, paired=paired, n_dealt=300
        )
        for given in (None, x)
    ]
    assert p[0] == p[1]


@pytest.mark.parametrize("clusters", [None, UNEQUAL])
def test_p_with_a_covariate_deals_the_residuals_anew_and_refits(clusters):
    y, x = two_sets(6, shift=0.25)
    clusters = clusters or alone(*y)
    found = membership_p(*(one[:, None] for one in y), clusters=clusters, covariate=x, seed=9, n_dealt=200)
    y, x = (
        [
            np.array([one[label == i].mean() for i in np.unique(label)])
            for one, label in zip(both, clusters, strict=True)
        ]
        for both in (y, x)
    )
    together, given = np.concatenate(y), np.concatenate(x)
    reduced = np.polyval(np.polyfit(given, together, 1), given)
    rng, n, extreme = np.random.default_rng(9), len(y[0]), 0
    for _ in range(200):
        dealt = reduced + (together - reduced)[rng.permutation(len(together))]
        extreme += abs(in_standard_errors([dealt[:n], dealt[n:]], x)) >= abs(in_standard_errors(y, x)) - 1e-9
    assert 0.01 < found[0] < 0.5
    assert found[0] == (1 + extreme) / 201


def test_p_of_pairs_with_a_covariate_swaps_residuals_within_pairs():
    y, x = two_sets(7, n=(12, 12), shift=-0.15)
    found = membership_p(
        *(one[:, None] for one in y), clusters=alone(*y), covariate=x, seed=9, paired=True, n_dealt=200
    )
    apart, given = y[0] - y[1], x[0] - x[1]
    reduced = given * (given @ apart) / (given @ given)
    rng, extreme = np.random.default_rng(9), 0
    for _ in range(200):
        dealt = reduced + (apart - reduced) * np.where(rng.random(12) < 0.5, -1, 1)
        t = in_standard_errors((dealt, 0 * dealt), x, paired=True)
        extreme += abs(t) >= abs(in_standard_errors(y, x, paired=True)) - 1e-9
    assert 0.01 < found[0] < 0.5
    assert found[0] == (1 + extreme) / 201


@pytest.mark.parametrize("n", [(7, 7), (4, 9)])
@pytest.mark.parametrize("paired", [False, True])
def test_p_without_a_covariate_is_the_exact_permutation_test(paired, n):
    """All deals of these few rows, by scipy, with its own t of pairs or of Welch; ours draws 20,000 of them."""
    y, _ = two_sets(3, n=(7, 7) if paired else n, shift=0.4, slope=0.0)
    y = y if paired else (y[0] * 3 - y[0].mean(), y[1])  # of unequal spread
    kind = "samples" if paired else "independent"

    def statistic(one, other, axis):
        return abs((ttest_rel(one, other, axis) if paired else ttest_ind(one, other, axis=axis, equal_var=False))[0])

    how = {"permutation_type": kind, "n_resamples": np.inf, "vectorized": True, "alternative": "greater"}
    exact = permutation_test(y, statistic, **how).pvalue
    found = membership_p(*(one[:, None] for one in y), clusters=alone(*y), seed=1, paired=paired, n_dealt=20_000)[0]
    assert 0.001 < exact < 0.5
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact / 20_000) + 1e-4)


@pytest.mark.parametrize("paired", [False, True])
def test_each_of_several_columns_is_held_against_the_largest(paired):
    rng = np.random.default_rng(0)
    one, other = (
        rng.normal(size=(10, 4)) * [1, 1, 100, 1] + [0.5, 1.0, 40, 0],
        rng.normal(size=(10, 4)) * [1, 1, 100, 1],
    )
    one[:, 3] = other[:, 3] = 7.0  # nothing differs there
    found = membership_p(one, other, clusters=alone(one, other), seed=2, paired=paired, n_dealt=300)
    rng, null = np.random.default_rng(2), []
    together = np.concatenate([one, other])

    def size(one, other):
        with np.errstate(invalid="ignore", divide="ignore"):
            apart = (ttest_rel if paired else ttest_ind)(one[:, :3], other[:, :3]).statistic  # equal n: Welch's t
        return np.append(np.abs(apart), 0.0)

    for _ in range(300):
        if paired:
            swap = (rng.random(10) < 0.5)[:, None]
            dealt = np.where(swap, other, one), np.where(swap, one, other)
        else:
            dealt = np.split(together[rng.permutation(20)], 2)
        null.append(size(*dealt).max())
    observed = size(one, other)
    expected = [(1 + sum(each >= value - 1e-10 for each in null)) / 301 for value in observed]
    np.testing.assert_allclose(found, expected)
    assert found[3] == 1
    each = [
        membership_p(one[:, [i]], other[:, [i]], clusters=alone(one, other), seed=2, paired=paired, n_dealt=300)[0]
        for i in range(4)
    ]
    assert (found >= each).all()
    assert found[1] > each[1]


def test_near_duplicates_count_once():
    y, x = two_sets(4, shift=0.6)
    once = membership_p(*(one[:, None] for one in y), clusters=alone(*y), covariate=x, seed=0, n_dealt=500)
    width = np.ptp(adjusted_difference(*y, covariate=x, clusters=alone(*y), seed=0)[1:])
    y, x = (tuple(np.repeat(one, 5) for one in both) for both in (y, x))
    known = tuple(np.arange(len(one)) // 5 for one in y)
    again = membership_p(*(one[:, None] for one in y), clusters=known, covariate=x, seed=0, n_dealt=500)
    assert again == once
    assert np.ptp(adjusted_difference(*y, covariate=x, clusters=known, seed=0)[1:]) == pytest.approx(width)
    unknown = membership_p(*(one[:, None] for one in y), clusters=alone(*y), covariate=x, seed=0, n_dealt=500)
    assert unknown < once
    assert np.ptp(adjusted_difference(*y, covariate=x, clusters=alone(*y), seed=0)[1:]) < 0.6 * width


def test_means_of_clusters_are_in_the_order_of_their_labels():
    values = np.arange(10.0).reshape(5, 2)
    found = cluster_means(values, np.array([7, 3, 7, 3, 5]))
    np.testing.assert_array_equal(found, [[4, 5], [8, 9], [2, 3]])


UNEQUAL_SPREAD = [((20, 20), (1, 1)), ((20, 20), (0.3, 1.5)), ((10, 60), (2, 0.5)), ((60, 10), (2, 0.5))]


@pytest.mark.parametrize(("n", "spread"), UNEQUAL_SPREAD)
@pytest.mark.parametrize("given", [False, True])
def test_without_an_effect_p_is_seldom_small(given, n, spread):
    """Sets of unequal size and spread, but of the same mean (at equal covariate)."""
    small = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=n[0]), rng.normal(size=n[1]) + 1
        y = [(one if given else 0) + own * rng.normal(size=len(one)) for one, own in zip(x, spread, strict=True)]
        known = {"covariate": x} if given else {}
        p = membership_p(*(one[:, None] for one in y), clusters=alone(*y), seed=seed, n_dealt=99, **known)
        small += p[0] <= 0.05
    assert small <= 27


def test_without_an_effect_p_of_pairs_is_seldom_small():
    small = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x, common = (rng.normal(size=20), rng.normal(size=20) + 1), rng.normal(size=20)
        y = [one + common + own * rng.normal(size=20) for one, own in zip(x, (0.1, 1), strict=True)]
        columns = (one[:, None] for one in y)
        p = membership_p(*columns, clusters=alone(*y), covariate=x, seed=seed, paired=True, n_dealt=99)
        small += p[0] <= 0.05
    assert small <= 27


@pytest.mark.parametrize("scale", [1e-11, 1e9])
def test_the_unit_does_not_matter(scale):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(20, 2)) + np.array([1.8, 0]), rng.normal(size=(15, 2))
    for test in (membership_p, more_p):
        how = {"clusters": alone(one, other), "seed": 0}
        expected = test(one, other, **how)
        assert expected[0] < 0.1 < expected[1]
        np.testing.assert_array_equal(test(scale * one, scale * other, **how), expected)


def test_where_the_covariate_says_which_set_it_is_nothing_is_left_to_test():
    y, _ = two_sets(0, n=(12, 12), shift=1)
    known = (np.zeros(12), np.ones(12))
    assert membership_p(*(one[:, None] for one in y), clusters=alone(*y), covariate=known, seed=0)[0] == 1


def test_sets_that_are_constant_but_apart_differ():
    one, other = np.full((8, 1), 0.1), np.full((9, 1), 0.3)
    assert membership_p(one, other, clusters=alone(one, other), seed=0, n_dealt=499)[0] <= 2 / 500
    assert membership_p(one, one + 0.0, clusters=alone(one, one), seed=0, n_dealt=499, paired=True)[0] == 1


def test_paired_sets_need_the_same_clusters():
    y, x = two_sets(0)
    for function in (adjusted_difference, membership_p):
        values = y if function is adjusted_difference else [one[:, None] for one in y]
        with pytest.raises(InputError, match="paired sets hold the same paragraphs in the same order"):
            function(*values, covariate=x, clusters=alone(*y), seed=0, paired=True)


@pytest.mark.parametrize("paired", [True, False])
def test_the_one_sided_p_equals_a_plain_loop_over_deals(paired):
    generator = np.random.default_rng(3)
    one, other = generator.normal(size=(7, 4)), generator.normal(size=(7 if paired else 5, 4))
    one[:, 2] += 1.5
    found = more_p(one, other, clusters=alone(one, other), seed=6, paired=paired)
    dealing, larger = np.random.default_rng(6), np.ones(4)
    for _ in range(N_DEALT):
        both = np.concatenate([one, other])
        if paired:
            swap = dealing.random(7) < 0.5
            first, second = np.where(swap[:, None], other, one), np.where(swap[:, None], one, other)
        else:
            both = both[dealing.permutation(12)]
            first, second = both[:7], both[7:]
        larger += (first.mean(0) - second.mean(0)).max() >= one.mean(0) - other.mean(0) - 1e-9
    assert found == pytest.approx(larger / (1 + N_DEALT))
    assert found.argmin() == 2
