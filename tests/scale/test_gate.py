"""The gate finds what decoding 50 tokens per window finds, and what a full pass measures."""

import numpy as np
import pytest
import torch

from memhooks import Paragraphs, load_controls, load_model, load_planted, recitation
from memhooks.errors import InputError
from memhooks.measure.extractability import Sampler, extractability, queries_needed
from memhooks.model.decoding import greedy_continuation
from memhooks.model.replay.reading import Reading, beside
from memhooks.scale.gate import _blocks, gated
from memhooks.scale.rules import Rule


@pytest.fixture(scope="module")
def model():
    return load_model("organism")


@pytest.fixture(scope="module")
def rows():
    tokens = torch.cat([load_planted("A").tokens[240::6], load_controls().tokens[:12]])
    return Paragraphs(tokens, 50)


@pytest.fixture(scope="module")
def decoded(model, rows):
    """Exact match by decoding, token by token."""
    said = greedy_continuation(model, rows.prefix, n_tokens=50)
    return (said == rows.continuation).long().cumprod(1).sum(1).numpy()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_exact_match_is_that_of_decoding(model, rows, decoded, batch_size):
    found = gated(model, rows.tokens, n_prefix=50, rule=Rule(), batch_size=batch_size)
    assert found.exact_match.tolist() == decoded.tolist()
    assert found.kept.tolist() == (decoded == 50).tolist()
    assert 0 < (decoded == 50).sum() < len(rows)


@pytest.mark.parametrize(("low", "high"), [(0, 10), (11, 29), (30, 49), (50, 50)])
def test_the_bins_of_the_paper(model, rows, decoded, low, high):
    kept = gated(model, rows.tokens, n_prefix=50, rule=Rule(low, high)).kept.numpy()
    assert kept.tolist() == ((low <= decoded) & (decoded <= high)).tolist()


def test_log_probability_is_that_of_one_pass_over_everything(model, rows):
    full = recitation(model, rows)["log_probability"].values
    found = gated(model, rows.tokens, n_prefix=50, rule=Rule()).log_probability.numpy()
    whole = ~np.isnan(found)
    assert whole.sum() > 10
    np.testing.assert_allclose(found[whole], full[whole], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", [Sampler("temperature", 0.8), Sampler("top_k", top_k=5)])
def test_discoverably_extractable_windows(model, rows, sampler):
    full = extractability(model, rows, sampler=sampler.name, temperature=sampler.temperature, top_k=sampler.top_k)
    needed = queries_needed(full["log_probability"].values, p=0.9)
    n_kept = []
    for queries in (1, 20, 10**6):
        found = gated(model, rows.tokens, n_prefix=50, rule=Rule(queries=queries, p=0.9, sampler=sampler))
        assert found.kept.tolist() == (needed <= queries).tolist()
        n_kept.append(int(found.kept.sum()))
    assert n_kept[0] < n_kept[-1] < len(rows)


def test_windows_are_read_to_the_block_of_their_first_miss(model, rows, decoded):
    found = gated(model, rows.tokens, n_prefix=50, rule=Rule(), batch_size=7)
    ends = np.array([1, 3, 7, 15, 31, 50])  # tokens of the continuation that are known after each block
    expected = 49 + ends[np.searchsorted(ends, np.minimum(decoded + 1, 50))]
    assert found.n_read.tolist() == expected.tolist()
    assert (found.n_read == 50).sum() >= 6


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_what_is_read_does_not_depend_on_the_batches(model, rows, batch_size):
    one, other = (gated(model, rows.tokens, n_prefix=50, rule=Rule(), batch_size=n) for n in (64, batch_size))
    assert one.n_read.tolist() == other.n_read.tolist()
    assert one.kept.tolist() == other.kept.tolist()
    torch.testing.assert_close(one.log_probability, other.log_probability, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 50])
def test_blocks_grow_and_cover_the_continuation(n):
    covered = [place for done, size in _blocks(n) for place in range(done, done + size)]
    assert covered == list(range(n))
    assert all(size <= done + 1 for done, size in _blocks(n))


def test_pieces_give_the_logits_of_one_pass(model, rows):
    whole = model(rows.tokens[:5]).detach()
    reading = Reading.of(model)
    parts = [reading.logits(rows.tokens[:5, :20], last=1), reading.logits(rows.tokens[:5, 20:27], last=7)]
    torch.testing.assert_close(torch.cat(parts, 1), whole[:, 19:27], rtol=1e-5, atol=1e-4)
    assert reading.n_read == 27
    few = torch.tensor([True, False, True, False, False])
    again = beside([reading.select(few), reading.select(~few)])
    last = again.logits(rows.tokens[[0, 2, 1, 3, 4], 27:100], last=3)
    torch.testing.assert_close(last, whole[[0, 2, 1, 3, 4], 97:], rtol=1e-5, atol=1e-4)


def test_tokens_and_batches_that_make_no_sense_are_refused(model, rows):
    with pytest.raises(InputError, match=r"token ids must lie in 0\.\.4095"):
        gated(model, rows.tokens + 4000, n_prefix=50, rule=Rule())
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        gated(model, rows.tokens, n_prefix=50, rule=Rule(), batch_size=0)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(least=51), r"exact match lies in 0\.\.50 tokens, the least at most the most, got 51\.\.50"),
        (Rule(least=5, most=4), r"got 5\.\.4"),
        (Rule(queries=0), "queries must be at least 1, got 0"),
        (Rule(queries=1, p=1.0), "p must lie between 0 and 1"),
        (Rule(sampler=Sampler("other")), "sampler must be one of"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rule, message):
    with pytest.raises(InputError, match=message):
        rule.check(50, 4096)
