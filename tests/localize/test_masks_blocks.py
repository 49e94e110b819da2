import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.masks.blocks import block, top_heads, top_neurons
from memhooks.model.components import Component, component_parameters, components, head_view
from memhooks.model.provenance import model_hash


@pytest.fixture
def scores(model):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(w.shape, generator=generator) for name, w in component_parameters(model).items()}


def dense(mask, model):
    full = {name: torch.zeros(w.shape, dtype=torch.bool) for name, w in component_parameters(model).items()}
    for name, own in mask.indices.items():
        full[name].view(-1)[own.long()] = True
    return full


def test_a_block_is_all_weights_of_its_components_and_no_other(model):
    cells = [Component(1, "W_V", 2), Component(3, "W_in")]
    mask = block(model, cells)
    full = dense(mask, model)
    for cell in components(model):
        own = head_view(full[cell.parameter_name], cell)
        assert own.all() if cell in cells else not own.any()
    assert mask.model_hash == model_hash(model)


def test_blocks_that_the_model_lacks_are_refused(model):
    with pytest.raises(InputError, match=r"cells must be components .*Component\(layer=0.*got none"):
        block(model, [])
    with pytest.raises(InputError, match=r"got Component\(layer=9, matrix='W_V', head=0\)"):
        block(model, [Component(9, "W_V", 0)])


@pytest.mark.parametrize("fraction", [1e-6, 0.01, 0.2])
def test_the_top_neurons_equal_a_loop(model, scores, fraction):
    n_layers, d_model, d_mlp = 4, 32, 96
    ranked = []
    for layer in range(n_layers):
        for n in range(d_mlp):
            own = [*scores[f"blocks.{layer}.mlp.W_in"][:, n].tolist(), *scores[f"blocks.{layer}.mlp.W_out"][n].tolist()]
            ranked.append((-((sum(one**2 for one in own) / len(own)) ** 0.5), layer, n))
    total = sum(w.numel() for w in component_parameters(model).values())
    count = max(1, round(max(1, round(fraction * total)) / (2 * d_model)))
    mask = top_neurons(model, scores, fraction=fraction)
    assert len(mask) == count * 2 * d_model
    expected = {name: torch.zeros(w.shape, dtype=torch.bool) for name, w in component_parameters(model).items()}
    for _, layer, n in sorted(ranked)[:count]:
        expected[f"blocks.{layer}.mlp.W_in"][:, n] = True
        expected[f"blocks.{layer}.mlp.W_out"][n] = True
    assert all(torch.equal(one, expected[name]) for name, one in dense(mask, model).items())


@pytest.mark.parametrize("n", [1, 5, 16])
def test_the_top_heads_equal_a_loop(model, scores, n):
    ranked = []
    for layer in range(4):
        for head in range(4):
            own = [scores[f"blocks.{layer}.attn.W_{which}"][head].flatten() for which in "QKVO"]
            ranked.append((-torch.cat(own).square().mean().sqrt().item(), layer, head))
    chosen = {(layer, head) for _, layer, head in sorted(ranked)[:n]}
    full = dense(top_heads(model, scores, n=n), model)
    for cell in components(model):
        own = head_view(full[cell.parameter_name], cell)
        assert own.all() if (cell.layer, cell.head) in chosen else not own.any()


def test_what_cannot_be_ranked_is_refused(model, scores):
    for n in (0, 17):
        with pytest.raises(InputError, match=rf"n must lie in 1\.\.16, the heads of all layers, got {n}"):
            top_heads(model, scores, n=n)
    with pytest.raises(InputError, match=r"the neurons of all layers hold 0\.600 of all weights"):
        top_neurons(model, scores, fraction=0.7)
    with pytest.raises(InputError, match=r"fraction must lie in \(0, 1\]"):
        top_neurons(model, scores, fraction=0.0)
    name = "blocks.2.mlp.W_in"
    with pytest.raises(InputError, match=f"no scores of {name}"):
        top_neurons(model, {key: one for key, one in scores.items() if key != name}, fraction=0.1)
    with pytest.raises(InputError, match=rf"scores of {name} must have the weight's shape \(32, 96\), got \(3,\)"):
        top_neurons(model, scores | {name: torch.ones(3)}, fraction=0.1)
    with pytest.raises(InputError, match=f"scores of {name} contain NaN or infinity"):
        top_neurons(model, scores | {name: torch.full((32, 96), float("nan"))}, fraction=0.1)
