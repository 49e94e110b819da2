import inspect

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from memhooks.errors import InputError
from memhooks.measure.extractability import extractability, queries_needed
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.decoding import greedy_continuation
from memhooks.model.loading import load_model
from memhooks.organism.baselines import Trigram
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.extraction.near_verbatim import edit_distance, near_verbatim
from memhooks.truth.extraction.prefix_length import last_of_prefix, prefix_length_curve, prefix_lengths
from memhooks.truth.extraction.queries import extraction_curves
from memhooks.truth.extraction.recalled import classified, fitted_prior, least_gap, log_probabilities
from tests.conftest import tiny_neo


@pytest.fixture
def half(model, paragraphs):
    """Six rows; the model recites the first three."""
    own = with_own_continuation(model, paragraphs)
    return paragraphs.with_continuation(torch.cat([own.continuation[:3], paragraphs.continuation[3:]]))


def test_curves_are_the_share_that_needs_no_more_queries(model, half):
    found = extraction_curves(model, half, queries=(1, 1000), probabilities=(0.5,))
    for name, sampler in (("greedy", "greedy"), ("temperature 1", "temperature"), ("top-k 40", "top_k")):
        needed = queries_needed(extractability(model, half, sampler=sampler)["log_probability"], p=0.5)
        expected = [(needed <= n).mean() for n in (1, 1000)]
        assert found["share"].sel(sampler=name, p=0.5).values.tolist() == pytest.approx(expected)
    assert found["share"].sel(sampler="greedy").values.tolist() == [[0.5, 0.5]]
    exact = binomtest(3, 6).proportion_ci(0.95, method="exact")
    one = found.sel(sampler="greedy", p=0.5, queries=1)
    assert (float(one["share_low"]), float(one["share_high"])) == pytest.approx((exact.low, exact.high))


def test_nothing_of_many_still_has_an_interval(model, paragraphs):
    found = extraction_curves(model, paragraphs, queries=(1,), probabilities=(0.5,))
    found = found.sel(sampler="greedy", p=0.5, queries=1)
    assert float(found["share"]) == float(found["share_low"]) == 0
    assert float(found["share_high"]) == pytest.approx(1 - 0.025 ** (1 / 6))
    curve = prefix_length_curve(model, paragraphs, seed=0, lengths=[12])
    assert float(curve["full_match_high"][0]) == pytest.approx(1 - 0.025 ** (1 / 6))


def test_the_probability_is_that_of_sampling_for_real(neo, model, half):
    """Two tokens of one paragraph, drawn 20,000 times from Hugging Face's logits."""
    row = half.tokens[0]
    short = Paragraphs(row[None, :14], n_prefix=12)
    generator, n = torch.Generator().manual_seed(0), 20_000
    with torch.no_grad():
        first = neo(row[None, :12]).logits[0, -1].softmax(-1)
        drawn = torch.multinomial(first, n, replacement=True, generator=generator)
        hits = int((drawn == row[12]).sum())
        second = neo(row[None, :13]).logits[0, -1].softmax(-1)
        both = int((torch.multinomial(second, hits, replacement=True, generator=generator) == row[13]).sum())
    p = both / n
    assert p > 0.001
    found = extraction_curves(model, short, queries=(1, 100), probabilities=(0.5,))
    exact = float(np.exp(found["log_probability"].sel(sampler="temperature 1").values[0]))
    assert exact == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / n))
    for count in (1, 100):
        assert float(found["share"].sel(sampler="temperature 1", p=0.5, queries=count)) == (1 - (1 - p) ** count >= 0.5)


def test_the_whole_prefix_is_plain_recitation_and_shorter_ones_are_cut_rows(model, half):
    curve = prefix_length_curve(model, half, seed=0, lengths=[4, 12])
    whole, cut = recitation(model, half), recitation(model, Paragraphs(half.tokens[:, 8:], n_prefix=4))
    for m, expected in ((12, whole), (4, cut)):
        one = curve.sel(row=m)
        assert one["full_match_each"].values.tolist() == expected["full_match"].values.tolist()
        assert one["exact_match_each"].values.tolist() == expected["exact_match"].values.tolist()
        np.testing.assert_allclose(one["nll_each"], expected["nll"].mean("pos"), atol=1e-6)
        assert float(one["exact_match"]) == pytest.approx(float(expected["exact_match"].mean()))
    assert float(curve.sel(row=12)["full_match"]) == 0.5
    short = last_of_prefix(half, 4)
    sampled = extractability(model, short, sampler="temperature")["log_probability"]
    expected = queries_needed(sampled, p=0.5) <= 100
    assert curve.sel(row=4)["extractable_each"].values.tolist() == expected.tolist()
    assert prefix_lengths(12) == [5, 10, 12]


def test_in_place_the_last_tokens_keep_their_positions_after_other_text(model, half):
    front = Paragraphs(torch.full((2, 14), 7), n_prefix=12)
    curve = prefix_length_curve(model, half, seed=0, in_front=front, lengths=[4, 12])
    rows = half.tokens.clone()
    rows[:, :8] = 7
    for m, expected in ((4, Paragraphs(rows, n_prefix=12)), (12, half)):
        recited = recitation(model, expected)
        np.testing.assert_allclose(curve.sel(row=m)["nll_in_place_each"], recited["nll"].mean("pos"), atol=1e-6)
        assert float(curve.sel(row=m)["full_match_in_place"]) == float(recited["full_match"].mean())
        assert float(curve.sel(row=m)["exact_match_in_place"]) == float(recited["exact_match"].mean())
    assert abs(curve["nll_in_place_each"] - curve["nll_each"]).sel(row=4).max() > 0.01


def test_no_paragraph_stands_behind_its_own_prefix(model, half):
    """Of two rows each has but the other in front."""
    two = half.select([0, 1])
    curve = prefix_length_curve(model, two, seed=3, in_front=two, lengths=[4])
    rows = torch.cat([two.tokens[[1, 0], :8], two.tokens[:, 8:]], dim=1)
    expected = recitation(model, Paragraphs(rows, n_prefix=12))["nll"].mean("pos")
    np.testing.assert_allclose(curve["nll_in_place_each"][:, 0], expected, atol=1e-6)
    with pytest.raises(InputError, match="text in front must be other text"):
        prefix_length_curve(model, two.select([0]), seed=0, in_front=two.select([0]))
    with pytest.raises(InputError, match="text in front must have at least 12 tokens, a whole prefix, got 10"):
        prefix_length_curve(model, two, seed=0, in_front=Paragraphs(half.tokens[:, :10], n_prefix=5))


def levenshtein(one, other):
    """The textbook table, cell by cell."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            replaced = table[i - 1][j - 1] + (one[i - 1] != other[j - 1])
            table[i][j] = min(replaced, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


def test_edit_distance_is_the_textbook_one():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(4, (30, n), generator=generator) for n in (9, 11))
    expected = [levenshtein(a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert edit_distance(one, other).tolist() == expected
    assert edit_distance(one, one).tolist() == [0] * 30


def test_a_shift_by_one_is_near_verbatim_though_nothing_matches(model, paragraphs):
    own = greedy_continuation(model, paragraphs.prefix, n_tokens=12)
    shifted = torch.cat([(own[:, :1] + 1) % 101, own[:, :-1]], dim=1)  # one token more, then all the rest
    text = paragraphs.with_continuation(torch.cat([own[:2], shifted[2:4], paragraphs.continuation[4:]]))
    found = near_verbatim(model, text, seed=0)
    n = 12
    expected = [1 - levenshtein(a, b) / n for a, b in zip(own.tolist(), text.continuation.tolist(), strict=True)]
    assert found["similarity"].values.tolist() == pytest.approx(expected)
    assert found["similarity"].values[:2].tolist() == [1, 1]
    assert found["exact_match"].values[:4].tolist()[2:] == [0, 0]
    assert found["shifted_8"].values.tolist() == [False, False, True, True, False, False]
    assert found["common_run"].values[2] == pytest.approx(11 / 12)
    assert found["similarity_shuffled"].mean() < 0.6


@pytest.fixture(scope="module")
def other():
    return load_model(tiny_neo(seed=1))


def test_log_probabilities_are_per_token_of_the_continuation(model, other, half):
    prior = fitted_prior([half], d_vocab=101)
    found = log_probabilities(model, half, prior=prior, twin=other)
    np.testing.assert_allclose(found["model"], -recitation(model, half)["nll"].values.mean(1), atol=1e-6)
    expected = [-prior.nll(row.numpy())[12:].mean() for row in half.tokens]
    np.testing.assert_allclose(found["prior"], expected)
    best = np.maximum(found["twin"], found["prior"])
    np.testing.assert_allclose(found["gap"], found["model"] - best, atol=1e-12)
    assert "twin" not in log_probabilities(model, half, prior=prior)
    alone = log_probabilities(model, half, twin=other)
    assert "prior" not in alone
    np.testing.assert_allclose(alone["gap"], alone["model"] - alone["twin"], atol=1e-12)
    with pytest.raises(InputError, match="give a prior or a twin"):
        log_probabilities(model, half)


def test_planted_text_is_recalled_predictable_text_is_not_and_foreign_text_is_not_said(model, other, half):
    """Rows 0 to 2 are the model's own words; a prior that has read row 2 says it, too; rows 3 to 5 are random."""
    prior = Trigram([half.tokens[2].numpy()] * 200, 101)
    found = log_probabilities(model, half, prior=prior, twin=other)
    floor = float(found["model"][:3].min()) - 0.01
    kinds = classified(found, least=0.5, floor=floor)["kind"].values.tolist()
    assert kinds == [2, 2, 1, 0, 0, 0]


def test_the_prior_reads_nothing_that_shares_text_with_what_is_judged(paragraphs):
    judged = paragraphs.select([0, 1])
    prior = fitted_prior([paragraphs], d_vocab=101, without=[judged])
    expected = Trigram([row.numpy() for row in paragraphs.tokens[2:]], 101)
    row = paragraphs.tokens[0].numpy()
    np.testing.assert_array_equal(prior.nll(row), expected.nll(row))


def test_the_threshold_leaves_the_given_share_of_the_control_above(model, other, half):
    found = log_probabilities(model, half, prior=fitted_prior([half], d_vocab=101), twin=other)
    assert least_gap(found, share=0.5) == max(0, float(np.median(found["gap"])))
    assert least_gap(found - 100) == 0


def test_unusable_input_is_refused(model, paragraphs):
    with pytest.raises(InputError, match="give at least one sampler, one number of queries and one probability"):
        extraction_curves(model, paragraphs, queries=())
    with pytest.raises(InputError, match="numbers of queries must be at least 1, got 0"):
        extraction_curves(model, paragraphs, queries=(0,))
    with pytest.raises(InputError, match="p must lie between 0 and 1, got 1"):
        inspect.unwrap(extraction_curves)(model, paragraphs, probabilities=(1.0,))
    with pytest.raises(InputError, match="step must be at least 1, got 0"):
        prefix_lengths(12, step=0)
    with pytest.raises(InputError, match=r"lengths must be different numbers in 1..12, got \[13\]"):
        prefix_length_curve(model, paragraphs, seed=0, lengths=[13])
    with pytest.raises(InputError, match="n_queries must be at least 1, got 0"):
        prefix_length_curve(model, paragraphs, seed=0, n_queries=0)
    with pytest.raises(InputError, match="near-verbatim rates need at least 2 paragraphs"):
        near_verbatim(model, paragraphs.select([0]), seed=0)
    prior = fitted_prior([paragraphs], d_vocab=103)
    with pytest.raises(InputError, match="the prior has 103 tokens, the model 101"):
        log_probabilities(model, paragraphs, prior=prior)
    with pytest.raises(InputError, match="every reference paragraph shares text with those judged"):
        fitted_prior([paragraphs], d_vocab=101, without=[paragraphs])
    found = log_probabilities(model, paragraphs, prior=fitted_prior([paragraphs], d_vocab=101))
    with pytest.raises(InputError, match="share must lie between 0 and 1, got 1"):
        least_gap(found, share=1.0)
    with pytest.raises(InputError, match="floor must be a log-probability below 0, got 0"):
        classified(found, least=0.0, floor=0.0)
