import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 1.0, size=(400, 40))
    hits = [low <= 3.0 <= high for _, low, high in (bootstrap_mean(own, seed=1, n_draws=400) for own in samples)]
    assert 0.90 <= np.mean(hits) <= 0.98


def test_clusters_widen_the_interval_as_if_each_were_one_paragraph():
    rng = np.random.default_rng(0)
    one = rng.normal(size=20)
    repeated = np.repeat(one, 10)
    label = np.repeat(np.arange(20), 10)
    widths = [
        high - low
        for _, low, high in (
            bootstrap_mean(one, seed=1),
            bootstrap_mean(repeated, seed=1, clusters=label),
            bootstrap_mean(repeated, seed=1),
        )
    ]
    assert widths[1] == pytest.approx(widths[0], rel=1e-9)
    assert widths[2] < 0.5 * widths[1]


def test_clusters_widen_the_interval_of_a_difference_too():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=20), rng.normal(size=15)
    label, labels = np.repeat(np.arange(20), 4), np.repeat(np.arange(15), 3)
    mean, low, high = bootstrap_difference(one, other, seed=2)
    again = bootstrap_difference(np.repeat(one, 4), np.repeat(other, 3), seed=2, clusters=(label, labels))
    np.testing.assert_allclose(again, (mean, low, high), rtol=1e-9)
    _, tight, loose = bootstrap_difference(np.repeat(one, 4), np.repeat(other, 3), seed=2)
    assert loose - tight < 0.7 * (high - low)


def test_other_axes_are_kept_and_seeds_repeat():
    values = np.random.default_rng(0).normal(size=(9, 4, 3))
    mean, low, high = bootstrap_mean(values, seed=3)
    assert mean.shape == low.shape == high.shape == (4, 3)
    assert np.allclose(mean, values.mean(0))
    assert (low == bootstrap_mean(values, seed=3)[1]).all()


def test_nothing_to_average_is_refused():
    with pytest.raises(InputError, match="no paragraphs to average"):
        bootstrap_mean(np.zeros((0, 3)), seed=0)
    with pytest.raises(InputError, match="level must lie between 0 and 1"):
        bootstrap_mean(np.zeros(3), seed=0, level=1.0)


@pytest.mark.parametrize(("n", "least"), [(12, 0.92), (6, 0.90)])
def test_few_paragraphs_widen_the_interval_enough(n, least):
    rng = np.random.default_rng(1)
    hits = [low <= 0 <= high for _, low, high in (bootstrap_mean(own, seed=1) for own in rng.normal(size=(300, n)))]
    assert np.mean(hits) >= least


def test_one_paragraph_has_no_interval():
    mean, low, high = bootstrap_mean(np.array([3.0]), seed=0)
    assert mean == 3.0
    assert np.isnan([low, high]).all()


def test_a_difference_of_two_sets_covers_the_truth():
    rng = np.random.default_rng(2)
    pairs = [(rng.exponential(1.0, 30), rng.exponential(2.0, 20)) for _ in range(300)]
    hits = [low <= -1.0 <= high for _, low, high in (bootstrap_difference(a, b, seed=0) for a, b in pairs)]
    assert 0.90 <= np.mean(hits) <= 0.99
    assert bootstrap_difference(*pairs[0], seed=0)[0] == pytest.approx(pairs[0][0].mean() - pairs[0][1].mean())
