import copy
import math

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.model.decoding import greedy_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.kept import (
    _tail,
    continuation_log_probabilities,
    distinct_pairs,
    generation_health,
    held_out_kept,
    held_out_reference,
    others_kept,
    pooled_rows,
)


@pytest.fixture
def changed(neo):
    """The same GPT-Neo with noise in its weights: as Hugging Face's and hooked."""
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in neo.parameters():
            weight.add_(0.05 * weight.std() * torch.randn_like(weight))
    return neo, load_model(copy.deepcopy(neo))


@torch.no_grad()
def slow_logs(neo, tokens):
    return neo(tokens).logits.double().log_softmax(-1)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_held_out_measures_equal_loops_over_hugging_faces_logits(neo_source, model, changed, paragraphs, batch_size):
    neo, edited = changed
    reference = held_out_reference(model, paragraphs, batch_size=batch_size)
    found = held_out_kept(edited, reference, batch_size=batch_size)
    own = greedy_continuation(model, paragraphs.prefix, n_tokens=12)
    before, after = slow_logs(neo_source, paragraphs.tokens), slow_logs(neo, paragraphs.tokens)
    said = slow_logs(neo, torch.cat([paragraphs.prefix, own], 1))
    for row in range(6):
        drift, same, nll, em, unbroken, own_nll = [], 0, 0.0, 0, True, 0.0
        for pos in range(12, 24):
            p, q = before[row, pos - 1], after[row, pos - 1]
            drift.append(sum(math.exp(a) * (a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True)))
            same += int(p.argmax()) == int(q.argmax())
            nll -= q[paragraphs.tokens[row, pos]].item()
            unbroken &= int(said[row, pos - 1].argmax()) == int(own[row, pos - 12])
            em += unbroken
            own_nll -= said[row, pos - 1, own[row, pos - 12]].item()
        one = found.isel(paragraph=row)
        np.testing.assert_allclose(one["kl_by_token"], drift, rtol=1e-4, atol=1e-5)
        assert one["kl"].item() == pytest.approx(np.mean(drift), rel=1e-4, abs=1e-5)
        assert one["same_top"].item() == pytest.approx(same / 12)
        assert one["nll"].item() == pytest.approx(nll / 12, rel=1e-5)
        assert one["own_exact_match"].item() == em
        assert one["own_nll"].item() == pytest.approx(own_nll / 12, rel=1e-5, abs=1e-5)
    assert found["kl"].values.mean() > 1e-3
    assert 0 < found["same_top"].values.mean() < 1


def test_an_unchanged_model_has_lost_nothing(model, paragraphs):
    reference = held_out_reference(model, paragraphs)
    found = held_out_kept(model, reference)
    assert found["kl_by_token"].values.max() <= 1e-6
    assert (found["own_exact_match"].values == 12).all()
    assert (found["same_top"].values == 1).all()
    assert reference.log_probabilities.dtype == torch.float32
    assert reference.log_probabilities.shape == (6, 12, 101)


def test_the_reference_does_not_move_with_the_model(model, paragraphs):
    reference = held_out_reference(model, paragraphs)
    stored = reference.log_probabilities.clone()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.9)
    assert held_out_kept(model, reference)["kl"].values.min() > 0
    assert torch.equal(reference.log_probabilities, stored)


def test_logits_go_through_in_pieces_with_the_same_result(model, paragraphs, monkeypatch):
    whole = continuation_log_probabilities(model, paragraphs)
    monkeypatch.setattr("memhooks.unlearn.kept._MOST_LOGITS", 2 * 12 * 101 + 1)
    torch.testing.assert_close(continuation_log_probabilities(model, paragraphs), whole, rtol=1e-5, atol=1e-5)


def test_perplexity_is_e_to_the_nats_of_all_tokens(neo_source, model, changed, paragraphs):
    _, edited = changed
    reference = held_out_reference(model, paragraphs, batch_size=4)
    before, after = (held_out_kept(one, reference, batch_size=4) for one in (model, edited))
    rows = {each.row.label: each.intervals for each in pooled_rows(before, after, clusters=np.arange(6), seed=0)}
    logs = slow_logs(neo_source, paragraphs.tokens)
    surprise = [-logs[row, pos - 1, paragraphs.tokens[row, pos]].item() for row in range(6) for pos in range(12, 24)]
    known = math.exp(sum(surprise) / len(surprise))
    perplexity, ratio = rows["held out: perplexity"], rows["held out: perplexity ratio"]
    assert perplexity["before"][0] == pytest.approx(known, rel=1e-5)
    assert abs(known - 2 ** np.mean(surprise)) > 1  # nats are no bits
    batches = [np.mean(surprise[:48]), np.mean(surprise[48:])]
    assert abs(known - np.mean(np.exp(batches))) > 1e-2  # nor is a mean over batches one over tokens
    assert ratio["after"][0] == pytest.approx(float(perplexity["after"][0] / perplexity["before"][0]))
    assert ratio["change"][0] == pytest.approx(float(ratio["after"][0]) - 1)
    for name in ("before", "after"):
        point, low, high = perplexity[name]
        assert low < point < high
    log_draws = ratio["after"]
    assert log_draws[1] < log_draws[0] < log_draws[2]


def test_the_tail_is_the_value_that_99_of_100_tokens_do_not_exceed():
    values = np.random.default_rng(0).random((10, 10))
    weights = np.random.default_rng(1).integers(0, 4, (50, 10))
    weights[0] = 1
    drawn = _tail(values, weights)
    assert drawn[0] == np.sort(values.ravel())[98] == np.quantile(values, 0.99, method="inverted_cdf")
    for tail, times in zip(drawn, weights, strict=True):
        expanded = np.sort(np.repeat(values, times, axis=0).ravel())
        assert tail == expanded[math.ceil(0.99 * len(expanded) - 1e-9) - 1]
    assert len(set(drawn)) > 1


def test_others_are_recited_as_before(model, paragraphs):
    found = others_kept(model, paragraphs)
    assert set(found) == {"exact_match", "longest_run", "matches", "nll", "full_match"}
    with pytest.raises(InputError, match="token ids must lie in"):
        others_kept(model, Paragraphs(paragraphs.tokens + 90, 12))
    with pytest.raises(InputError, match="token ids must lie in"):
        held_out_reference(model, Paragraphs(paragraphs.tokens + 90, 12))


def test_what_the_model_says_is_decoded_and_counted(neo_source, model, paragraphs):
    found = generation_health(model, paragraphs)
    said = torch.cat([paragraphs.prefix, greedy_continuation(model, paragraphs.prefix, n_tokens=12)], 1)
    logs = slow_logs(neo_source, said)
    for row, tokens in enumerate(said[:, 12:].tolist()):
        pairs = [(tokens[i], tokens[i + 1]) for i in range(11)]
        assert found["distinct_2"].values[row] == pytest.approx(len(set(pairs)) / 11)
        entropy = [-sum(math.exp(x) * x for x in logs[row, pos].tolist()) for pos in range(11, 23)]
        assert found["entropy"].values[row] == pytest.approx(np.mean(entropy), rel=1e-4)
        ends = any(tokens[-p:] == tokens[-2 * p : -p] == tokens[-3 * p : -2 * p] for p in range(1, 5))
        assert bool(found["in_loop"].values[row]) == ends


def test_a_model_that_says_one_word_is_found_out(model, paragraphs):
    with torch.no_grad():
        model.unembed.b_U[5] += 1000
    found = generation_health(model, paragraphs)
    np.testing.assert_allclose(found["distinct_2"], 1 / 11)
    assert found["in_loop"].values.all()
    np.testing.assert_allclose(found["entropy"], 0, atol=1e-6)


def test_pairs_of_tokens():
    assert distinct_pairs(torch.tensor([1, 2, 1, 2])) == pytest.approx(2 / 3)
    assert distinct_pairs(torch.tensor([4])) == 1
