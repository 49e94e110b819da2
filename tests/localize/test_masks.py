import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.errors import InputError
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.random_anywhere import random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask, frozen_outside
from memhooks.model.components import component_parameters, components, head_view
from memhooks.model.provenance import model_hash


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


SIZES = {"a": 12, "b": 7}
subsets = st.tuples(st.sets(st.integers(0, 11)), st.sets(st.integers(0, 6)))


def mask_of(sets, model_hash=""):
    indices = {name: torch.tensor(sorted(own), dtype=torch.int32) for name, own in zip(SIZES, sets, strict=True)}
    return WeightMask(indices, SIZES, model_hash)


def entries(mask):
    return {(name, int(place)) for name, own in mask.indices.items() for place in own}


@settings(max_examples=50, deadline=None)
@given(subsets, subsets)
def test_masks_combine_as_sets(first, second):
    one, other = mask_of(first), mask_of(second, "x")
    for found, expected in (
        (one | other, entries(one) | entries(other)),
        (one & other, entries(one) & entries(other)),
        (one - other, entries(one) - entries(other)),
        (one.complement(), {(name, place) for name, size in SIZES.items() for place in range(size)} - entries(one)),
    ):
        assert entries(found) == expected
        assert len(found) == len(expected)
        assert all(own.dtype == torch.int32 for own in found.indices.values())
    assert (one | other).model_hash == "x"
    assert (one == mask_of(second)) == (first == second)
    assert one != one.complement()


def test_a_parameter_without_indices_has_none():
    one = WeightMask({"a": torch.tensor([3], dtype=torch.int32)}, SIZES)
    assert one.of("b").tolist() == []
    assert entries(one | mask_of((set(), {1}))) == {("a", 3), ("b", 1)}
    assert one == mask_of(({3}, set()))
    assert WeightMask({}, {}).fraction == 0


def test_masks_of_other_models_or_parameters_do_not_combine():
    one = mask_of(({1}, {2}), "x")
    with pytest.raises(InputError, match=r"different models \(x and y\).*mask\.unbound"):
        one | mask_of(({1}, {2}), "y")
    with pytest.raises(InputError, match="different parameters: b has 7 entries in one and no entries in the other"):
        one & WeightMask({}, {"a": 12})
    assert one.unbound() | mask_of(({1}, {2}), "y") == mask_of(({1}, {2}), "y")


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ({"a": torch.tensor([1])}, "flat and int32, got torch.int64 of 1 dim"),
        ({"a": torch.zeros(1, 1, dtype=torch.int32)}, "flat and int32, got torch.int32 of 2 dim"),
        ({"a": torch.tensor([2, 1], dtype=torch.int32)}, "sorted, each at most once; those of a are not"),
        ({"a": torch.tensor([1, 1], dtype=torch.int32)}, "sorted, each at most once"),
        ({"a": torch.tensor([-1, 1], dtype=torch.int32)}, r"must lie in 0\.\.11, got -1\.\.1"),
        ({"a": torch.tensor([12], dtype=torch.int32)}, r"must lie in 0\.\.11, got 12"),
        ({"c": torch.tensor([1], dtype=torch.int32)}, "indices for c, but no size"),
    ],
)
def test_indices_that_make_no_mask_are_refused(indices, message):
    with pytest.raises(InputError, match=message):
        WeightMask(indices, SIZES)


def test_a_mask_knows_its_model(model):
    scores = component_parameters(model)
    mask = top_weights(scores, fraction=0.01, model=model)
    assert mask.model_hash == model_hash(model)
    assert mask.check(model) is mask
    assert matched_random_weights(mask, seed=0).model_hash == mask.model_hash
    with torch.no_grad():
        model.W_E[0, 0] += 1
    with pytest.raises(InputError, match=r"the mask belongs to another model: it was made for the weights .*unbound"):
        mask.check(model)
    with pytest.raises(InputError, match="the mask 'late' belongs to another model"):
        mask.check(model, name="late")
    mask.unbound().check(model)
    mask.bound(model).check(model)
    with pytest.raises(InputError, match="the mask is empty, so no weight may move"):
        (mask - mask).check(model)
    foreign = WeightMask({"a": torch.tensor([1], dtype=torch.int32)}, {"a": 5})
    for refused in (foreign.check, foreign.bound, foreign.restricted):
        with pytest.raises(InputError, match="belongs to another model: a has 5 entries there, None here"):
            refused(model)


@pytest.mark.parametrize(
    ("region", "inside"),
    [
        ({"layers": [1, 3]}, lambda cell: cell.layer in (1, 3)),
        ({"heads": [0, 2]}, lambda cell: cell.head in (0, 2)),
        ({"matrices": ["W_V", "W_in"]}, lambda cell: cell.matrix in ("W_V", "W_in")),
        (
            {"layers": [2], "heads": [1], "matrices": ["W_O"]},
            lambda cell: (cell.layer, cell.head, cell.matrix) == (2, 1, "W_O"),
        ),
        ({"matrices": []}, lambda cell: False),
        ({}, lambda cell: True),
    ],
)
def test_a_restriction_keeps_what_lies_in_the_region(model, region, inside):
    mask = random_weights(model, fraction=0.3, seed=1)
    allowed = {name: torch.zeros(w.shape, dtype=torch.bool) for name, w in component_parameters(model).items()}
    for cell in components(model):
        if inside(cell):
            head_view(allowed[cell.parameter_name], cell).fill_(True)
    found = mask.restricted(model, **region)
    for name, own in mask.indices.items():
        assert found.indices[name].tolist() == [one for one in own.tolist() if allowed[name].flatten()[one]]
    assert found.sizes == mask.sizes
    assert found.model_hash == mask.model_hash


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"layers": [4]}, r"layers must be among 0\.\.3, got 4"),
        ({"heads": [-1]}, r"heads must be among 0\.\.3, got -1"),
        ({"matrices": ["W_E"]}, "matrices must be among W_Q, .*got 'W_E'"),
    ],
)
def test_regions_that_the_model_lacks_are_refused(model, region, message):
    with pytest.raises(InputError, match=message):
        random_weights(model, fraction=0.1, seed=0).restricted(model, **region)


def test_random_weights_lie_anywhere_and_follow_the_seed(model):
    mask = random_weights(model, fraction=0.2, seed=3)
    n_weights = sum(mask.sizes.values())
    assert len(mask) == round(0.2 * n_weights)
    assert mask == random_weights(model, fraction=0.2, seed=3)
    assert mask != random_weights(model, fraction=0.2, seed=4)
    for name, own in mask.indices.items():  # within 5 standard deviations of chance
        size = mask.sizes[name]
        assert abs(len(own) - 0.2 * size) < 5 * (size * 0.2 * 0.8) ** 0.5
        assert abs(own.double().mean() / size - 0.5) < 5 / (12 * len(own)) ** 0.5
    assert len(random_weights(model, fraction=1.0, seed=0)) == n_weights
    assert len(random_weights(model, fraction=1e-9, seed=0)) == 1
    with pytest.raises(InputError, match=r"fraction must lie in \(0, 1\], got 2"):
        random_weights(model, fraction=2.0, seed=0)
