import pytest
import torch

from memhooks.localize.attribution import weight_gradients, weight_scores
from memhooks.localize.objectives import continuation_nll, forget_nll
from memhooks.model.components import components, head_view
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs


@pytest.mark.parametrize("name", ["blocks.0.attn.W_Q", "blocks.1.attn.W_O", "blocks.2.mlp.W_in", "blocks.3.mlp.W_out"])
def test_gradients_equal_finite_differences_in_float64(neo, paragraphs, name):
    model = load_model(neo, dtype=torch.float64)
    gradient = weight_gradients(model, paragraphs)[name].flatten()
    weight = dict(model.named_parameters())[name]
    for index in (int(gradient.abs().argmax()), 3):
        slopes = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.view(-1)[index] += sign * 1e-5
                slopes.append(continuation_nll(model, paragraphs).item())
                weight.view(-1)[index] -= sign * 1e-5
        assert (slopes[0] - slopes[1]) / 2e-5 == pytest.approx(gradient[index].item(), rel=1e-5, abs=1e-8)


def test_scores_are_pooled_from_each_paragraphs_own_backward(model, paragraphs):
    scores = weight_scores(model, paragraphs)
    for row in (0, 4):
        model.zero_grad()
        continuation_nll(model, paragraphs.select([row])).backward()
        parameters = dict(model.named_parameters())
        for cell in components(model):
            gradient = head_view(parameters[cell.parameter_name].grad, cell).abs()
            found = scores.sel(layer=cell.layer, component=cell.label).isel(paragraph=row)
            assert float(found["max_gradient"]) == pytest.approx(gradient.max().item(), rel=1e-5, abs=1e-7)
            assert float(found["mean_gradient"]) == pytest.approx(gradient.mean().item(), rel=1e-5, abs=1e-7)


def test_shares_add_up_and_the_sign_of_the_objective_does_not_matter(model, paragraphs):
    scores, opposite = weight_scores(model, paragraphs), weight_scores(model, paragraphs, objective=forget_nll)
    assert scores["layer_share"].sum("layer").values == pytest.approx(1.0)
    assert scores["max_gradient"].values == pytest.approx(opposite["max_gradient"].values, rel=1e-6)


def test_a_layer_that_writes_nothing_has_no_gradient_share_but_its_output_matrices(model, paragraphs):
    """A planted truth: with its output weights at zero, nothing inside the layer can matter."""
    with torch.no_grad():
        model.blocks[2].attn.W_O.zero_()
        model.blocks[2].mlp.W_out.zero_()
    scores = weight_scores(model, paragraphs)["max_gradient"].sel(layer=2).max("paragraph")
    silent = [label for label in scores["component"].values if not label.startswith(("W_O", "W_out"))]
    assert float(scores.sel(component=silent).max()) == 0
    assert float(scores.sel(component="W_out")) > 0


@pytest.mark.parametrize("grad_mode", [True, False])
def test_nothing_is_left_behind(model, paragraphs, grad_mode):
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    with torch.set_grad_enabled(grad_mode):
        weight_scores(model, paragraphs)
        assert torch.is_grad_enabled() is grad_mode
    assert all(p.grad is None for p in model.parameters())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags


def test_unreadable_paragraphs_are_refused(model):
    with pytest.raises(ValueError, match="token ids must lie in"):
        weight_gradients(model, Paragraphs(torch.full((1, 10), 500), 5))
