import pytest
import torch

from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.components import component_parameters, trainable
from memhooks.unlearn.optimizer import MaskedOptimizer
from memhooks.unlearn.recipe import Recipe

DENSE = {
    "adam": lambda parameters, recipe: torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay),
    "adamw": lambda parameters, recipe: torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay),
    "sgd": lambda parameters, recipe: torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    ),
}


def random_gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-8, 2, (1,), generator=generator).item()
    return {name: sizes * torch.randn(one.shape, generator=generator) for name, one in parameters.items()}


def dense_run(parameters, mask, recipe, n_steps):
    """The same by a dense optimizer whose gradients are zero outside the mask."""
    dense = {name: one.detach().clone().requires_grad_() for name, one in parameters.items()}
    optimizer = DENSE[recipe.optimizer](dense.values(), recipe)
    for step in range(n_steps):
        for name, gradient in random_gradients(parameters, step).items():
            keep = torch.zeros(gradient.numel())
            keep[mask.of(name).long()] = 1.0
            dense[name].grad = gradient * keep.reshape(gradient.shape)
        optimizer.step()
    return dense


def sparse_run(parameters, mask, recipe, n_steps):
    optimizer = MaskedOptimizer(parameters, mask, recipe)
    for step in range(n_steps):
        gradients = random_gradients(parameters, step)
        optimizer.step_(optimizer.gathered({name: gradients[name] for name in parameters if len(mask.of(name))}))
    return optimizer


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("fraction", [0.0001, 0.001, 0.01, 0.1, 1.0])
def test_fifty_steps_equal_the_dense_masked_run_bit_for_bit(model, optimizer, fraction):
    recipe = Recipe(optimizer=optimizer, lr=1e-3, weight_decay=0.0)
    parameters = component_parameters(model)
    mask = top_weights(random_gradients(parameters, 99), fraction=fraction)
    expected = dense_run(parameters, mask, recipe, 50)
    with trainable(model) as chosen, torch.no_grad():
        sparse_run(chosen, mask, recipe, 50)
    for name, weight in component_parameters(model).items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_decay_acts_on_masked_entries_as_in_the_dense_run_and_on_no_others(model, optimizer):
    recipe = Recipe(optimizer=optimizer, lr=1e-2, weight_decay=0.5)
    parameters = component_parameters(model)
    before = {name: weight.detach().clone() for name, weight in parameters.items()}
    mask = top_weights(random_gradients(parameters, 99), fraction=0.01)
    expected = dense_run(parameters, mask, recipe, 20)
    sparse_run(parameters, mask, recipe, 20)
    for name, weight in parameters.items():
        inside = torch.zeros(weight.numel(), dtype=torch.bool)
        inside[mask.of(name).long()] = True
        flat = weight.detach().flatten()
        assert torch.equal(flat[inside], expected[name].detach().flatten()[inside])
        assert torch.equal(flat[~inside], before[name].flatten()[~inside])
    leaked = sum(int((expected[name] != before[name]).sum()) for name in parameters)
    assert leaked > 0.99 * sum(mask.sizes.values())  # the dense run decays what its mask should have held


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_resumed_optimizer_goes_on_bit_for_bit(model, optimizer):
    recipe = Recipe(optimizer=optimizer, lr=1e-2, weight_decay=0.1)
    parameters = component_parameters(model)
    mask = matched_random_weights(top_weights(random_gradients(parameters, 99), fraction=0.01), seed=0)
    start = {name: weight.detach().clone() for name, weight in parameters.items()}
    whole = sparse_run(parameters, mask, recipe, 8).values.clone()
    with torch.no_grad():
        for name, weight in parameters.items():
            weight.copy_(start[name])
    half = sparse_run(parameters, mask, recipe, 5)
    resumed = MaskedOptimizer(parameters, mask, recipe)
    resumed.resume_(half.values, half.state())
    for step in range(5, 8):
        gradients = random_gradients(parameters, step)
        resumed.step_(resumed.gathered({name: gradients[name] for name in parameters if len(mask.of(name))}))
    assert torch.equal(resumed.values, whole)


def test_half_precision_models_keep_their_chosen_entries_in_float32():
    weight = torch.nn.Parameter(torch.full((64,), 0.1, dtype=torch.bfloat16))
    mask = WeightMask({"a": torch.arange(8, dtype=torch.int32)}, {"a": 64})
    optimizer = MaskedOptimizer({"a": weight}, mask, Recipe(optimizer="sgd", lr=1e-5, momentum=0.0))
    for _ in range(100):
        optimizer.step_(torch.ones(8))
    assert optimizer.values.dtype == torch.float32
    assert torch.allclose(optimizer.values, torch.full((8,), 0.1 - 1e-3), atol=1e-4)
    assert (weight[:8] < weight[8]).all()  # a hundred steps too small for bfloat16 add up


def test_the_state_is_of_the_chosen_entries_alone(model):
    parameters = component_parameters(model)
    mask = top_weights(weights_of(parameters), fraction=0.01)
    optimizer = sparse_run(parameters, mask, Recipe(), 2)
    assert optimizer.n_bytes <= 20 * (len(mask) + 64) + 64


def weights_of(parameters):
    return {name: one.detach() for name, one in parameters.items()}


def test_gathered_entries_come_in_the_masks_order(model, paragraphs):
    gradients = weight_gradients(model, paragraphs)
    mask = top_weights(gradients, fraction=0.01)
    optimizer = MaskedOptimizer(component_parameters(model), mask, Recipe())
    chosen = {name: gradients[name] for name, own in mask.indices.items() if len(own)}
    expected = [gradients[name].flatten()[i].item() for name, own in mask.indices.items() for i in own.tolist()]
    assert optimizer.gathered(chosen).tolist() == expected
