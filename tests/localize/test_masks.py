import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.errors import InputError
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import frozen_outside


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 1.0))
def test_the_top_weights_are_those_of_a_full_sort(seed, fraction):
    generator = torch.Generator().manual_seed(seed)
    scores = {"a": torch.randn(7, 9, generator=generator), "b": torch.randn(30, generator=generator)}
    mask = top_weights(scores, fraction=fraction)
    ranked = sorted(
        ((abs(v), name, i) for name, s in scores.items() for i, v in enumerate(s.flatten().tolist())), reverse=True
    )
    expected = {(name, i) for _, name, i in ranked[: max(1, round(fraction * 93))]}
    assert {(name, int(i)) for name, own in mask.indices.items() for i in own} == expected


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_the_size_is_exact_even_when_all_scores_tie(fraction):
    mask = top_weights({"a": torch.zeros(10, 10), "b": torch.zeros(100)}, fraction=fraction)
    assert len(mask) == round(fraction * 200)
    assert mask.fraction == pytest.approx(fraction)


def test_a_matched_random_mask_has_the_same_size_per_parameter_and_chance_overlap():
    scores = {"a": torch.randn(100, 100, generator=torch.Generator().manual_seed(0)), "b": torch.ones(50)}
    mask = top_weights(scores, fraction=0.2)
    drawn = matched_random_weights(mask, seed=1)
    assert {n: len(own) for n, own in drawn.indices.items()} == {n: len(own) for n, own in mask.indices.items()}
    overlap = len(set(mask.indices["a"].tolist()) & set(drawn.indices["a"].tolist())) / len(mask.indices["a"])
    assert overlap == pytest.approx(len(mask.indices["a"]) / 10_000, abs=0.04)
    assert all(len(own) == len(own.unique()) for own in drawn.indices.values())


def test_a_weight_that_moves_outside_the_mask_is_an_error(model):
    mask = top_weights({"blocks.0.mlp.W_in": model.blocks[0].mlp.W_in}, fraction=0.01)
    inside = mask.indices["blocks.0.mlp.W_in"].long()
    with frozen_outside(model, mask), torch.no_grad():
        model.blocks[0].mlp.W_in.view(-1)[inside] += 1.0
    expected = r"1 weights of blocks\.1\.attn\.W_V moved outside the mask"
    with pytest.raises(RuntimeError, match=expected), frozen_outside(model, mask), torch.no_grad():
        model.blocks[1].attn.W_V[0, 0, 0] += 1.0


def test_the_published_recipe_moves_every_weight_and_is_caught(model, paragraphs):
    """Masked gradients with coupled weight decay in Adam, as in the official code."""
    from memhooks.localize.attribution import weight_gradients
    from memhooks.localize.objectives import continuation_logits, forget_nll

    gradients = weight_gradients(model, paragraphs)
    mask = top_weights(gradients, fraction=0.001)
    parameters = {name: dict(model.named_parameters())[name] for name in gradients}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-5, weight_decay=1.0)
    with pytest.raises(RuntimeError, match="moved outside the mask"), frozen_outside(model, mask):
        forget_nll(continuation_logits(model, paragraphs), paragraphs).mean().backward()
        for name, parameter in parameters.items():
            keep = torch.zeros_like(parameter).flatten()
            keep[mask.indices[name].long()] = 1.0
            parameter.grad.mul_(keep.reshape(parameter.shape))
        optimizer.step()
    moved = sum(int((p != before[name]).sum()) for name, p in parameters.items())
    assert moved > 0.99 * sum(mask.sizes.values())


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(InputError, match=r"fraction must lie in \(0, 1\]"):
        top_weights({"a": torch.ones(3)}, fraction=fraction)
