import copy

import pytest
import torch

from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.localize.objectives import continuation_logits, continuation_nll
from memhooks.model.components import component_parameters, trainable
from memhooks.unlearn.gradients import MaskedGradients


def by_autograd(model, rows, mask):
    """The gradient of the summed losses through TransformerLens's own pass, then the mask's entries."""
    with trainable(model) as parameters:
        losses = continuation_nll(continuation_logits(model, rows), rows)
        found = torch.autograd.grad(losses.sum(), list(parameters.values()))
    gradients = dict(zip(parameters, found, strict=True))
    parts = [gradients[name].flatten()[own.long()] for name, own in mask.indices.items() if len(own)]
    return losses.detach(), torch.cat(parts)


@pytest.mark.parametrize("fraction", [0.0005, 0.005, 0.05, 1.0])  # single products, whole products, both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chosen_gradients_equal_autograd_through_the_model(model, paragraphs, fraction, dtype):
    model = copy.deepcopy(model)
    model.to(dtype, print_details=False)
    sizes = {name: weight.detach() for name, weight in component_parameters(model).items()}
    mask = matched_random_weights(top_weights(sizes, fraction=fraction), seed=3)
    expected, gradient = by_autograd(model, paragraphs, mask)
    losses, found = MaskedGradients(model, mask)(paragraphs, lambda logits: continuation_nll(logits, paragraphs))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(losses, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found, gradient, rtol=tolerance, atol=tolerance * float(gradient.abs().max()))


@pytest.mark.parametrize("matrix", ["attn.W_Q", "attn.W_K", "attn.W_V", "attn.W_O", "mlp.W_in", "mlp.W_out"])
def test_one_matrix_alone_has_its_own_gradient(model, paragraphs, matrix):
    name = f"blocks.2.{matrix}"
    size = dict(model.named_parameters())[name].numel()
    for own in (torch.arange(0, size, 97), torch.arange(size)):
        mask = WeightMask({name: own.int()}, {name: size})
        _, gradient = by_autograd(model, paragraphs, mask)
        _, found = MaskedGradients(model, mask)(paragraphs, lambda logits: continuation_nll(logits, paragraphs))
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


def test_nothing_is_left_on_the_model(model, paragraphs):
    mask = top_weights({n: w.detach() for n, w in component_parameters(model).items()}, fraction=0.01)
    flags = [weight.requires_grad for weight in model.parameters()]
    with torch.inference_mode():
        MaskedGradients(model, mask)(paragraphs, lambda logits: continuation_nll(logits, paragraphs))
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert all(weight.grad is None for weight in model.parameters())
