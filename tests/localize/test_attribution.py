import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from scipy.stats import norm

from memhooks.errors import InputError
from memhooks.localize.attribution import (
    contrastive_gradients,
    mean_over_paragraphs,
    weight_gradients,
    weight_scores,
)
from memhooks.localize.objectives import (
    FrozenKL,
    SpanNLL,
    TokenNLL,
    continuation_logits,
    continuation_nll,
    contrastive,
    forget_nll,
)
from memhooks.localize.pooling import POOLED, component_scores
from memhooks.model.components import component_parameters, components, head_view
from memhooks.model.loading import load_model
from memhooks.model.provenance import model_hash
from memhooks.model.replay.backward import trace
from memhooks.paragraphs.paragraphs import Paragraphs


def slow_gradients(model, paragraphs, objective=continuation_nll):
    """One backward pass through the whole model by autograd."""
    parameters = component_parameters(model)
    loss = objective(continuation_logits(model, paragraphs), paragraphs).mean()
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


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
                slopes.append(continuation_nll(continuation_logits(model, paragraphs), paragraphs).mean().item())
                weight.view(-1)[index] -= sign * 1e-5
        assert (slopes[0] - slopes[1]) / 2e-5 == pytest.approx(gradient[index].item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("processed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_equal_autograd_through_the_whole_model(neo, paragraphs, batch_size, processed, dtype):
    model = load_model(neo, dtype=dtype, processed=processed)
    near = 1e-5 if dtype == torch.float32 else 1e-9
    found = weight_gradients(model, paragraphs, batch_size=batch_size)
    for name, slow in slow_gradients(model, paragraphs).items():
        assert found[name].shape == slow.shape
        torch.testing.assert_close(found[name], slow, rtol=near, atol=near)


@pytest.mark.parametrize(
    "make",
    [
        lambda model, rows: SpanNLL(12, 13),
        lambda model, rows: TokenNLL(rows, torch.tensor([12, 23, 15, 12, 20, 13])),
        lambda model, rows: FrozenKL(half(model)),
        lambda model, rows: lambda logits, rows: logits[:, 3].logsumexp(-1),  # anybody's own
    ],
)
def test_gradients_of_any_objective_equal_autograd(model, paragraphs, make):
    objective = make(model, paragraphs)
    found = weight_gradients(model, paragraphs, objective=objective, batch_size=4)
    for name, slow in slow_gradients(model, paragraphs, objective).items():
        torch.testing.assert_close(found[name], slow, rtol=1e-5, atol=1e-5)


def half(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.blocks[2].mlp.W_out.mul_(0.5)
    return other


@pytest.mark.parametrize("edit", [True, False])
def test_gradients_of_the_published_objective_equal_autograd(model, paragraphs, edit):
    change, keep, frozen = paragraphs.select([0, 1]), paragraphs.select([2, 3, 4]), half(model)
    found = contrastive_gradients(model, change, keep, frozen, edit=edit)
    parameters = component_parameters(model)
    with torch.no_grad():
        theirs = continuation_logits(frozen, keep).log_softmax(-1)
    loss = contrastive(continuation_logits(model, change), change, continuation_logits(model, keep), theirs, edit=edit)
    for name, slow in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
        torch.testing.assert_close(found[name], slow, rtol=1e-5, atol=1e-5)


def test_at_the_frozen_model_the_published_objective_is_a_tenth_of_the_nll(model, paragraphs):
    """So its map does not know the paragraphs to keep: the published localization is not contrastive."""
    change, keep = paragraphs.select([0, 1]), paragraphs.select([2, 3, 4])
    found, plain = contrastive_gradients(model, change, keep, model), weight_gradients(model, change)
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], -0.1 * gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("times_weight", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_scores_are_pooled_from_each_paragraphs_own_backward(model, paragraphs, times_weight, batch_size):
    scores = weight_scores(model, paragraphs, times_weight=times_weight, batch_size=batch_size)
    parameters = component_parameters(model)
    for row in (0, 4):
        one = paragraphs.select([row])
        gradients = slow_gradients(model, one)
        loss = continuation_nll(continuation_logits(model, one), one).item()
        assert float(scores["loss"][row]) == pytest.approx(loss, rel=1e-5)
        for cell in components(model):
            gradient = head_view(gradients[cell.parameter_name], cell).abs()
            if times_weight:
                gradient = gradient * head_view(parameters[cell.parameter_name], cell).detach().abs()
            check_cell(scores.isel(paragraph=row).sel(layer=cell.layer, component=cell.label), gradient)


def check_cell(found, gradient):
    n = gradient.numel()
    slow = {
        "max_gradient": gradient.max(),
        "l1_gradient": gradient.sum(),
        "l2_gradient": gradient.square().sum().sqrt(),
        "mean_gradient": gradient.mean(),
        "rms_gradient": gradient.square().mean().sqrt(),
        "max_over_expected": gradient.max() / norm.isf(1 / (2 * n)),
    }
    assert set(slow) == set(POOLED)
    for name, value in slow.items():
        assert float(found[name]) == pytest.approx(value.item(), rel=1e-5, abs=1e-5), name


def test_component_scores_pool_the_gradient_of_the_mean(model, paragraphs):
    gradients = weight_gradients(model, paragraphs)
    found = component_scores(model, gradients)
    for cell in components(model):
        check_cell(
            found.sel(layer=cell.layer, component=cell.label), head_view(gradients[cell.parameter_name], cell).abs()
        )
    each = weight_scores(model, paragraphs)["l2_gradient"].mean("paragraph")
    assert (found["l2_gradient"] < each).all()  # the mean's gradient is shorter: paragraphs cancel each other


@pytest.mark.parametrize("of", [torch.abs, torch.square])
def test_means_over_paragraphs_equal_a_loop(model, paragraphs, of):
    found = mean_over_paragraphs(model, paragraphs, of, batch_size=4)
    each = [slow_gradients(model, paragraphs.select([row])) for row in range(6)]
    for name, mean in found.items():
        slow = torch.stack([of(gradients[name]) for gradients in each]).mean(0)
        torch.testing.assert_close(mean, slow, rtol=1e-5, atol=1e-5)


def test_the_sign_of_the_objective_does_not_matter(model, paragraphs):
    scores, opposite = weight_scores(model, paragraphs), weight_scores(model, paragraphs, objective=forget_nll)
    assert scores["max_gradient"].values == pytest.approx(opposite["max_gradient"].values, rel=1e-6)
    assert opposite.attrs["objective"] == "forget_nll"


def test_a_layer_that_writes_nothing_has_no_gradient_but_its_output_matrices(model, paragraphs):
    """A planted truth: with its output weights at zero, nothing inside the layer can matter."""
    with torch.no_grad():
        model.blocks[2].attn.W_O.zero_()
        model.blocks[2].mlp.W_out.zero_()
    scores = weight_scores(model, paragraphs)["max_gradient"].sel(layer=2).max("paragraph")
    silent = [label for label in scores["component"].values if not label.startswith(("W_O", "W_out"))]
    assert float(scores.sel(component=silent).max()) == 0
    assert float(scores.sel(component="W_out")) > 0


def test_size_is_taken_out_of_random_numbers(model):
    """The maximum of W_in's many entries is larger than a head's by number alone; over the expected one it is not."""
    generator = torch.Generator().manual_seed(0)
    noise = {n: torch.randn(p.shape, generator=generator) for n, p in component_parameters(model).items()}
    found = component_scores(model, noise).mean("layer")
    plain = found["max_gradient"].sel(component="W_in") / found["max_gradient"].sel(component="W_V 0")
    fair = found["max_over_expected"].sel(component="W_in") / found["max_over_expected"].sel(component="W_V 0")
    assert abs(float(fair) - 1) < abs(float(plain) - 1)
    assert float(fair) == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("grad_mode", [True, False])
def test_nothing_is_left_behind(model, paragraphs, grad_mode):
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    with torch.set_grad_enabled(grad_mode):
        weight_scores(model, paragraphs)
        assert torch.is_grad_enabled() is grad_mode
    assert all(p.grad is None for p in model.parameters())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags


def test_frozen_weights_have_gradients_too(model, paragraphs):
    expected = weight_gradients(model, paragraphs)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, gradient in weight_gradients(model, paragraphs).items():
        assert torch.equal(gradient, expected[name])


def test_unusable_input_is_refused(model, paragraphs):
    with pytest.raises(ValueError, match="token ids must lie in"):
        weight_gradients(model, Paragraphs(torch.full((1, 10), 500), 5))
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        weight_scores(model, paragraphs, batch_size=0)
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda x, hook: x)]):
        with pytest.raises(InputError, match="does not run through hooks"):
            weight_scores(model, paragraphs)
    with pytest.raises(InputError, match=r"one number for each of 6 paragraphs, got shape \(\)"):
        weight_gradients(model, paragraphs, objective=lambda logits, rows: logits.mean())
    with pytest.raises(InputError, match="does not depend on the logits, so it has no gradient"):
        weight_gradients(model, paragraphs, objective=lambda logits, rows: torch.ones(len(rows)))


@pytest.mark.parametrize("batch_size", [2, 8])
def test_hooks_of_others_take_part_in_the_gradient(model, paragraphs, batch_size):
    def double(x, hook):
        return 2 * x

    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", double)]):
        found, slow = weight_gradients(model, paragraphs, batch_size=batch_size), slow_gradients(model, paragraphs)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, slow[name], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found["blocks.1.attn.W_V"], weight_gradients(model, paragraphs)["blocks.1.attn.W_V"])


def test_weights_that_a_hook_cuts_off_have_no_gradient(model, paragraphs):
    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda x, hook: torch.zeros_like(x))]):
        found = weight_gradients(model, paragraphs)
    assert float(found["blocks.1.mlp.W_in"].abs().max()) == 0
    assert float(found["blocks.0.mlp.W_in"].abs().max()) > 0


@pytest.mark.parametrize(
    "measure", [weight_gradients, weight_scores, lambda *given: mean_over_paragraphs(*given, torch.abs)]
)
def test_weights_that_are_not_numbers_are_named(model, paragraphs, measure):
    with torch.no_grad():
        model.blocks[2].mlp.W_in[3, 5] = float("nan")
    with pytest.raises(InputError, match=r"continuation_nll is NaN or infinite for 6 of 6 paragraphs, such as 0"):
        measure(model, paragraphs)


def test_inference_mode_neither_stops_gradients_nor_spoils_the_model_for_later(neo, paragraphs):
    expected = weight_gradients(load_model(neo), paragraphs)
    model = load_model(neo)
    with torch.inference_mode():
        inside = weight_gradients(model, paragraphs)
        scores = weight_scores(model, paragraphs)
    for name, gradient in weight_gradients(model, paragraphs).items():
        assert torch.equal(gradient, expected[name])
        assert torch.equal(inside[name], expected[name])
    assert scores.identical(weight_scores(model, paragraphs))


def test_one_batch_is_let_go_before_the_next_is_run(model, paragraphs, monkeypatch):
    alive = []

    def watched(*given, **how):
        gc.collect()
        alive.append(sum(reference() is not None for reference in references))
        made = trace(*given, **how)
        references.append(weakref.ref(made.logits))
        return made

    references: list = []
    monkeypatch.setattr("memhooks.localize.attribution.trace", watched)
    weight_scores(model, paragraphs, batch_size=2)
    assert alive == [0, 0, 0]


def test_provenance_tells_objectives_apart(model, paragraphs):
    one, other = (weight_scores(model, paragraphs, objective=SpanNLL(12, stop)).attrs["objective"] for stop in (13, 14))
    assert one == "SpanNLL(first=12, stop=13)"
    assert other != one
    frozen = weight_scores(half(model), paragraphs, objective=FrozenKL(model)).attrs["objective"]
    assert frozen == f"FrozenKL({model_hash(model)})"


def test_scores_of_other_parameters_are_refused(model, paragraphs):
    gradients = weight_gradients(model, paragraphs)
    with pytest.raises(InputError, match=r"scores of blocks.0.attn.W_Q must have its shape .*, got none"):
        component_scores(model, {"other": torch.zeros(3)})
    with pytest.raises(InputError, match=r"scores of blocks.3.mlp.W_in are NaN or infinite"):
        component_scores(model, gradients | {"blocks.3.mlp.W_in": gradients["blocks.3.mlp.W_in"] * float("nan")})
    with pytest.raises(InputError, match=r"scores of blocks.3.mlp.W_in must have .*, got shape \(3,\)"):
        component_scores(model, gradients | {"blocks.3.mlp.W_in": torch.zeros(3)})


def test_half_precision_is_pooled_in_single(neo, paragraphs):
    found = weight_scores(load_model(neo, dtype=torch.bfloat16), paragraphs)
    exact = weight_scores(load_model(neo), paragraphs)
    assert found["max_gradient"].dtype == np.float32
    correlation = np.corrcoef(found["l2_gradient"].values.ravel(), exact["l2_gradient"].values.ravel())[0, 1]
    assert correlation > 0.99
