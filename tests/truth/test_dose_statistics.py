import numpy as np
import pytest
import xarray as xr
from scipy.stats import pearsonr, rankdata, spearmanr

from memhooks.truth.dose.partial import (
    enough_neighbours,
    indicators,
    neighbours,
    partial_correlation,
    partial_intervals,
    ranks,
    shuffled_correlations,
)
from memhooks.truth.dose.statistics import dose_statistics
from memhooks.truth.dose.thresholds import dose_thresholds, outcomes
from memhooks.unlearn.rows import drawn_weights


def table(k, gap, **measures):
    n = len(k)
    zeros = {"log_probability": np.full(n, -5000.0), "recited": np.zeros(n, bool), "nll": np.full(n, 4.0)}
    columns = {"k": k, "level": k, "gap": np.asarray(gap, float), "cluster": np.arange(n)} | zeros | measures
    return xr.Dataset({name: (("paragraph",), np.asarray(one)) for name, one in columns.items()})


def planted(seed=0, n=60):
    """k and a gap that k rules by half, as more readings mean a later last one."""
    rng = np.random.default_rng(seed)
    k = np.repeat(2 ** np.arange(5), n // 5)
    gap = (1600 / k * rng.random(len(k))).round()
    return k, gap, rng


def row(found, measure, question, condition="memorized"):
    return found.sel(row=f"{condition}, {measure}, {question}")


def residual(values, given):
    columns = np.column_stack([np.ones(len(values)), given])
    return values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]


def test_partial_rank_correlation_is_that_of_residuals():
    k, gap, rng = planted()
    y = rng.normal(size=len(k)) + 0.1 * k
    x, one, given = rankdata(k), rankdata(y), np.column_stack([rankdata(gap), rng.normal(size=len(k))])
    r, slope = partial_correlation(x, one, given)
    assert r == pytest.approx(pearsonr(residual(x, given), residual(one, given)).statistic, abs=1e-9)
    coefficients = np.linalg.lstsq(np.column_stack([np.ones(len(k)), x, given]), one, rcond=None)[0]
    assert slope == pytest.approx(coefficients[1], abs=1e-9)
    r, _ = partial_correlation(ranks(k.astype(float)), ranks(y), np.empty((len(k), 0)))
    assert r == pytest.approx(spearmanr(k, y).statistic, abs=1e-9)
    assert np.isnan(partial_correlation(x, np.ones(len(k)), given)[0])
    assert np.isnan(partial_correlation(x, one, x[:, None])[1])


def test_intervals_hold_the_slope_that_was_planted():
    rng, held = np.random.default_rng(0), 0
    for seed in range(40):
        x, given = rng.normal(size=40), rng.normal(size=(40, 1))
        weights = drawn_weights(np.arange(40), seed=seed, n_draws=200)
        y = 0.5 * x + 2 * given[:, 0] + rng.normal(size=40)
        _, (low, high) = partial_intervals(x, y, given, weights=weights[1:].astype(float), n_clusters=40)
        held += low <= 0.5 <= high
    assert 35 <= held <= 40


def test_shuffles_stay_within_blocks_and_equal_a_loop():
    _, gap, rng = planted(n=30)
    y, given = rng.normal(size=30), rankdata(gap)[:, None]
    block = neighbours(gap, seed=0)
    assert np.bincount(block).tolist() == [6] * 5
    assert all(gap[block == one].max() <= gap[block == one + 1].min() for one in range(4))
    found = shuffled_correlations(np.arange(30.0), y, given, block=block, seed=1, n=20)
    assert len(set(found.round(9))) == 20
    # Where each block holds one value, no deal changes anything.
    same = shuffled_correlations(block.astype(float), y, given, block=block, seed=1, n=5)
    np.testing.assert_allclose(same, partial_correlation(block.astype(float), y, given)[0], atol=1e-9)
    both = np.array(
        [
            shuffled_correlations(np.arange(3.0), np.array([0.0, 1, 5]), np.empty((3, 0)), **how)
            for how in [{"block": np.zeros(3, int), "seed": 0, "n": 600}]
        ]
    )[0]
    orders = [
        pearsonr(one, [0, 1, 5]).statistic for one in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
    ]
    assert set(both.round(6)) == set(np.round(orders, 6))
    assert all(60 < (abs(both - one) < 1e-6).sum() < 145 for one in orders)


def test_what_depends_on_recency_alone_is_no_dose_effect():
    k, gap, rng = planted(n=120)
    found = dose_statistics({"memorized": table(k, gap, centre_max=np.log2(1 + gap) + rng.normal(size=len(k)))}, seed=0)
    assert float(row(found, "centre_max", "dose")["p"]) < 0.01
    assert float(row(found, "centre_max", "dose, same gap")["p"]) > 0.05
    assert float(row(found, "centre_max", "gap, same dose")["p"]) < 0.01
    assert float(row(found, "centre_max", "gap, same dose")["slope"]) == pytest.approx(1, abs=0.4)


def test_what_depends_on_the_dose_alone_is_no_effect_of_recency():
    k, gap, rng = planted(n=120)
    steps = (k >= 8) + 0.3 * rng.normal(size=len(k))  # a step, which no straight line takes out
    found = dose_statistics({"memorized": table(k, gap, centre_max=steps)}, seed=0)
    assert float(row(found, "centre_max", "dose, same gap")["p"]) < 0.01
    assert float(row(found, "centre_max", "gap, same dose")["p"]) > 0.05


def test_what_follows_from_the_loss_is_no_more_than_the_loss():
    k, gap, rng = planted(n=120)
    nll = 4 / np.sqrt(k) * np.exp(0.3 * rng.normal(size=len(k)))
    of_loss = np.log(nll) ** 2 + 0.2 * rng.normal(size=len(k))  # falls and rises
    beyond = of_loss + 0.5 * np.log2(k)
    found = dose_statistics({"memorized": table(k, gap, nll=nll, centre_max=of_loss, centre_l2=beyond)}, seed=0)
    assert float(row(found, "centre_max", "dose, same loss")["p"]) > 0.05
    assert float(row(found, "centre_l2", "dose, same loss")["p"]) < 0.01
    assert "memorized, nll, dose, same loss" not in found["row"].values


def test_the_difference_takes_out_what_the_words_do():
    k, gap, rng = planted()
    words = 5 * np.log2(k) + rng.normal(size=len(k))  # the paragraphs of higher levels happen to be other ones
    found = dose_statistics(
        {
            "memorized": table(k, gap, centre_max=words + 0.1 * rng.normal(size=len(k))),
            "twin": table(k, gap, centre_max=words),
        },
        seed=0,
    )
    assert float(row(found, "centre_max", "dose")["p"]) < 0.01
    assert float(row(found, "centre_max", "dose", "twin")["p"]) < 0.01
    assert float(row(found, "centre_max", "dose", "difference")["p"]) > 0.05
    assert abs(float(row(found, "centre_max", "dose", "difference")["slope"])) < 0.1


@pytest.mark.parametrize("question", ["dose", "dose, same gap", "gap, same dose"])
def test_p_is_calibrated_where_k_means_nothing(question):
    small = []
    for seed in range(100):
        k, gap, rng = planted(seed, n=40)
        y = rng.normal(size=len(k)) + (np.log2(1 + gap) if question == "dose, same gap" else 0)
        if question == "gap, same dose":
            x, given, block, y = ranks(gap), indicators(k), k, y + (k >= 8)
        else:
            x, given, block = ranks(k.astype(float)), np.empty((len(k), 0)), np.zeros(len(k), int)
        if question == "dose, same gap":
            given, block = ranks(gap)[:, None], neighbours(gap, seed=seed)
        null = shuffled_correlations(x, ranks(y), given, block=block, seed=seed, n=99)
        own, _ = partial_correlation(x, ranks(y), given)
        small.append((1 + (abs(null - null.mean()) >= abs(own - null.mean())).sum()) / 100)
    assert 0.03 <= np.mean(np.array(small) <= 0.1) <= 0.18
    assert np.mean(small) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(
    "function", [lambda nll: np.log(nll) ** 2 + 0.02 * np.sin(1e6 * nll), lambda nll: 1.0 * (nll < 1.5)]
)
def test_p_is_calibrated_where_the_loss_alone_matters_and_there_are_just_enough_paragraphs(function):
    """Where it is refused, four per level, p is far too small often."""
    small = {}
    for per_level in (24, 4):
        hits = []
        for seed in range(100):
            rng, k = np.random.default_rng(seed), np.repeat([1, 2, 4], per_level)
            nll = 4 / np.sqrt(k) * np.exp(0.3 * rng.normal(size=len(k)))
            given, block = ranks(nll)[:, None], neighbours(nll, seed=seed)
            y = ranks(function(nll))
            null = shuffled_correlations(ranks(np.log2(k)), y, given, block=block, seed=seed, n=99)
            own, _ = partial_correlation(ranks(np.log2(k)), y, given)
            hits.append((1 + (abs(null - null.mean()) >= abs(own - null.mean()) - 1e-9).sum()) / 100 <= 0.05)
        small[per_level] = np.mean(hits)
        assert enough_neighbours(k) == (per_level == 24)
    assert small[24] <= 0.11
    assert small[4] > 0.2


def test_few_paragraphs_are_asked_no_conditional_questions():
    k, gap, rng = planted(n=120)
    few = np.where(np.arange(len(k)) % 24 < 4, rng.normal(size=len(k)), np.nan)
    values = {"centre_max": rng.normal(size=len(k)), "perturbed_nll": few}
    found = dose_statistics({"memorized": table(k, gap, **values)}, seed=0, n_shuffles=19)
    for question in ("dose, same gap", "dose, same loss"):
        dear, cheap = row(found, "perturbed_nll", question), row(found, "centre_max", question)
        assert bool(dear["too_few"])
        assert int(dear["n"]) == 20
        assert np.isnan([float(dear[name]) for name in ("correlation", "p", "p_max", "slope", "slope_low")]).all()
        assert not bool(cheap["too_few"])
        assert 0 < float(cheap["p_max"]) <= 1
    for question in ("dose", "gap, same dose"):
        assert not bool(row(found, "perturbed_nll", question)["too_few"])
        assert np.isfinite(float(row(found, "perturbed_nll", question)["p"]))


@pytest.mark.parametrize(
    ("levels", "per_level", "enough"), [(8, 15, True), (8, 14, False), (3, 24, True), (3, 23, False)]
)
def test_how_many_are_enough(levels, per_level, enough):
    assert enough_neighbours(np.repeat(2 ** np.arange(levels), per_level)) == enough


def test_the_largest_of_many_measures_is_no_finding():
    corrected, least = [], []
    for seed in range(6):
        k, gap, rng = planted(seed, n=30)
        names = ("centre_max", "centre_l2", "log_gradient", "attention_head")
        found = dose_statistics(
            {"memorized": table(k, gap, **{name: rng.normal(size=len(k)) for name in names})}, seed=seed, n_shuffles=99
        )
        asked = found.isel(row=(found["question"].values == "dose") & ~np.isnan(found["p"].values))
        assert (asked["p_max"].values >= asked["p"].values - 0.05).all()
        corrected.append(float(asked["p_max"].min()))
        least.append(float(asked["p"].min()))
    assert np.mean(corrected) > np.mean(least) + 0.1


def test_what_is_constant_or_rare_has_no_statistic():
    k, gap, rng = planted(n=40)
    few = np.where(np.arange(len(k)) < 5, rng.normal(size=len(k)), np.nan)
    found = dose_statistics(
        {"memorized": table(k, gap, centre_max=np.ones(len(k)), centre_l2=few)}, seed=0, n_shuffles=9
    )
    assert np.isnan(float(row(found, "centre_max", "dose")["p"]))
    assert "memorized, centre_l2, dose" not in found["row"].values
    unknown = dose_statistics(
        {"memorized": table(k, np.full(len(k), np.nan), centre_max=rng.normal(size=len(k)))}, seed=0, n_shuffles=9
    )
    assert set(unknown["question"].values) == {"dose", "dose, same loss"}


def test_of_near_duplicates_one_counts():
    k, gap, rng = planted(n=40)
    one = table(k, gap, centre_max=rng.normal(size=len(k)))
    both = xr.concat([one, one], "paragraph")
    first, second = (dose_statistics({"memorized": each}, seed=0, n_shuffles=19) for each in (one, both))
    for name in ("n", "correlation", "p", "slope_low"):
        np.testing.assert_allclose(first[name], second[name])


def test_thresholds_are_where_half_come_out():
    k = np.repeat([1, 2, 4, 8], 8)
    recited = np.concatenate([np.zeros(8), [1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0], np.ones(8)]).astype(bool)
    found = dose_thresholds({"memorized": table(k, k, recited=recited)}, seed=0)
    one = found.sel(row="memorized, recited")
    assert float(one["threshold"]) == pytest.approx(2**1.5)  # midway between 1/4 and 3/4
    assert (float(one["below"]), float(one["above"])) == (2, 4)
    assert 1.5 < float(one["threshold_low"]) < 2**1.5 < float(one["threshold_high"]) < 5
    never = found.sel(row="memorized, queries_100")
    assert np.isinf([float(never[f"threshold{end}"]) for end in ("", "_low", "_high")]).all()
    always = dose_thresholds({"memorized": table(k, k, recited=np.ones(32, bool))}, seed=0).sel(
        row="memorized, recited"
    )
    assert float(always["threshold"]) == 0


def test_a_share_that_falls_is_evened_out():
    k = np.repeat([1, 2, 4], 4)
    recited = np.array([0, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0], bool)  # 0, 3/4, 1/4: pooled to 0, 1/2, 1/2
    one = dose_thresholds({"memorized": table(k, k, recited=recited)}, seed=0).sel(row="memorized, recited")
    assert float(one["threshold"]) == pytest.approx(2)


def test_outcomes_count_samples():
    logs = np.log([0.6, 0.4, 0.01, 1e-4, 1e-6])
    k = np.array([1, 1, 2, 2, 4])
    found = outcomes(table(k, k, log_probability=logs))
    assert found["queries_1"].tolist() == [1, 0, 0, 0, 0]
    assert found["queries_100"].tolist() == [1, 1, 1, 0, 0]
    assert found["queries_10000"].tolist() == [1, 1, 1, 1, 0]


def test_indicators_leave_out_the_first_level():
    assert indicators(np.array([1, 2, 4, 1])).tolist() == [[0, 0], [1, 0], [0, 1], [0, 0]]
