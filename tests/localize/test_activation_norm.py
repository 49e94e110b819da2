import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.activation_norm import activation_norm
from memhooks.paragraphs.paragraphs import Paragraphs


def test_it_equals_a_loop_over_cached_activations(model, paragraphs):
    found = activation_norm(model, paragraphs, paragraphs)
    for layer in range(4):
        total, n = torch.zeros(96, dtype=torch.float64), 0
        for row in paragraphs.tokens:
            _, cache = model.run_with_cache(row[None])
            for position in range(11, 23):  # those that predict the continuation's 12 tokens
                total += cache["post", layer][0, position].detach().double()
                n += 1
        w_out = model.blocks[layer].mlp.W_out.detach()
        for neuron in range(96):
            expected = abs(total[neuron] / n) * w_out[neuron].double().square().sum().sqrt()
            for own in (
                found[f"blocks.{layer}.mlp.W_in"][:, neuron],
                found[f"blocks.{layer}.mlp.W_out"][neuron],
            ):
                torch.testing.assert_close(own.double(), expected.expand(32), rtol=1e-5, atol=1e-5)
        assert not any(found[f"blocks.{layer}.attn.W_{one}"].any() for one in "QKVO")


def test_a_neuron_that_is_always_on_ranks_first(model, paragraphs):
    """A planted truth: a large bias keeps one neuron of average length on."""
    with torch.no_grad():
        model.blocks[2].mlp.b_in[17] = 500.0
    found = activation_norm(model, paragraphs.select([0]), paragraphs)
    best = max(((one.max(), name) for name, one in found.items()), key=lambda one: one[0])[1]
    assert best in ("blocks.2.mlp.W_in", "blocks.2.mlp.W_out")
    assert found["blocks.2.mlp.W_in"].argmax(1).tolist() == [17] * 32


def test_unreadable_paragraphs_are_refused(model, paragraphs):
    with pytest.raises(InputError, match="token ids must lie in"):
        activation_norm(model, Paragraphs(torch.full((1, 10), 500), 5), paragraphs)
