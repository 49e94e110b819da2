import inspect

import pytest
import torch
from torch.nn import functional

from memhooks.errors import InputError
from memhooks.localize.objectives import (
    CHANGE_WEIGHT,
    FrozenKL,
    SpanNLL,
    TokenNLL,
    continuation_logits,
    continuation_nll,
    contrastive,
    forget_nll,
    kl_divergence,
    surprise,
)
from memhooks.model.loading import load_model


@pytest.fixture
def logits(model, paragraphs):
    return continuation_logits(model, paragraphs)


def slow_nll(neo, row, positions):
    """From Hugging Face's logits, token by token."""
    with torch.no_grad():
        log_p = neo(row[None]).logits[0].log_softmax(-1)
    return [-log_p[pos - 1, row[pos]].item() for pos in positions]


def test_nll_equals_ten_slow_lines(neo, logits, paragraphs):
    slow = torch.tensor([slow_nll(neo, row, range(12, 24)) for row in paragraphs.tokens])
    torch.testing.assert_close(surprise(logits, paragraphs).detach(), slow, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(continuation_nll(logits, paragraphs).detach(), slow.mean(1), rtol=1e-5, atol=1e-5)
    assert torch.equal(forget_nll(logits, paragraphs), -continuation_nll(logits, paragraphs))


def test_spans_and_single_tokens_equal_slow_lines(neo, logits, paragraphs):
    found = SpanNLL(14, 17)(logits, paragraphs)
    slow = [sum(slow_nll(neo, row, range(14, 17))) / 3 for row in paragraphs.tokens]
    torch.testing.assert_close(found.detach(), torch.tensor(slow), rtol=1e-5, atol=1e-5)
    at = torch.tensor([12, 23, 15, 12, 20, 13])
    found = TokenNLL(paragraphs, at)(logits, paragraphs)
    slow = [slow_nll(neo, row, [pos])[0] for row, pos in zip(paragraphs.tokens, at.tolist(), strict=True)]
    torch.testing.assert_close(found.detach(), torch.tensor(slow), rtol=1e-5, atol=1e-5)
    batch = [4, 1]  # found by id, in whatever order the batch comes
    torch.testing.assert_close(TokenNLL(paragraphs, at)(logits[batch], paragraphs.select(batch)), found[batch])


def test_kl_is_the_sum_over_the_vocabulary_of_torchs_own(logits, paragraphs):
    frozen = torch.randn(6, 12, 101, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    found = kl_divergence(logits, frozen).mean()
    ours = logits.log_softmax(-1)
    summed = functional.kl_div(ours.flatten(0, 1), frozen.flatten(0, 1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(found, summed, rtol=1e-5, atol=1e-5)


def test_kl_to_another_model_equals_ten_slow_lines(neo, model, paragraphs):
    with torch.no_grad():
        model.blocks[1].mlp.W_in.mul_(1.5)
    frozen = load_model(neo)
    found = FrozenKL(frozen)(continuation_logits(model, paragraphs), paragraphs)
    for row in range(6):
        with torch.no_grad():
            theirs = neo(paragraphs.tokens[row : row + 1]).logits[0, 11:-1].log_softmax(-1)
            ours = model(paragraphs.tokens[row : row + 1])[0, 11:-1].log_softmax(-1)
        slow = sum(float((p.exp() * (p - q)).sum()) for p, q in zip(theirs, ours, strict=True)) / 12
        assert found[row].item() == pytest.approx(slow, rel=1e-5, abs=1e-5)
    assert found.min() > 1e-3


def test_kl_to_itself_is_zero_and_so_is_its_gradient(model, paragraphs):
    kl = FrozenKL(model)(continuation_logits(model, paragraphs), paragraphs).mean()
    (gradient,) = torch.autograd.grad(kl, [model.blocks[1].mlp.W_in])
    assert abs(kl.item()) < 1e-6
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("edit", [True, False])
def test_the_published_objective_equals_ten_slow_lines(neo, model, paragraphs, edit):
    """0.1 of the mean NLL, and torch's "batchmean", which sums over the tokens."""
    with torch.no_grad():
        model.blocks[0].attn.W_V.mul_(1.3)
    change, keep = paragraphs.select([0, 1]), paragraphs.select([2, 3, 4])
    with torch.no_grad():
        frozen = neo(keep.tokens).logits[:, 11:-1].log_softmax(-1)
        nll = functional.cross_entropy(model(change.tokens)[:, 11:-1].flatten(0, 1), change.continuation.flatten())
        ours = model(keep.tokens)[:, 11:-1].log_softmax(-1)
        slow = (1 if edit else -1) * 0.1 * nll + functional.kl_div(ours, frozen, log_target=True, reduction="batchmean")
    logits = continuation_logits(model, change)
    found = contrastive(logits, change, continuation_logits(model, keep), frozen, edit=edit)
    torch.testing.assert_close(found.detach(), slow, rtol=1e-5, atol=1e-5)
    assert CHANGE_WEIGHT == 0.1


@pytest.mark.parametrize(("first", "stop"), [(11, 13), (14, 14), (20, 25)])
def test_spans_outside_the_continuation_are_refused(logits, paragraphs, first, stop):
    with pytest.raises(InputError, match=rf"within the continuation, tokens 12\.\.24, got {first}\.\.{stop}"):
        SpanNLL(first, stop)(logits, paragraphs)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([12, 13], "one position for each of 6 paragraphs"),
        ([-1, 12, 12, 12, 12, 12], r"within the continuation, 12\.\.23, got -1\.\.12; leave pairs without an impact"),
        ([12, 12, 24, 12, 12, 12], r"got 12\.\.24"),
    ],
)
def test_unusable_positions_are_refused(paragraphs, positions, message):
    with pytest.raises(InputError, match=message):
        inspect.unwrap(TokenNLL)(paragraphs, torch.tensor(positions))


def test_ids_that_are_not_unique_are_refused(paragraphs):
    twice = paragraphs.select([0, 0])
    with pytest.raises(InputError, match="ids must be unique"):
        TokenNLL(twice, torch.tensor([12, 13]))
