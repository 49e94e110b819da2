"""Known faults of other codes: each wrong form is written out, and gives another number than ours."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from memhooks.localize.objectives import continuation_logits
from memhooks.measure.pairs import Pairs
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import load_model
from memhooks.unlearn.objectives import (
    NPO,
    GradientAscent,
    PaperEdit,
    PaperEditMisaligned,
    WeightedAscent,
)


@pytest.fixture
def frozen(model, paragraphs):
    return continuation_logits(model, paragraphs).detach()


@pytest.fixture
def logits(frozen):
    return frozen + 0.3 * torch.randn(frozen.shape, generator=torch.Generator().manual_seed(1))


def nll(logits, paragraphs):
    return functional.cross_entropy(logits.transpose(1, 2), paragraphs.continuation, reduction="none")


def test_npo_is_of_the_texts_probability_not_of_all_raw_logits(model, paragraphs, frozen, logits):
    """MUSE, SimNPO-MUSE and SURE: `logsigmoid(beta * (reference - logits)).mean()` over the whole vocabulary."""

    def wrong(logits):
        return -2 / 0.1 * functional.logsigmoid(0.1 * (frozen - logits)).mean((1, 2))

    term = NPO()(model, paragraphs, seed=0)
    torch.testing.assert_close(term.loss(logits + 5), term.loss(logits), rtol=1e-4, atol=1e-4)  # same probabilities
    assert not torch.allclose(wrong(logits + 5), wrong(logits), rtol=0.1)
    other = replace(paragraphs, tokens=(paragraphs.tokens + 1) % 101)  # another text: the wrong form does not notice
    assert not torch.allclose(NPO()(model, other, seed=0).loss(logits), term.loss(logits), rtol=1e-3)
    assert not torch.allclose(wrong(logits), term.loss(logits), rtol=1e-3)


def test_npo_sums_over_tokens(model, paragraphs, frozen, logits):
    """WAGLE takes means: with the published beta its argument is as many times too small as there are tokens."""
    rise = nll(logits, paragraphs) - nll(frozen, paragraphs)
    right = -2 / 0.1 * functional.logsigmoid(0.1 * rise.sum(1))
    wrong = -2 / 0.1 * functional.logsigmoid(0.1 * rise.mean(1))
    found = NPO()(model, paragraphs, seed=0).loss(logits)
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    assert (found - wrong).abs().max() > 0.1


def test_the_reference_of_npo_is_the_model_before_not_as_it_is_now(model, paragraphs, logits):
    term = NPO()(model, paragraphs, seed=0)
    first = term.loss(logits)
    with torch.no_grad():
        model.blocks[1].mlp.W_in.mul_(2)
    assert torch.equal(term.loss(logits), first)
    assert not torch.allclose(NPO()(model, paragraphs, seed=0).loss(logits), first, rtol=1e-3)


def test_no_label_of_minus_100_is_used_as_an_index(model, paragraphs):
    """open-unlearning's UNDIAL: where nothing is scored, marked -100, it pushes vocabulary entry `d_vocab - 100`."""
    labels = paragraphs.tokens[:, 1:].clone()
    labels[:, :11] = -100
    logits = model(paragraphs.tokens)[:, :-1].detach().requires_grad_()
    row, pos = torch.meshgrid(torch.arange(6), torch.arange(23), indexing="ij")
    wrong = logits.log_softmax(-1)[row, pos, labels].mean(1)
    right = -functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1) / 12  # skips -100
    found = GradientAscent()(model, paragraphs, seed=0).loss(logits[:, 11:])
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, wrong, rtol=0.01)
    (theirs,) = torch.autograd.grad(wrong.sum(), logits)
    (ours,) = torch.autograd.grad(found.sum(), logits)
    assert (theirs[:, :11].argmax(-1) == 101 - 100).all()
    assert not ours[:, :11].any()


def test_means_are_over_the_continuation_alone(model, paragraphs):
    """Averaging over prefix or padding positions too would make the loss smaller by their share."""
    logits = model(paragraphs.tokens)[:, :-1].detach()
    every = functional.cross_entropy(logits.transpose(1, 2), paragraphs.tokens[:, 1:], reduction="none")
    marked = every.clone()
    marked[:, :11] = 0  # what is not scored, in the sum but still counted
    found = GradientAscent()(model, paragraphs, seed=0).loss(logits[:, 11:])
    torch.testing.assert_close(found, -every[:, 11:].mean(1), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, -marked.mean(1), rtol=0.1)
    assert not torch.allclose(found, -every[:, 12:].mean(1), rtol=1e-3)  # the published default drops the first token


def test_weighted_ascent_keeps_no_reference(model, paragraphs):
    """open-unlearning copies a reference model that it does not use."""
    loss = WeightedAscent()(model, paragraphs, seed=0).loss
    assert set(loss.keywords) == {"forget", "beta"}


def test_the_aligned_edit_is_likely_where_the_misaligned_one_is_not(neo, paragraphs):
    """The published edit asks for the perturbed continuation's tokens after the original ones."""
    with torch.no_grad():
        neo.transformer.ln_f.weight.mul_(3)  # surer of what it says
    model = load_model(neo)
    clean = with_own_continuation(model, paragraphs)
    tokens = clean.tokens.clone()
    tokens[:, 3] = (tokens[:, 3] + 7) % 101
    perturbed = with_own_continuation(model, replace(clean, tokens=tokens))
    differs = perturbed.continuation != clean.continuation
    rows = differs.any(1).nonzero()[:, 0]
    impact = 12 + differs.long().argmax(1)
    pairs = Pairs(clean, perturbed, torch.full((6,), 3), impact).select(rows)
    values = {}
    for kind in (PaperEdit, PaperEditMisaligned):
        term = kind(pairs=pairs)(model, pairs.clean, seed=0)
        values[kind] = term.loss(continuation_logits(model, term.rows)).detach()
    assert len(rows) > 1
    assert (values[PaperEdit] < values[PaperEditMisaligned] - 0.05).all()
    # Where label and context disagree is after the first difference; up to it both forms score the same tokens.
    misaligned = continuation_logits(model, pairs.clean).detach()
    joined = replace(pairs.clean, tokens=torch.cat([clean.prefix[rows], pairs.perturbed.continuation], 1))
    aligned = continuation_logits(model, joined).detach()
    for row, first in enumerate(pairs.impact.tolist()):
        torch.testing.assert_close(misaligned[row, : first - 11], aligned[row, : first - 11], rtol=1e-4, atol=1e-4)
        if first < 23:
            assert not torch.allclose(misaligned[row, first - 11 :], aligned[row, first - 11 :], rtol=1e-2)
