import copy

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.masks.random_anywhere import random_weights
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.loading import load_model
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.forks.blind import blind_fork
from memhooks.truth.forks.line import barrier, loss_along_line
from memhooks.truth.forks.parts import Part, every_part
from memhooks.truth.forks.shares import gap_of
from memhooks.truth.forks.swap_parts import additivity, swap_parts
from memhooks.truth.forks.swapped import swapped
from tests.conftest import tiny_neo


@pytest.fixture
def fork(model):
    """The same model with every weight moved."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.3 * weight.std().nan_to_num() * torch.randn(weight.shape, generator=generator))
    return other


@pytest.fixture
def sets(model, fork):
    """What each fork says itself, and text of neither."""
    return sets_of(model, fork)


def sets_of(model, other):
    tokens = torch.randint(101, (13, 24), generator=torch.Generator().manual_seed(3))
    rows = [
        Paragraphs(tokens[a:b], n_prefix=12, ids=tuple(f"{a + i}" for i in range(b - a)))
        for a, b in ((0, 4), (4, 8), (8, 13))
    ]
    return {
        "memorized": with_own_continuation(model, rows[0]),
        "mirror": with_own_continuation(other, rows[1]),
        "control": rows[2],
    }


def bits(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def assert_same_bits(model, before):
    for name, weight in model.named_parameters():
        assert torch.equal(weight.detach().view(torch.int32), before[name].view(torch.int32)), name


def test_swapped_equals_copying_by_hand_and_restores_bit_for_bit(model, fork):
    before, theirs, there = bits(model), bits(fork), model_hash(model)
    mask = random_weights(model, fraction=0.01, seed=0).unbound()
    for which in [*every_part(model), mask]:
        expected = {name: weight.clone() for name, weight in before.items()}
        if isinstance(which, Part):
            for name, head in which.pieces:
                where = ... if head is None else head
                expected[name][where] = theirs[name][where]
        else:
            for name, index in which.indices.items():
                for place in index.tolist():
                    expected[name].view(-1)[place] = theirs[name].view(-1)[place]
        with swapped(model, fork, which) as inside:
            assert inside is model
            assert_same_bits(model, expected)
        assert_same_bits(model, before)
    assert model_hash(model) == there
    assert_same_bits(fork, theirs)


def test_an_interrupt_restores_every_weight(model, fork):
    before = bits(model)
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), swapped(model, fork, every_part(model, ["all"])[0]):
            raise error
        assert_same_bits(model, before)


def test_an_interrupt_in_the_middle_of_writing_restores_what_was_written(model, fork, monkeypatch):
    from memhooks.truth.forks import swapped as module

    before, written, write = bits(model), [], module._write_

    def stopped(weight, index, value):
        write(weight, index, value)
        written.append(index)
        if len(written) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_", stopped)
    with pytest.raises(KeyboardInterrupt), swapped(model, fork, every_part(model, ["all"])[0]):
        pass
    assert_same_bits(model, before)


def test_an_interrupt_on_entry_of_an_undo_leaves_no_piece_swapped(model, fork, monkeypatch):
    from memhooks.truth.forks import swapped as module

    before, write, undoing = bits(model), module._write_, []

    def stopped(weight, index, value):
        undoing.append(index)
        if undoing[0] == "inside" and len(undoing) == 4:
            raise KeyboardInterrupt
        write(weight, index, value)

    monkeypatch.setattr(module, "_write_", stopped)
    with pytest.raises(KeyboardInterrupt), swapped(model, fork, every_part(model, ["all"])[0]):
        undoing[:] = ["inside"]
    assert_same_bits(model, before)


def test_every_weight_is_in_the_parts_of_each_cut(model):
    size = {name: weight.numel() for name, weight in model.named_parameters()}
    by_name = {part.name: part for part in every_part(model)}
    rest = [by_name[name] for name in ("embeddings", "layer norms", "biases", "all matrices")]
    assert sorted(name for part in rest for name, _ in part.pieces) == sorted(size)
    assert len(every_part(model)) == 4 * 3 + 16 + 24 + 6 + 3 + 1 + 7 + 1
    for cut in (["attention", "mlp"], ["layer"]):
        names = sorted(name for part in every_part(model, cut) for name, _ in part.pieces)
        assert names == sorted(name for name in size if name.startswith("blocks."))
    assert by_name["L2H1"].pieces[0] == ("blocks.2.attn.W_Q", 1)
    assert by_name["layers 2-3"].pieces == by_name["L2"].pieces + by_name["L3"].pieces


def test_numbers_of_a_swap_are_those_of_whole_passes_of_the_swapped_models(model, fork, sets):
    parts = every_part(model)[::9]
    found = swap_parts(model, fork, sets, parts=parts)
    rows = sets["memorized"].joined(sets["mirror"], sets["control"])
    for part in parts:
        for side, other, name in ((model, fork, "nll_model"), (fork, model, "nll_other")):
            with swapped(side, other, part):
                expected = recitation(side, rows)
            np.testing.assert_allclose(
                found[name].sel(row=part.name), expected["nll"].mean("pos"), rtol=1e-5, atol=1e-5
            )
            if name == "nll_model":
                assert float(found["em_left"].sel(row=part.name)) == expected["exact_match"].values[:4].mean()
    low, high = (recitation(one, sets["memorized"])["nll"].mean("pos").values for one in (model, fork))
    one = found.sel(row="L1H2")
    removed = (one["nll_model"].values[:4] - low).mean() / (high - low).mean()
    brought = (high - one["nll_other"].values[:4]).mean() / (high - low).mean()
    rise = one["nll_model"].values[8:] - one["clean_nll_model"].values[8:]
    assert float(one["removes"]) == pytest.approx(removed, abs=1e-5)
    assert float(one["brings"]) == pytest.approx(brought, abs=1e-5)
    assert float(one["control_rise"]) == pytest.approx(rise.mean(), abs=1e-5)
    assert float(one["specific"]) == pytest.approx(removed - rise.mean() / (high - low).mean(), abs=1e-5)
    assert int(one["n_weights"]) == 4 * 32 * 8 + 3 * 8


def test_swapping_everything_is_the_other_model_and_swapping_what_is_equal_nothing(model, fork, sets):
    with torch.no_grad():
        fork.blocks[2].attn.W_K.copy_(model.blocks[2].attn.W_K)
    sets = sets_of(model, fork)
    found = swap_parts(model, fork, sets, parts=["matrix", "all"])
    for name in ("removes", "brings", "removes_mirror", "brings_mirror"):
        assert float(found[name].sel(row="everything")) == pytest.approx(1, rel=1e-5)
        assert float(found[name].sel(row="W_K 2")) == pytest.approx(0, abs=1e-6)
    assert float(found["delta"].sel(row="W_K 2")) == 0
    assert float(found["em_brought"].sel(row="everything")) == 12
    assert found["nll_model"].sel(row="everything").values == pytest.approx(found["clean_nll_other"].values, rel=1e-5)


def test_forks_that_differ_in_one_head_have_all_of_their_effect_there(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.blocks[1].attn.W_V[3].mul_(-2)
        other.blocks[1].attn.W_O[3].mul_(2)
    found = swap_parts(model, other, sets_of(model, other), parts=["head", "matrix", "mlp"])
    for name in ("removes", "brings", "removes_mirror", "brings_mirror"):
        assert float(found[name].sel(row="L1H3")) == pytest.approx(1, rel=1e-4)
        rest = found[name].sel(row=[one for one in found["row"].values if one not in ("L1H3", "W_V 1", "W_O 1")])
        np.testing.assert_allclose(rest, 0, atol=1e-5)
    assert int(found["rank_removes"].sel(row="L1H3")) == 1


def test_a_blind_fork_is_as_far_away_in_every_head_and_matrix_and_nothing_else(model, fork):
    with torch.no_grad():
        for one in (model, fork):
            one.unembed.W_U.copy_(one.embed.W_E.T)
    blind, before = blind_fork(model, fork, seed=0), bits(model)
    theirs, own = bits(fork), bits(blind)
    for name, weight in before.items():
        changes = [(one[name] - weight).reshape(len(weight) if weight.ndim == 3 else 1, -1) for one in (theirs, own)]
        for real, random in zip(*changes, strict=True):
            np.testing.assert_allclose(random.sort().values, real.sort().values, atol=1e-6)
            assert len(real) < 100 or not real.any() or not torch.allclose(real, random)
    assert torch.equal(own["unembed.W_U"], own["embed.W_E"].T)


def test_blind_shares_are_those_of_the_blind_forks_parts(model, fork, sets):
    found = swap_parts(model, fork, sets, parts=["layer", "mlp"], blind=["mlp"], seed=4)
    assert np.isnan(found["blind"].sel(row="L2"))
    part = every_part(model, ["mlp"])[2]
    low, high = (recitation(one, sets["memorized"])["nll"].values.mean() for one in (model, fork))
    clean = recitation(model, sets["control"])["nll"].values.mean()
    with swapped(model, blind_fork(model, fork, seed=4), part):
        moved = recitation(model, sets["memorized"])["nll"].values.mean()
        rise = recitation(model, sets["control"])["nll"].values.mean() - clean
    assert float(found["blind"].sel(row="MLP 2")) == pytest.approx((moved - low) / (high - low), abs=1e-5)
    assert float(found["blind_control_rise"].sel(row="MLP 2")) == pytest.approx(rise, abs=1e-5)


def test_sums_of_single_layers_stand_beside_all_at_once(model, fork, sets):
    found = swap_parts(model, fork, sets, parts=["layer", "bottom"])
    both = additivity(found)
    expected = sum(float(found["removes"].sel(row=f"L{layer}")) for layer in range(4))
    assert both["removes_sum"] == pytest.approx(expected)
    assert both["brings_at_once"] == float(found["brings"].sel(row="layers 0-3"))
    with pytest.raises(InputError, match="swaps of every layer and of 'layers 0-3' are needed"):
        additivity(found.isel(row=[0, 3]))
    with pytest.raises(InputError, match="swaps of every layer"):
        additivity(found.isel(row=[0, 3, 7]))


def test_a_gap_that_may_be_none_is_refused():
    high = np.array([1.0, -0.9, 1.0, -0.9])
    with pytest.raises(InputError, match=r"nothing separates the forks on the x set: .* lower end of the gap -"):
        gap_of("x", np.zeros(4), high, np.arange(4))
    assert gap_of("x", np.zeros(4), high, np.arange(4), sure=False).size.tolist() == high.tolist()
    assert gap_of("x", np.zeros(4), high, np.zeros(4, int)).size.mean() > 0


def test_the_lines_ends_are_the_two_models_and_its_middle_their_mean(model, fork, sets):
    before = bits(model)
    found = loss_along_line(model, fork, sets, steps=5)
    assert_same_bits(model, before)
    middle = copy.deepcopy(model)
    with torch.no_grad():
        for own, theirs in zip(middle.parameters(), fork.parameters(), strict=True):
            own.copy_((own + theirs) / 2)
    for share, one in ((0.0, model), (0.5, middle), (1.0, fork)):
        for name, rows in sets.items():
            expected = recitation(one, rows)
            at = found.sel(row=share)
            assert float(at[f"nll_{name}"]) == pytest.approx(float(expected["nll"].mean()), rel=1e-5, abs=1e-6)
            assert float(at[f"em_{name}"]) == float(expected["exact_match"].mean())


def test_permuted_hidden_units_are_the_same_function_with_a_hill_between(model):
    other = copy.deepcopy(model)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for block in other.blocks:
            for weight, axis in ((block.mlp.W_in, 1), (block.mlp.b_in, 0), (block.mlp.W_out, 0)):
                weight.copy_(weight.index_select(axis, order))
    sets = sets_of(model, other)
    sets["control"] = with_own_continuation(model, sets["control"])  # likely at both ends
    found = loss_along_line(model, other, sets, steps=5)
    ends = found["nll_control"].values[[0, -1]]
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)
    assert float(found["barrier"]) == pytest.approx(float(found["nll_control"].max() - ends.mean()), rel=1e-3)
    assert float(found["barrier"]) > 0.1
    assert not found.attrs["interpretable"]
    assert "so swaps are not interpretable" in found.attrs["verdict"]


def test_a_line_without_a_hill_is_interpretable_and_one_cluster_leaves_it_open(model, sets):
    near = copy.deepcopy(model)
    with torch.no_grad():
        for weight in near.parameters():
            weight.mul_(1.001)
    found = loss_along_line(model, near, sets, steps=3)
    assert found.attrs["interpretable"]
    assert found.attrs["verdict"].startswith("No hill on the straight line between the forks: barrier")
    found = loss_along_line(model, near, sets | {"control": sets["control"].select([0])}, steps=3)
    assert not found.attrs["interpretable"]
    assert "it is open" in found.attrs["verdict"]


def test_the_barrier_is_the_largest_rise_over_the_line_between_the_ends():
    nll = np.array([[1.0, 3.0], [4.0, 4.0], [3.0, 5.0]])
    size, low, high = barrier(nll, np.arange(2), seed=0)
    assert size == pytest.approx(1.0)  # (2 + 0) / 2
    assert low <= size <= high
    size, low, _ = barrier(nll, np.zeros(2, int), seed=0)
    assert np.isnan(low)
    assert barrier(np.array([[1.0, 1], [0, 0], [1, 1]]), np.arange(2), seed=0)[0] == 0.0


def test_unusable_forks_are_refused(model, fork, neo):
    all_of_it = every_part(model, ["all"])[0]

    def refused(message, one, other, which=all_of_it):
        with pytest.raises(InputError, match=message), swapped(one, other, which):
            pass

    refused("the same object", model, model)
    refused("processed=False", model, load_model(neo, processed=True))
    refused(r"W_in is \(32, 96\) in the model and \(32, 64\)", model, load_model(tiny_neo(d_mlp=64)))
    refused("same window_size; it is 8 in the model and 4", model, load_model(tiny_neo(window=4)))
    refused(
        "the model lacks blocks.9.mlp.W_in of the part x",
        model,
        fork,
        Part("x", "matrix", (("blocks.9.mlp.W_in", None),)),
    )
    refused("the model lacks blocks.1.attn.W_Q, head 4 of", model, fork, Part("x", "head", (("blocks.1.attn.W_Q", 4),)))
    mask = random_weights(load_model(tiny_neo(d_mlp=64)), fraction=0.1, seed=0)
    refused("the mask belongs to another model: blocks.0.mlp.W_in has 2048", model, fork, mask)


def test_unusable_sets_parts_and_settings_are_refused(model, fork, sets):
    with pytest.raises(InputError, match="sets must be memorized, mirror, control, got memorized;"):
        swap_parts(model, fork, {"memorized": sets["memorized"]})
    with pytest.raises(InputError, match="memorized and mirror share near-duplicates"):
        swap_parts(model, fork, sets | {"mirror": sets["memorized"]})
    with pytest.raises(InputError, match=r"kinds of parts are layer, attention, .* got nose"):
        swap_parts(model, fork, sets, parts=["nose"])
    with pytest.raises(InputError, match="parts must have different names"):
        swap_parts(model, fork, sets, parts=every_part(model, ["all"]) * 2)
    with pytest.raises(InputError, match="nothing separates the forks on the memorized set"):
        swap_parts(fork, model, sets, parts=["all"])
    with pytest.raises(InputError, match="steps must be at least 3"):
        loss_along_line(model, fork, sets, steps=2)
    with pytest.raises(InputError, match="tolerance must be a positive number"):
        loss_along_line(model, fork, sets, tolerance=0.0)
