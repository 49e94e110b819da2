"""Each law of the helpers, the ten misuse cases, and faults injected everywhere."""

import copy
import inspect
from contextlib import contextmanager

import pytest
import torch

from memhooks.errors import InputError
from memhooks.model.ablated import ablated
from memhooks.model.hook_names import full_name
from memhooks.model.hook_table import hook_table
from memhooks.model.hooks import hooked, recorded
from memhooks.model.means import activation_means
from memhooks.model.patched import patched

TOKENS = torch.arange(20).reshape(2, 10)
PATTERN = "blocks.2.attn.hook_pattern"
RESID = "blocks.1.hook_resid_pre"


def nothing(activation, hook):
    return None


def test_recorded_activations_equal_transformer_lens_cache(model):
    _, cache = model.run_with_cache(TOKENS)
    with recorded(model, [PATTERN]) as store:
        model(TOKENS)
    assert torch.equal(store[PATTERN], cache[PATTERN])


def test_short_names_and_filters_find_what_full_names_find(model):
    with recorded(model, ("pattern", 2)) as by_short, recorded(model, lambda name: name == PATTERN) as by_filter:
        model(TOKENS)
    assert list(by_short) == list(by_filter) == [PATTERN]
    assert torch.equal(by_short["pattern", 2], by_filter[PATTERN])
    with pytest.raises(InputError, match=r"\('z', 1\) was not recorded; recorded: blocks.2.attn.hook_pattern"):
        by_short["z", 1]


def test_a_filter_leaves_out_points_that_are_switched_off(model):
    with recorded(model, lambda name: name.startswith("blocks.0.attn")) as store:
        model(TOKENS)
    assert "blocks.0.attn.hook_result" not in store
    assert len(store) == 6


def test_recorded_activations_survive_a_later_hook_in_place(model):
    name = "blocks.0.hook_resid_post"
    with recorded(model, [name]) as store, hooked(model, [(name, lambda x, hook: x.zero_())]):
        model(TOKENS)
    assert store[name].abs().max() > 0


def test_transformer_lens_itself_aliases(model):
    """Why recorded tensors are copies: this is the silent slip (if it fails, TransformerLens has mended it)."""
    name, store = "blocks.0.hook_resid_post", {}

    def keep(activation, hook):
        store[name] = activation

    with model.hooks(fwd_hooks=[(name, keep), (name, lambda x, hook: x.zero_())]):
        model(TOKENS)
    assert store[name].abs().max() == 0


def test_gradients_equal_finite_differences_and_leave_no_grad(model):
    model = model.to(torch.float64)
    with recorded(model, RESID, gradients=True) as store, hooked(model, [(RESID, lambda x, hook: x.mul_(1.0))]):
        loss = model(TOKENS, return_type="loss")
    gradient = store.gradients(loss)[RESID]
    place, step = (1, 3, 5), 1e-6

    def nudged(by):
        def nudge(x, hook):
            x[place] += by

        with torch.no_grad(), hooked(model, [(RESID, nudge)]):
            return float(model(TOKENS, return_type="loss"))

    assert float(gradient[place]) == pytest.approx((nudged(step) - nudged(-step)) / (2 * step), rel=1e-5, abs=1e-9)
    assert all(weight.grad is None for weight in model.parameters())


def test_backward_hooks_see_and_replace_gradients(model):
    seen = []

    def silence(gradient, hook):
        seen.append(gradient.clone())
        return torch.zeros_like(gradient)

    with hooked(model, backward=[("hook_embed", silence)]):
        model(TOKENS, return_type="loss").backward()
    assert seen[0].abs().max() > 0
    assert model.W_E.grad.abs().max() == 0


def test_a_backward_hook_does_not_outlive_its_block(model):
    """The graph does, so a backward pass after the block must not run the function."""
    seen = []
    with (
        pytest.raises(InputError, match=r"never fired: hook_embed \(backward\)"),
        hooked(model, backward=[("hook_embed", lambda gradient, hook: seen.append(1))]),
    ):
        loss = model(TOKENS, return_type="loss")
    loss.backward()
    assert not seen


# The ten misuse cases. TransformerLens 3.9 lets six of them pass without a word.


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("blocks.0.attn.hook_patern", r"no hook point .*; did you mean 'blocks.0.attn.hook_pattern'"),
        (("z3", 1), r'the layer comes second, as in \("z", 3\)'),
        (("zz", 1), r"no hook point \('zz', 1\); did you mean 'blocks.1.attn.hook_z'"),
        ("z", r"every layer has a 'z'; say which, as in \(\"z\", 0\)"),
        (("z", -1), r"layer must lie in 0..3, got \('z', -1\)"),
        (".%%%%", "did you mean one of those that memhooks.hook_table"),
    ],
)
def test_misuse_1_unknown_names(model, place, message):
    with pytest.raises(InputError, match=message), recorded(model, [place]):
        model(TOKENS)


def test_what_is_no_name_at_all_is_refused():
    with pytest.raises(InputError, match=r'a name or a pair such as \("z", 3\), got 7'):
        inspect.unwrap(full_name)(7)  # without the tests' own check of types


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ("blocks.0.attn.hook_result", r"never fires while cfg.use_attn_result is off; call model.set_use_attn_result"),
        (lambda name: "hook_result" in name, "matches only hook points that are switched off.*cfg.use_attn_result"),
    ],
)
def test_misuse_2_gated_names(model, places, message):
    with pytest.raises(InputError, match=message), recorded(model, places):
        model(TOKENS)


def test_a_gated_name_works_once_its_flag_is_on(model):
    model.set_use_attn_result(True)
    with recorded(model, ("result", 0)) as store:
        model(TOKENS)
    assert store["result", 0].shape == (2, 10, 4, 32)


def test_misuse_3_a_filter_that_matches_nothing(model):
    with pytest.raises(InputError, match="the filter matches none of the model's"), recorded(model, lambda n: False):
        model(TOKENS)
    with pytest.raises(InputError, match="no hook points given"), recorded(model, []):
        model(TOKENS)
    with pytest.raises(InputError, match="no hooks given"), hooked(model, []):
        model(TOKENS)


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ((RESID, nothing), r"hooks are a list of pairs, \[\(\(.z., 3\), function\)\], got 'blocks.1"),
        ([(RESID, lambda activation: None)], r"hooks are called as function\(activation, hook=hook_point\), but"),
        ([(RESID, "z")], "hooks are a list of pairs"),
    ],
)
def test_functions_that_cannot_be_hooks_are_refused(model, hooks, message):
    with pytest.raises(InputError, match=message), contextmanager(inspect.unwrap(hooked))(model, hooks):
        model(TOKENS)


def test_short_names_work_wherever_a_recording_is_asked(model):
    with recorded(model, [("z", 0), "embed"], gradients=True) as store:
        loss = model(TOKENS, return_type="loss")
    assert ("z", 0) in store
    assert "embed" in store
    assert ("z", 1) not in store
    assert store.gradients(loss)["z", 0].shape == store["z", 0].shape
    assert repr(store).startswith("hook_embed float32 (2, 10, 32)") or "hook_z float32 (2, 10, 4, 8)" in repr(store)


def test_misuse_4_a_hook_that_never_fires(model):
    with pytest.raises(InputError, match=r"1 of 2 hooks never fired: blocks.3.hook_resid_post \(forward\); run the"):
        with recorded(model, [RESID, "blocks.3.hook_resid_post"]):
            model(TOKENS, stop_at_layer=3)
    with pytest.raises(InputError, match="2 of 2 hooks never fired"), recorded(model, [RESID, PATTERN]):
        pass


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, hook: x[:1], r"got float32 \(2, 10, 32\) on cpu and returned float32 \(1, 10, 32\)"),
        (lambda x, hook: x[:, :1], r"returned float32 \(2, 1, 32\)"),
        (lambda x, hook: (x,), "must return a tensor or None, got tuple"),
    ],
)
def test_misuse_5_a_returned_tensor_of_another_shape(model, function, message):
    with pytest.raises(InputError, match=message), hooked(model, [(RESID, function)]):
        model(TOKENS)


def test_misuse_6_a_returned_tensor_of_another_dtype(model):
    with (
        pytest.raises(InputError, match=r"returned float64 \(2, 10, 32\)"),
        hooked(model, [(RESID, lambda x, hook: x.double())]),
    ):
        model(TOKENS)


def pattern_of(model):
    with recorded(model, PATTERN) as store:
        model(TOKENS)
    return store[PATTERN]


@pytest.mark.parametrize(
    ("enter", "message"),
    [
        (lambda m: recorded(m, ("z", 4)), r"layer must lie in 0..3, got \('z', 4\)"),
        (lambda m: recorded(m, "blocks.9.attn.hook_z"), r"layer must lie in 0..3, got 'blocks.9.attn.hook_z'"),
        (lambda m: ablated(m, heads=[(0, 4)]), r"head must lie in 0..3, got 4"),
        (lambda m: ablated(m, heads=[(-1, 0)]), r"layer must lie in 0..3, got -1"),
        (lambda m: patched(m, PATTERN, pattern_of(m), heads=[4]), r"heads must be numbers in 0..3, got \[4\]"),
        (lambda m: patched(m, PATTERN, pattern_of(m), heads=[]), r"heads must be numbers in 0..3, got \[\]"),
        (lambda m: patched(m, RESID, torch.zeros(2, 10, 32), heads=[0]), "has no heads; patch heads at z"),
        (lambda m: patched(m, RESID, torch.zeros(2, 10, 32), at=10), r"positions must lie in 0..9, got 10..10"),
        (lambda m: patched(m, RESID, torch.zeros(2, 10, 32), at=-1), r"positions must lie in 0..9, got -1..-1"),
    ],
)
def test_misuse_7_layers_heads_and_positions_out_of_range(model, enter, message):
    with pytest.raises(InputError, match=message), enter(model):
        model(TOKENS)


@pytest.mark.parametrize(
    ("clean", "at", "message"),
    [
        (torch.zeros(2, 9, 32), None, r"has shape \(2, 10, 32\), the patch \(2, 9, 32\); take it from as many rows"),
        (torch.zeros(1, 10, 32), None, r"the patch \(1, 10, 32\)"),
        (
            torch.zeros(2, 10, 32),
            torch.tensor([1]),
            r"at must be one position or one integer per row, 2 in all, got int64 \(1,\)",
        ),
        (torch.zeros(2), None, "must have all axes of its activation"),
    ],
)
def test_misuse_8_unequal_lengths(model, clean, at, message):
    with pytest.raises(InputError, match=message), patched(model, RESID, clean, at=at):
        model(TOKENS)


def test_misuse_9_train_mode(model):
    model.train()
    with pytest.raises(InputError, match="the model is in train mode"), recorded(model, RESID):
        model(TOKENS)
    model.eval()
    model.blocks[1].attn.train()
    with pytest.raises(InputError, match=r"blocks\.1\.attn is in train mode.*call model.eval"), recorded(model, RESID):
        model(TOKENS)
    assert model.blocks[1].attn.training


def test_misuse_10_gradients_wanted_but_disabled(model):
    with torch.no_grad(), pytest.raises(InputError, match=r"enter torch\.enable_grad"):
        with recorded(model, RESID, gradients=True):
            model(TOKENS)
    with torch.no_grad(), pytest.raises(InputError, match="gradients are wanted but switched off"):
        with hooked(model, backward=[(RESID, nothing)]):
            model(TOKENS)
    with pytest.raises(InputError, match=r"gradients are wanted at blocks\.1\.hook_resid_pre"):
        with recorded(model, RESID, gradients=True), torch.no_grad():
            model(TOKENS)
    with recorded(model, RESID, gradients=True) as store:
        model(TOKENS)
    with pytest.raises(InputError, match="the loss has no gradient"):
        store.gradients(torch.tensor(1.0))


def test_gradients_that_would_be_wrong_are_refused(model):
    with recorded(model, RESID) as store:
        loss = model(TOKENS, return_type="loss")
    with pytest.raises(InputError, match="nothing was recorded with gradients"):
        store.gradients(loss)
    with pytest.raises(InputError, match="fires once each for q, k and v"):
        with recorded(model, "blocks.0.ln1.hook_normalized", gradients=True):
            model(TOKENS)
    with recorded(model, RESID, gradients=True) as store:
        model(TOKENS)
    with pytest.raises(InputError, match=r"the loss does not depend on blocks\.1\.hook_resid_pre"):
        store.gradients(model.W_E.sum())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_that_others_add_and_remove_meanwhile_are_left_alone(model, error):
    point = model.hook_dict[RESID]
    point.add_hook(nothing)
    with pytest.raises(error), hooked(model, [(RESID, nothing)]):
        point.add_hook(nothing, is_permanent=True)
        model(TOKENS)
        raise error
    assert len(point.fwd_hooks) == len(point._forward_hooks) == 2


def test_hooks_that_are_removed_inside_the_block_are_missed(model):
    point = model.hook_dict[RESID]
    point.add_hook(nothing, is_permanent=True)
    with pytest.raises(InputError, match=r"blocks.1.hook_resid_pre lost its hook inside the block \(model.reset_hooks"):
        with hooked(model, [(RESID, nothing)]):
            model(TOKENS)
            model.reset_hooks()
    assert [handle.is_permanent for handle in point.fwd_hooks] == [True]


def test_train_mode_that_begins_inside_the_block_is_noticed(model):
    with pytest.raises(InputError, match="in train mode"), recorded(model, RESID):
        model(TOKENS)
        model.train()


def test_a_copy_of_the_model_made_inside_a_block_is_free_of_its_hooks_afterwards(model):
    clean = model(TOKENS)
    with ablated(model, heads=[(0, 0), (2, 1)]):
        model(TOKENS)
        twin = copy.deepcopy(model)
    assert torch.equal(twin(TOKENS), clean)


def test_passes_of_the_librarys_own_are_not_seen_by_blocks_around_them(model):
    """The source of a resampling, means and the hook table all run the model."""
    with recorded(model, ("z", 3)) as store:
        model(TOKENS)
        kept = store["z", 3].clone()
        means = activation_means(model, TOKENS + 20)
        hook_table(model)
        with ablated(model, how="resample", source=TOKENS + 40, heads=[(1, 1)]):
            model(TOKENS, stop_at_layer=2)
        assert torch.equal(store["z", 3], kept)
    with ablated(model, heads=[(0, 0)]):
        model(TOKENS)
        inside = activation_means(model, TOKENS + 20)
    assert all(torch.equal(inside.values[name], mean) for name, mean in means.values.items())


def test_a_recording_that_would_mix_passes_is_refused(model):
    with pytest.raises(InputError, match=r"mixes passes: blocks.0.attn.hook_z ran 2 times, blocks.3.attn.hook_z 1"):
        with recorded(model, [("z", 0), ("z", 3)]):
            model(TOKENS + 20)
            model(TOKENS, stop_at_layer=2)
    with pytest.raises(InputError, match="holds the gradients of one forward pass"):
        with recorded(model, RESID, gradients=True):
            model(TOKENS)
            model(TOKENS)


def test_a_backward_hook_in_place_leaves_the_other_branch_alone(model):
    """Autograd hands the same tensor to both inputs of the residual sum."""

    def arriving(edit):
        seen = []
        keep = (RESID, lambda gradient, hook: seen.append(gradient.clone()))
        with hooked(model, backward=[keep, (("attn_out", 1), edit)]):
            model(TOKENS, return_type="loss").backward()
        return seen[0]

    returned = arriving(lambda gradient, hook: torch.zeros_like(gradient))
    assert torch.equal(arriving(zero_in_place), returned)
    assert returned.abs().max() > 0


def zero_in_place(gradient, hook):
    gradient.zero_()


@pytest.mark.parametrize("at", [torch.tensor([1.9, 3.2]), torch.tensor([True, False])])
def test_positions_that_are_no_integers_are_refused(model, at):
    with pytest.raises(InputError, match="at must be one position or one integer per row"):
        with contextmanager(inspect.unwrap(patched))(model, RESID, torch.zeros(2, 10, 32), at=at):
            model(TOKENS)  # without the tests' own check of types


def test_a_patch_of_another_dtype_is_refused(model):
    with pytest.raises(InputError, match=r"is torch.float32, the patch torch.float64; convert it"):
        with patched(model, RESID, torch.zeros(2, 10, 32, dtype=torch.float64)):
            model(TOKENS)


def test_blocks_may_end_in_any_order(model):
    outer, inner = hooked(model, [(RESID, nothing)]), hooked(model, [(RESID, nothing)])
    outer.__enter__()
    inner.__enter__()
    model(TOKENS)
    outer.__exit__(None, None, None)
    assert len(model.hook_dict[RESID].fwd_hooks) == 1
    inner.__exit__(None, None, None)
    assert not model.hook_dict[RESID].fwd_hooks
