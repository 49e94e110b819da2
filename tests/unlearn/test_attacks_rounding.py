import inspect

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.top import top_weights
from memhooks.model.components import component_parameters
from memhooks.model.provenance import model_hash
from memhooks.unlearn.attacks.damage import every_weight, pruned, shaken
from memhooks.unlearn.attacks.min_step import rounded_up
from memhooks.unlearn.attacks.rounding import code_step, codes, rounded, rounded_values, surviving_share
from memhooks.unlearn.recipe import Recipe
from memhooks.unlearn.unlearning import unlearning_delta


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def rows_of(name, weight):
    """All weights that write one output number, as views: the textbook layout [output, inputs]."""
    matrix = name.rpartition(".")[2]
    if matrix in ("W_in", "W_out"):  # [input, output]
        return [weight[:, out] for out in range(weight.shape[1])]
    if matrix == "W_O":  # [head, d_head, output]
        return [weight[:, :, out] for out in range(weight.shape[2])]
    return [weight[head, :, out] for head in range(weight.shape[0]) for out in range(weight.shape[2])]


@pytest.mark.parametrize(("to", "largest"), [("int8", 127), ("int4", 7)])
def test_rounding_equals_a_slow_reference_row_by_row(model, to, largest):
    before = weights(model)
    grid = component_parameters(model)
    with rounded(model, to):
        for name, weight in model.named_parameters():
            if name not in grid:
                assert torch.equal(weight, before[name])
                continue
            for now, old in zip(rows_of(name, weight), rows_of(name, before[name]), strict=True):
                scale = max(abs(float(one)) for one in old.flatten()) / largest
                expected = [round(float(one) / scale) for one in old.flatten()]
                found = (now.detach().flatten().double() / scale).numpy()
                # A weight halfway between two codes may go either way in 32 bits.
                np.testing.assert_allclose(found, expected, atol=1e-3)
                assert max(map(abs, expected)) == largest
                assert (now - old).abs().max() <= scale / 2 * (1 + 1e-4)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_the_six_matrices_are_cast_to_bf16_and_back(model):
    before, grid = weights(model), component_parameters(model)
    with rounded(model, "bf16"):
        for name, weight in model.named_parameters():
            expected = before[name].bfloat16().float() if name in grid else before[name]
            assert torch.equal(weight, expected)


def test_rows_of_zeros_stay_zero():
    weight = torch.zeros(3, 4)
    weight[:, 1] = torch.tensor([1.0, -0.45, 0.26])
    values = rounded_values("blocks.0.mlp.W_in", weight, "int4")
    assert torch.equal(values[:, [0, 2, 3]], torch.zeros(3, 3))
    torch.testing.assert_close(values[:, 1] * 7, torch.tensor([7.0, -3.0, 2.0]))


def test_weights_are_back_after_an_error(model):
    before = model_hash(model)
    for damage in (rounded(model, "int4"), pruned(model, share=0.1), shaken(model, factor=0.1, seed=0)):
        with pytest.raises(RuntimeError, match="inside"), damage:
            assert model_hash(model) != before
            raise RuntimeError("inside")
        assert model_hash(model) == before


def test_pruning_takes_the_smallest_of_the_whole_model(model):
    before = weights(model)
    grid = list(component_parameters(model))
    together = torch.cat([before[name].flatten() for name in grid]).abs()
    k = round(0.05 * len(together))
    bound = together.sort().values[k - 1]
    with pruned(model, share=0.05):
        now = dict(model.named_parameters())
        assert sum(int((now[name] == 0).sum()) for name in grid) == k
        for name in grid:
            gone = before[name].abs() <= bound
            assert (now[name][gone] == 0).all()
            assert torch.equal(now[name][~gone], before[name][~gone])


def test_noise_moves_every_matrix_weight_by_its_parameters_spread(model):
    before, grid = weights(model), component_parameters(model)
    assert len(every_weight(model)) == sum(weight.numel() for weight in grid.values())
    with shaken(model, factor=0.1, seed=3):
        for name, weight in model.named_parameters():
            change = weight.detach() - before[name]
            if name in grid:
                assert float(change.std() / before[name].std()) == pytest.approx(0.1, rel=0.1)
            else:
                assert not change.any()


@pytest.fixture
def delta(model, paragraphs):
    forget, retain = paragraphs.select([0]), paragraphs.select([1, 2])
    mask = top_weights(weight_gradients(model, forget), fraction=0.02)
    return unlearning_delta(model, forget, retain, mask, recipe=Recipe(n_steps=3, lr=3e-3)).delta


@pytest.mark.parametrize("to", ["int8", "int4", "bf16"])
def test_the_surviving_share_counts_moved_weights_whose_code_changes(model, delta, to):
    grid = component_parameters(model)
    before = {name: codes(name, weight.detach().clone(), to) for name, weight in grid.items()}
    changed = moved = 0
    with delta.applied(model):
        for name, own in delta.indices.items():
            after = codes(name, grid[name].detach(), to).flatten()
            for i, place in enumerate(own.tolist()):
                if delta.new[name][i] != delta.old[name][i]:
                    moved += 1
                    changed += bool(after[place] != before[name].flatten()[place])
    assert surviving_share(delta, model, to) == changed / moved
    assert model_hash(model) == delta.before


def test_a_change_rounded_up_survives_where_a_small_one_did_not(model, paragraphs):
    forget, retain = paragraphs.select([0]), paragraphs.select([1, 2])
    mask = top_weights(weight_gradients(model, forget), fraction=0.02)
    small = unlearning_delta(model, forget, retain, mask, recipe=Recipe(n_steps=2, lr=1e-5)).delta
    large = rounded_up(small, model, "int4")
    assert surviving_share(small, model, "int4") < 0.02
    assert surviving_share(large, model, "int4") > 0.9
    weight = component_parameters(model)
    for name, own in small.indices.items():
        step = code_step(name, weight[name].detach(), "int4").expand_as(weight[name]).flatten()[own.long()]
        change, before = large.new[name] - large.old[name], small.new[name] - small.old[name]
        assert torch.equal(change.sign(), before.sign())
        assert (change.abs()[before != 0] >= step[before != 0] * (1 - 1e-3)).all()
        assert torch.equal(large.new[name][before == 0], small.old[name][before == 0])
    with large.applied(model):
        assert model_hash(model) == large.after
    assert model_hash(model) == large.before
    assert large.about["min_step"] == "int4"


def test_unusable_formats_and_shares_are_refused(model, delta):
    with pytest.raises(InputError, match="weights are rounded to int8, int4, bf16, got 'int2'"):
        next(inspect.unwrap(rounded)(model, "int2"))
    with pytest.raises(InputError, match="only int8 and int4 have a fixed step, got 'bf16'"):
        rounded_up(delta, model, "bf16")
    with pytest.raises(InputError, match="W_in holds NaN or infinity"):
        rounded_values("W_in", torch.tensor([[np.nan]]), "int8")
    with pytest.raises(InputError, match="fraction"):
        with pruned(model, share=1.5):
            pass
