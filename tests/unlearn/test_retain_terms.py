"""Retain terms against slow lines on Hugging Face's logits. Rows are of equal length: there is no padding."""

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional

from memhooks.errors import InputError
from memhooks.localize.objectives import continuation_logits
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.retain_terms import RETAIN


@pytest.fixture
def moved(neo):
    """The same model after some unlearning, as Hugging Face's."""
    other = copy.deepcopy(neo)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return other


def log_probabilities(neo, row):
    with torch.no_grad():
        return neo(row[None]).logits[0, 11:-1].double().log_softmax(-1)


def slow_value(name, neo, moved, row):
    before, after = log_probabilities(neo, row), log_probabilities(moved, row)
    if name == "nll":
        return -sum(after[k, row[12 + k]].item() for k in range(12)) / 12
    return sum((p.exp() * (p - q)).sum().item() for p, q in zip(before, after, strict=True)) / 12


@pytest.mark.parametrize("name", RETAIN)
def test_retain_terms_equal_slow_lines(neo, moved, paragraphs, name):
    neo, moved = neo.double(), moved.double()
    term = RETAIN[name](load_model(neo, dtype=torch.float64), paragraphs)
    with torch.no_grad():
        logits = moved(paragraphs.tokens).logits[:, 11:-1]
    slow = torch.tensor([slow_value(name, neo, moved, row) for row in paragraphs.tokens])
    torch.testing.assert_close(term.loss(logits), slow.double(), rtol=1e-6, atol=1e-6)
    assert slow.min() > 1e-2
    assert term.forget is None
    assert term.rows is paragraphs


@pytest.mark.parametrize("name", RETAIN)
def test_gradients_equal_central_differences(neo, moved, paragraphs, name):
    term = RETAIN[name](load_model(neo.double(), dtype=torch.float64), paragraphs)
    after = load_model(moved.double(), dtype=torch.float64)
    weight = after.blocks[1].mlp.W_in
    (gradient,) = torch.autograd.grad(term.loss(continuation_logits(after, paragraphs)).mean(), weight)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        way, ends = torch.randn(weight.shape, generator=generator, dtype=torch.float64), []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight.add_(way, alpha=step)
                ends.append(term.loss(continuation_logits(after, paragraphs)).mean().item())
                weight.add_(way, alpha=-step)
        slope = (gradient * way).sum().item()
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)
        assert abs(slope) > 1e-4


@pytest.mark.parametrize("name", RETAIN)
def test_terms_of_parts_give_the_losses_of_the_whole(model, moved, paragraphs, name):
    after = load_model(moved)

    def losses(part):
        return RETAIN[name](model, part).loss(continuation_logits(after, part)).detach()

    parts = [losses(paragraphs.select(rows)) for rows in ([0, 1, 2], [3], [5, 4])]
    torch.testing.assert_close(torch.cat(parts), losses(paragraphs)[[0, 1, 2, 3, 5, 4]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RETAIN)
def test_each_loss_is_of_its_own_logits_alone(model, paragraphs, name):
    term = RETAIN[name](model, paragraphs)
    logits = continuation_logits(model, paragraphs).detach()
    changed = logits.clone()
    changed[2] = torch.randn(logits[2].shape, generator=torch.Generator().manual_seed(0))
    assert (term.loss(changed) != term.loss(logits)).tolist() == [False, False, True, False, False, False]


def test_kl_has_no_gradient_where_nothing_has_moved(model, paragraphs):
    loss = RETAIN["kl"](model, paragraphs).loss(continuation_logits(model, paragraphs)).mean()
    (gradient,) = torch.autograd.grad(loss, model.blocks[1].mlp.W_in)
    assert abs(loss.item()) < 1e-6
    assert gradient.abs().max() < 1e-6


def test_the_reference_stays_what_it_was_when_the_model_moves(model, paragraphs):
    term = RETAIN["kl"](model, paragraphs)
    logits = continuation_logits(model, paragraphs).detach()
    first = term.loss(logits)
    with torch.no_grad():
        model.blocks[1].mlp.W_in.mul_(2)
    assert torch.equal(term.loss(logits), first)


def test_the_reference_is_kept_without_a_graph(model, paragraphs):
    """The official code keeps the reference's graph, and with it all of its activations."""
    term = RETAIN["kl"](model, paragraphs)
    assert isinstance(term.loss, partial)
    frozen = term.loss.keywords["frozen"]
    assert frozen.grad_fn is None
    assert not frozen.requires_grad
    assert continuation_logits(model, paragraphs).requires_grad  # which a plain pass would keep
    assert torch.is_grad_enabled()


def test_kl_is_no_cross_entropy(model, moved, paragraphs):
    """WAGLE's `-sum p log q` is larger by the entropy of p, and not 0 where nothing has moved."""
    frozen = continuation_logits(model, paragraphs).detach().log_softmax(-1)
    logits = continuation_logits(load_model(moved), paragraphs).detach()
    ours = RETAIN["kl"](model, paragraphs).loss(logits)
    wrong = -(frozen.exp() * logits.log_softmax(-1)).sum(-1).mean(1)
    entropy = -(frozen.exp() * frozen).sum(-1).mean(1)
    torch.testing.assert_close(wrong - ours, entropy, rtol=1e-4, atol=1e-4)
    assert entropy.min() > 0.5


def test_kl_is_not_of_raw_logits(model, moved, paragraphs):
    """MUSE and SURE give raw logits to `kl_div`: a constant added to them all changes it, but no probability."""
    frozen = continuation_logits(model, paragraphs).detach()
    logits = continuation_logits(load_model(moved), paragraphs).detach()

    def wrong(logits):
        return functional.kl_div(logits, frozen, log_target=True, reduction="none").sum(-1).mean(1)

    term = RETAIN["kl"](model, paragraphs)
    torch.testing.assert_close(term.loss(logits + 3), term.loss(logits), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(wrong(logits + 3), wrong(logits), rtol=0.1)
    assert not torch.allclose(wrong(logits), term.loss(logits), rtol=0.1)


def test_kl_does_not_grow_with_the_length(model, moved):
    """`batchmean` sums over the tokens: the published term is as many times as large as there are tokens."""
    tokens = torch.randint(101, (4, 24), generator=torch.Generator().manual_seed(7))
    after = load_model(moved)
    for n_prefix in (4, 16):
        paragraphs = Paragraphs(tokens, n_prefix=n_prefix)
        logits = continuation_logits(after, paragraphs).detach()
        frozen = continuation_logits(model, paragraphs).detach().log_softmax(-1)
        published = functional.kl_div(logits.log_softmax(-1), frozen, log_target=True, reduction="batchmean")
        ours = RETAIN["kl"](model, paragraphs).loss(logits).mean()
        torch.testing.assert_close(published, (24 - n_prefix) * ours, rtol=1e-4, atol=1e-4)


def test_half_precision_gives_numbers(neo, moved, paragraphs):
    half = load_model(neo, dtype=torch.bfloat16)
    after = continuation_logits(load_model(moved, dtype=torch.bfloat16), paragraphs).detach()
    full = continuation_logits(load_model(moved), paragraphs).detach()
    for name, build in RETAIN.items():
        found = build(half, paragraphs).loss(after)
        assert found.dtype == torch.float32, name
        torch.testing.assert_close(found, build(load_model(neo), paragraphs).loss(full), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", RETAIN)
def test_paragraphs_the_model_cannot_read_are_refused(model, name):
    foreign = Paragraphs(torch.full((2, 24), 101), n_prefix=12)
    with pytest.raises(InputError, match="vocabulary"):
        RETAIN[name](model, foreign)
