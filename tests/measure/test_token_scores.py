import inspect

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure import token_scores as module
from memhooks.measure.recitation import recitation
from memhooks.measure.token_scores import min_k, min_k_tokens, token_scores
from memhooks.model.labelled import load_result, save_result
from memhooks.paragraphs.paragraphs import Paragraphs


@pytest.fixture
def scores(model, paragraphs):
    return token_scores(model, paragraphs)


@torch.no_grad()
def reference(neo, tokens, k):
    """From all logits of Hugging Face, token by token."""
    logits = neo(tokens).logits.double()
    found = []
    for row in range(len(tokens)):
        for pos in range(1, tokens.shape[1]):
            one, true = logits[row, pos - 1].tolist(), int(tokens[row, pos])
            total = np.log(np.exp(one).sum())
            ranked = sorted(range(len(one)), key=lambda token: (-one[token], token))
            rival = max(value for token, value in enumerate(one) if token != true)
            top = ranked[:k]
            found.append((one[true] - total, one[true] - rival, ranked.index(true), top, [one[t] - total for t in top]))
    return [
        np.array(one).reshape(len(tokens), tokens.shape[1] - 1, *np.shape(one[0])) for one in zip(*found, strict=True)
    ]


@pytest.mark.parametrize("k", [1, 5, 101])
def test_scores_equal_those_from_all_hugging_face_logits(neo, model, paragraphs, k):
    scores = token_scores(model, paragraphs, k=k, batch_size=4)
    log_prob, gap, rank, top, top_log_probs = reference(neo, paragraphs.tokens, k)
    np.testing.assert_allclose(scores["log_prob"], log_prob, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores["gap"], gap, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(scores["rank"], rank)
    np.testing.assert_array_equal(scores["top_tokens"], top)
    np.testing.assert_allclose(scores["top_log_probs"], top_log_probs, rtol=1e-5, atol=1e-5)
    assert scores["pos"].values.tolist() == list(range(1, 24))
    assert scores.attrs["n_prefix"] == 12


def test_a_positive_gap_means_that_greedy_decoding_says_it(model, paragraphs):
    own = paragraphs.with_continuation(recited(model, paragraphs))
    scores = token_scores(model, own)
    assert (scores["gap"].sel(pos=slice(12, None)) > 0).all()
    np.testing.assert_array_equal(scores["gap"] > 0, scores["rank"] == 0)
    np.testing.assert_array_equal(
        (scores["rank"] == 0).sel(pos=slice(12, None)).sum("pos"), recitation(model, own)["matches"]
    )


def recited(model, paragraphs):
    from memhooks.model.decoding import greedy_continuation

    return greedy_continuation(model, paragraphs.prefix, n_tokens=paragraphs.n_continuation)


def test_of_equally_likely_tokens_the_smaller_id_comes_first(model, paragraphs):
    with torch.no_grad():
        model.unembed.W_U[:, 7:] = model.unembed.W_U[:, 7:8]
        model.unembed.b_U[7:] = 0
        model.unembed.b_U[:7] = -1000
    model.unembed.b_U.data[7:] = 5
    scores = token_scores(model, paragraphs, k=3)
    assert (scores["top_tokens"] == np.array([7, 8, 9])).all()
    later = paragraphs.tokens[:, 1:].numpy() >= 7
    np.testing.assert_array_equal(scores["rank"].values[later], paragraphs.tokens[:, 1:].numpy()[later] - 7)
    assert (scores["gap"].values[later] == 0).all()


@pytest.mark.parametrize("most", [1, 101 * 4 * 5])
def test_scores_do_not_depend_on_how_the_logits_are_cut(model, paragraphs, scores, monkeypatch, most):
    largest = []
    logits_of = module.scored_logits
    monkeypatch.setattr(module, "_MOST_LOGITS", most)
    monkeypatch.setattr(
        module, "scored_logits", lambda *given: largest.append(logits_of(*given)) or largest[-1].clone()
    )
    cut = token_scores(model, paragraphs, batch_size=4)
    assert max(one.numel() for one in largest) <= max(most, 4 * 101)
    assert len(largest) > 2
    for name in scores:
        np.testing.assert_allclose(cut[name], scores[name], rtol=1e-5, atol=1e-5)


def test_half_precision_is_summed_in_single(model, paragraphs):
    scores = token_scores(model.to(torch.bfloat16), paragraphs)
    assert scores["log_prob"].dtype == np.float32
    assert np.isfinite(scores["log_prob"]).all()


@pytest.mark.parametrize(("fraction", "number"), [(0.2, 2), (0.01, 1), (0.5, 6), (1.0, 12)])
def test_min_k_is_the_mean_of_the_least_likely_continuation_tokens(scores, fraction, number):
    for row, found in enumerate(min_k(scores, fraction=fraction).values):
        own = sorted(scores["log_prob"].values[row, 11:].tolist())  # column 0 scores position 1
        assert found == pytest.approx(np.mean(own[:number]), rel=1e-5)
    assert min_k(scores, fraction=fraction)["paragraph"].equals(scores["paragraph"])


def test_min_k_may_start_anywhere_and_a_certain_text_has_none(scores):
    whole = min_k(scores, fraction=1.0, first=1)
    np.testing.assert_allclose(whole, scores["log_prob"].mean("pos"), rtol=1e-5)
    assert (min_k(scores * 0 + scores * 0, fraction=0.2, first=3) == 0).all()


def test_the_tokens_of_min_k_are_named_ties_to_the_first(scores):
    chosen = min_k_tokens(scores.assign(log_prob=scores["log_prob"] * 0), fraction=0.25)
    assert chosen["pos"].values[chosen.values[0]].tolist() == [12, 13, 14]
    one = min_k_tokens(scores.isel(paragraph=2))
    np.testing.assert_array_equal(one, min_k_tokens(scores).isel(paragraph=2))
    planted = scores.copy(deep=True)
    planted["log_prob"].values[3, 20] = -99.0
    assert bool(min_k_tokens(planted, fraction=0.01)[3].sel(pos=21))


def test_a_result_is_saved_and_read_back(scores, tmp_path):
    save_result(scores, tmp_path / "scores.nc")
    assert load_result(tmp_path / "scores.nc").equals(scores)


@pytest.mark.parametrize("k", [0, -1, 102])
def test_impossible_numbers_of_alternatives_are_refused(model, paragraphs, k):
    with pytest.raises(InputError, match=rf"k must lie in 1..101 \(the model's vocabulary\), got {k}"):
        token_scores(model, paragraphs, k=k)


def test_what_cannot_be_scored_is_refused(model, paragraphs, scores):
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        token_scores(model, paragraphs, batch_size=0)
    with pytest.raises(InputError, match="token ids must lie in"):
        token_scores(model, Paragraphs(torch.full((1, 10), 500), 5))
    for fraction in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=r"fraction must lie in \(0, 1\]"):
            min_k(scores, fraction=fraction)
    for first in (0, 24):
        with pytest.raises(InputError, match=rf"first must be a scored position, 1..23, got {first}"):
            min_k(scores, first=first)
    with pytest.raises(InputError, match="min_k needs what token_scores returned, got rank"):
        inspect.unwrap(min_k)(scores[["rank"]])
