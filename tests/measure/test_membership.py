"""References: ordinary least squares on the rows themselves, and every deal done by hand."""

import numpy as np
import pytest
from scipy.stats import norm, permutation_test, t

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
    drawn = [fitted([one[i] for one in y], [one[i] for one in x]) for i in rows]
    tail = norm.cdf(np.sqrt(12 / 11) * t.ppf(0.025, 11))
    np.testing.assert_allclose(found, [fitted(y, x), *np.quantile(drawn, [tail, 1 - tail])], rtol=1e-9)


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
        extreme += abs(fitted([dealt[:n], dealt[n:]], x)) >= abs(fitted(y, x)) - 1e-12
    assert 0.01 < found[0] < 0.5
    assert found[0] == (1 + extreme) / 201


def test_p_of_pairs_with_a_covariate_swaps_residuals_within_pairs():
    y, x = two_sets(7, n=(12, 12), shift=-0.4)
    found = membership_p(
        *(one[:, None] for one in y), clusters=alone(*y), covariate=x, seed=9, paired=True, n_dealt=200
    )
    together, given = np.concatenate(y), np.concatenate(x)
    reduced = np.polyval(np.polyfit(given, together, 1), given)
    rng, extreme = np.random.default_rng(9), 0
    for _ in range(200):
        one, other = np.split(together - reduced, 2)
        swap = rng.random(12) < 0.5
        dealt = reduced + np.concatenate([np.where(swap, other, one), np.where(swap, one, other)])
        extreme += abs(fitted(np.split(dealt, 2), x)) >= abs(fitted(y, x)) - 1e-12
    assert 0.01 < found[0] < 0.5
    assert found[0] == (1 + extreme) / 201


@pytest.mark.parametrize("paired", [False, True])
def test_p_without_a_covariate_is_the_exact_permutation_test(paired):
    """All deals of these few rows, by scipy; ours draws 20,000 of them."""
    y, _ = two_sets(3, n=(7, 7), shift=0.5, slope=0.0)
    kind = "samples" if paired else "independent"
    exact = permutation_test(
        y, lambda a, b, axis: a.mean(axis) - b.mean(axis), permutation_type=kind, n_resamples=np.inf, vectorized=True
    ).pvalue
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
    scale = np.sqrt(((one - other) ** 2).mean(0)) if paired else together.std(0)
    scale[3] = 1
    for _ in range(300):
        if paired:
            swap = (rng.random(10) < 0.5)[:, None]
            dealt = np.where(swap, other, one), np.where(swap, one, other)
        else:
            dealt = np.split(together[rng.permutation(20)], 2)
        null.append((abs(dealt[0].mean(0) - dealt[1].mean(0)) / scale).max())
    observed = abs(one.mean(0) - other.mean(0)) / scale
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


@pytest.mark.parametrize(("given", "paired"), [(False, False), (True, False), (True, True)])
def test_without_an_effect_p_is_seldom_small(given, paired):
    small = 0
    for seed in range(40):
        y, x = two_sets(seed, n=(12, 12), slope=1.0 if given else 0.0)
        columns = (one[:, None] for one in y)
        p = membership_p(
            *columns, clusters=alone(*y), covariate=x if given else None, seed=seed, paired=paired, n_dealt=400
        )
        small += p[0] <= 0.05
    assert small <= 6


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
