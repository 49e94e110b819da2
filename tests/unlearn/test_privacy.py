import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from xarray import Dataset

from memhooks.errors import InputError
from memhooks.measure.token_scores import min_k, token_scores
from memhooks.model.loading import load_model
from memhooks.unlearn.kept import continuation_log_probabilities
from memhooks.unlearn.privacy import SCORES, auc, distance_to_twin, membership_rows, membership_scores


def test_membership_scores_equal_slow_loops(neo, model, paragraphs):
    found = membership_scores(model, paragraphs, batch_size=4)
    with torch.no_grad():
        logs = neo(paragraphs.tokens).logits.double().log_softmax(-1)
    for row, tokens in enumerate(paragraphs.tokens.tolist()):
        own, standing = [], []
        for pos in range(1, 24):
            all_logs = logs[row, pos - 1].tolist()
            mean = sum(math.exp(x) * x for x in all_logs)
            spread = math.sqrt(sum(math.exp(x) * (x - mean) ** 2 for x in all_logs))
            own.append(all_logs[tokens[pos]])
            standing.append((own[-1] - mean) / spread)
        n = round(0.2 * 23)
        assert found["loss"].values[row] == pytest.approx(np.mean(own), rel=1e-5)
        assert found["min_k"].values[row] == pytest.approx(np.mean(sorted(own)[:n]), rel=1e-5)
        assert found["min_k_pp"].values[row] == pytest.approx(np.mean(sorted(standing)[:n]), rel=1e-4)
    known = min_k(token_scores(model, paragraphs), first=1)
    np.testing.assert_allclose(found["min_k"], known, rtol=1e-5)


def test_logits_go_through_in_pieces_with_the_same_result(model, paragraphs, monkeypatch):
    whole = membership_scores(model, paragraphs)
    monkeypatch.setattr("memhooks.unlearn.privacy._MOST_LOGITS", 1)
    for name, values in membership_scores(model, paragraphs).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-5)


def test_a_certain_prediction_has_a_standing(model, paragraphs):
    with torch.no_grad():
        model.unembed.b_U[5] += 1e6
    assert np.isfinite(membership_scores(model, paragraphs)["min_k_pp"]).all()


@pytest.mark.parametrize("levels", [3, 1000])
def test_the_auc_is_mann_and_whitneys_with_ties_as_halves(levels):
    draw = np.random.default_rng(levels)
    for _ in range(20):
        one, other = (draw.integers(levels, size=size).astype(float) for size in (7, 11))
        known = mannwhitneyu(one, other).statistic / 77
        assert auc(one, other) == pytest.approx(known, abs=1e-12)
    assert auc(np.array([2.0]), np.array([1.0])) == 1
    assert auc(np.array([1.0]), np.array([1.0])) == 0.5


def test_an_auc_of_no_numbers_is_refused():
    with pytest.raises(InputError, match="scores that are numbers on both sides, got 1 and 0 with 0 NaN"):
        auc(np.ones(1), np.ones(0))
    with pytest.raises(InputError, match="got 2 and 1 with 1 NaN"):
        auc(np.array([1.0, np.nan]), np.ones(1))


def test_aucs_stand_beside_each_other_with_intervals_over_clusters():
    draw = np.random.default_rng(0)

    def scores(size, shift):
        names = ("loss", "min_k", "min_k_pp")
        return Dataset({name: ("paragraph", draw.normal(shift, 1, size)) for name in names})

    forget = {"before": scores(30, 1.5), "after": scores(30, 0.0), "twin": scores(30, 0.0)}
    unseen = {name: scores(40, 0.0) for name in forget}
    clusters = (np.arange(30) // 3, np.arange(40))
    rows = membership_rows(forget, unseen, clusters=clusters, seed=0)
    assert [each.row.label for each in rows] == [f"membership AUC: {name}" for name in ("loss", "min-k", "min-k++")]
    for each, name in zip(rows, ("loss", "min_k", "min_k_pp"), strict=True):
        for column in forget:
            point, low, high = each.intervals[column]
            assert point == pytest.approx(auc(forget[column][name].values, unseen[column][name].values))
            assert low <= point <= high
            assert low < high
        assert each.intervals["change"][2] < 0  # what was given away no longer is
        assert each.intervals["after"][1] < 0.5 < each.intervals["after"][2]


def test_a_copied_paragraph_is_no_further_evidence():
    draw = np.random.default_rng(1)
    once = draw.normal(0.5, 1, 10)

    def width(values, label):
        nodes, others = (
            {name: Dataset(dict.fromkeys(SCORES, ("paragraph", scores))) for name in ("before", "after")}
            for scores in (values, unseen)
        )
        _, low, high = membership_rows(nodes, others, clusters=(label, np.arange(12)), seed=0)[0].intervals["after"]
        return high - low

    unseen = draw.normal(0, 1, 12)
    single = width(once, np.arange(10))
    assert width(np.repeat(once, 8), np.repeat(np.arange(10), 8)) == pytest.approx(single, rel=1e-9)
    assert width(np.repeat(once, 8), np.arange(80)) < 0.9 * single


def test_distance_to_the_twin_equals_slow_loops(neo, model, paragraphs):
    other = copy.deepcopy(neo)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.9)
    twin = load_model(copy.deepcopy(other))
    found = distance_to_twin(model, paragraphs, continuation_log_probabilities(twin, paragraphs))
    with torch.no_grad():
        own, theirs = (one(paragraphs.tokens).logits.double().log_softmax(-1) for one in (neo, other))
    for row, tokens in enumerate(paragraphs.tokens.tolist()):
        apart, drift = [], []
        for pos in range(12, 24):
            p, q = theirs[row, pos - 1].tolist(), own[row, pos - 1].tolist()
            apart.append(abs(p[tokens[pos]] - q[tokens[pos]]))
            drift.append(sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)))
        assert found["nll_distance"].values[row] == pytest.approx(np.mean(apart), rel=1e-4)
        assert found["kl_from_twin"].values[row] == pytest.approx(np.mean(drift), rel=1e-4)
    itself = distance_to_twin(twin, paragraphs, continuation_log_probabilities(twin, paragraphs))
    assert itself["kl_from_twin"].values.max() <= 1e-6
    assert (itself["nll_distance"].values == 0).all()
