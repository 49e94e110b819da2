import numpy as np
import pytest
from scipy.stats import binomtest

from memhooks.errors import InputError
from memhooks.measure.shares import share_interval


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_without_near_duplicates_the_interval_is_the_exact_one(count):
    hits = np.arange(10) < count
    expected = binomtest(count, 10).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(
        share_interval(hits, clusters=np.arange(10)), (count / 10, expected.low, expected.high), atol=1e-9
    )


def test_copies_are_one_trial():
    copies = share_interval(np.repeat([1.0, 0, 0, 0], 3), clusters=np.repeat(np.arange(4), 3))
    apart = share_interval(np.array([1.0, 0, 0, 0]), clusters=np.arange(4))
    np.testing.assert_allclose(copies, apart, atol=1e-9)


def test_every_share_lies_within_its_interval():
    """The first is a cluster of 50 hits beside 10 single misses: 0.83, and hardly more than one trial."""
    cases = [(np.repeat([1.0, 0.0], [50, 10]), np.concatenate([np.zeros(50, int), np.arange(1, 11)]))]
    for seed in range(200):
        rng = np.random.default_rng(seed)
        label = rng.integers(rng.integers(1, 12), size=20)
        cases.append(((rng.random(20) < rng.random()).astype(float), label))
    for hits, label in cases:
        share, low, high = share_interval(hits, clusters=label)
        assert float(share) == hits.mean()
        assert 0 <= low <= share <= high <= 1
    _, low, high = share_interval(cases[0][0], clusters=cases[0][1])
    assert low < 0.1
    assert high > 0.99


def test_the_interval_holds_the_true_share_of_unequal_clusters():
    label = np.repeat(np.arange(9), [1, 1, 1, 2, 2, 3, 4, 6, 8])
    held = 0
    for seed in range(300):
        hits = (np.random.default_rng(seed).random(9) < 0.3)[label].astype(float)
        _, low, high = share_interval(hits, clusters=label)
        held += low <= 0.3 <= high
    assert held >= 0.94 * 300


def test_other_axes_are_kept():
    hits = np.random.default_rng(0).random((7, 2, 3)) < 0.5
    found = share_interval(hits, clusters=np.arange(7))
    for place in np.ndindex(2, 3):
        one = share_interval(hits[:, *place], clusters=np.arange(7))
        np.testing.assert_allclose([each[place] for each in found], one, atol=1e-9)


def test_no_paragraphs_are_refused():
    with pytest.raises(InputError, match="no paragraphs to take a share of"):
        share_interval(np.zeros(0), clusters=np.zeros(0, int))
