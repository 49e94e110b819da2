import pytest
import torch

from memhooks.errors import InputError
from memhooks.model.components import (
    Component,
    component_labels,
    component_parameters,
    components,
    head_view,
    trainable,
)
from memhooks.model.loading import load_model
from tests.conftest import tiny_neo


def test_the_125m_grid_has_50_components_a_layer_and_84934656_weights():
    model = load_model(
        tiny_neo(window=256, n_ctx=128, layers=12, d_model=768, heads=12, d_mlp=3072, vocab=211, scale=1.0)
    )
    assert len(components(model)) == 12 * 50
    assert sum(p.numel() for p in component_parameters(model).values()) == 84_934_656


def test_the_views_of_all_components_hold_every_grid_weight_once(model):
    parameters = component_parameters(model)
    seen = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for cell in components(model):
        head_view(seen[cell.parameter_name], cell).add_(1)
    assert all((count == 1).all() for count in seen.values())


def test_silencing_a_heads_components_is_silencing_its_output(model):
    tokens = torch.arange(20)[None]
    names = ["blocks.1.attn.hook_z"]
    with torch.no_grad():
        for matrix in ("W_V",):
            cell = Component(1, matrix, 2)
            head_view(dict(model.named_parameters())[cell.parameter_name], cell).zero_()
        model.blocks[1].attn.b_V.zero_()
        _, cache = model.run_with_cache(tokens, names_filter=names)
    assert cache[names[0]][:, :, 2].abs().max() == 0
    assert cache[names[0]][:, :, 1].abs().max() > 0


def test_labels_are_unique_and_in_order(model):
    labels = component_labels(model)
    assert labels[:2] == ["W_Q 0", "W_Q 1"]
    assert labels[-2:] == ["W_in", "W_out"]
    assert len(set(labels)) == len(labels) == 18


def test_trainable_switches_exactly_the_grid_and_back_even_after_an_error(model):
    model.embed.W_E.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(KeyboardInterrupt), trainable(model) as chosen:
        assert {n for n, p in model.named_parameters() if p.requires_grad} == set(chosen)
        raise KeyboardInterrupt
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_a_head_that_is_not_there_is_refused(model):
    with pytest.raises(InputError, match=r"head must lie in 0..3, got 4"):
        head_view(model.blocks[0].attn.W_Q, Component(0, "W_Q", 4))
