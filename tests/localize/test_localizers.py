import pytest
import torch

from memhooks.localize.attribution import weight_gradients
from memhooks.localize.localizers import (
    DAMPING,
    LOCALIZERS,
    N_REPLACED,
    N_VARIANTS,
    consistency,
    fisher_ratio,
    gradient,
    gradient_times_weight,
    perturbed_prefixes,
)
from memhooks.model.components import component_parameters
from memhooks.paragraphs.paragraphs import Paragraphs


@pytest.fixture
def sets(paragraphs):
    return paragraphs.select([0, 1]), paragraphs.select([2, 3, 4])


@pytest.mark.parametrize("localize", LOCALIZERS, ids=lambda one: one.__name__)
def test_every_localizer_scores_every_weight_of_the_grid(model, sets, localize):
    scores = localize(model, *sets, seed=3)
    parameters = component_parameters(model)
    assert {name: one.shape for name, one in scores.items()} == {name: p.shape for name, p in parameters.items()}
    assert all(torch.isfinite(one).all() and one.min() >= 0 and not one.requires_grad for one in scores.values())
    again = localize(model, *sets, seed=3)
    assert all(torch.equal(one, again[name]) for name, one in scores.items())


def test_gradients_and_their_product_with_the_weights(model, sets):
    plain, parameters = weight_gradients(model, sets[0]), component_parameters(model)
    for name, one in plain.items():
        torch.testing.assert_close(gradient(model, *sets)[name], one.abs())
        torch.testing.assert_close(gradient_times_weight(model, *sets)[name], (one * parameters[name]).abs().detach())


def test_the_fisher_ratio_equals_a_loop_over_the_retained_paragraphs(model, sets):
    forget, retain = sets
    found = fisher_ratio(model, forget, retain)
    each = [weight_gradients(model, retain.select([row])) for row in range(3)]
    fisher = {name: torch.stack([one[name] ** 2 for one in each]).mean(0) for name in found}
    mean = torch.cat([one.flatten() for one in fisher.values()]).mean()
    for name, one in weight_gradients(model, forget).items():
        slow = one.abs() / (fisher[name] + DAMPING * mean).sqrt()
        torch.testing.assert_close(found[name], slow, rtol=1e-4, atol=1e-5)


def test_of_text_against_itself_the_fisher_ratio_is_bounded(model, sets):
    """|mean of n| is at most the root of the mean of squares, so the ratio is at most 1."""
    ratio = fisher_ratio(model, sets[0], sets[0])
    assert max(float(one.max()) for one in ratio.values()) <= 1.001


def test_the_fisher_ratio_names_the_head_that_only_the_forgotten_text_uses(model, paragraphs):
    """A planted truth: a head that reads only what the embedding of one token holds, which no retained text has."""
    forget, retain = paragraphs.select([0]), paragraphs.select([1, 2, 3])
    with torch.no_grad():
        model.embed.W_E[:, 0] = 0
        tokens = forget.tokens.clone()
        tokens[0, 5] = 100
        model.embed.W_E[100] = 0
        model.embed.W_E[100, 0] = 5
    forget = Paragraphs(tokens, 12)
    assert not (retain.tokens == 100).any()
    ratio = fisher_ratio(model, forget, retain)
    plain = gradient(model, forget, retain)
    own = "blocks.0.attn.W_V"  # of the residual direction that only token 100 has
    for scores, least in ((ratio, 1.0), (plain, 0.0)):
        row = scores[own][:, 0].mean() / scores[own][:, 1:].mean()
        assert row > least
    gain = (ratio[own][:, 0].mean() / ratio[own].mean()) / (plain[own][:, 0].mean() / plain[own].mean())
    assert gain > 1


def test_consistency_equals_a_loop_over_the_variants(model, sets):
    forget, retain = sets
    variants = perturbed_prefixes(model, forget, seed=5)
    each = [weight_gradients(model, variants.select([row])) for row in range(len(variants))]
    found = consistency(model, forget, retain, seed=5)
    for name, score in found.items():
        stack = torch.stack([one[name] for one in each])
        slow = stack.mean(0).abs() ** 2 / stack.abs().mean(0).clamp_min(1e-30)
        torch.testing.assert_close(score, slow, rtol=1e-3, atol=1e-6)


def test_perturbed_prefixes_differ_in_as_many_tokens_as_said(model, sets):
    forget = sets[0]
    variants = perturbed_prefixes(model, forget, seed=0)
    assert len(variants) == N_VARIANTS * len(forget)
    for row in range(len(variants)):
        own = forget.tokens[row // N_VARIANTS]
        assert int((variants.prefix[row] != own[:12]).sum()) == N_REPLACED
        assert torch.equal(variants.continuation[row], own[12:])
    assert variants.ids[:2] == (f"{forget.ids[0]}/0", f"{forget.ids[0]}/1")
    assert len({tuple(row) for row in variants.tokens.tolist()}) == len(variants)
    assert not torch.equal(variants.tokens, perturbed_prefixes(model, forget, seed=1).tokens)
