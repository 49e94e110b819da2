import pytest
import torch

from memhooks.errors import InputError
from memhooks.model.hooks import ablated, hooked, patched, recorded

TOKENS = torch.arange(20).reshape(2, 10)


def n_hooks(model):
    return sum(len(point.fwd_hooks) for point in model.hook_dict.values())


def test_recorded_activations_equal_transformer_lens_cache(model):
    name = "blocks.2.attn.hook_pattern"
    _, cache = model.run_with_cache(TOKENS)
    with recorded(model, [name]) as store:
        model(TOKENS)
    assert torch.equal(store[name], cache[name])


def test_recorded_activations_survive_a_later_hook_in_place(model):
    name = "blocks.0.hook_resid_post"
    with recorded(model, [name]) as store, hooked(model, [(name, lambda x, hook: x.zero_())]):
        model(TOKENS)
    assert store[name].abs().max() > 0


def test_patching_every_clean_residual_restores_the_clean_logits(model):
    name = "blocks.1.hook_resid_pre"
    other = TOKENS.clone()
    other[:, 4] = 50
    with recorded(model, [name]) as store:
        clean = model(TOKENS)
    at = torch.tensor([4, 4])
    with patched(model, name, store[name], at=at):
        once = model(other)
    # Position 4 is restored there, but its keys and values of layer 0 were already read by later ones.
    assert torch.equal(once[:, :4], clean[:, :4])
    torch.testing.assert_close(once[:, 4], clean[:, 4], rtol=1e-5, atol=1e-5)
    assert (once[:, 5:] - clean[:, 5:]).abs().max() > 1e-3


def test_patching_uses_each_rows_own_position(model):
    name = "blocks.0.hook_resid_post"
    with recorded(model, [name]) as before:
        model(TOKENS)
    clean = torch.full_like(before[name], 7.0)
    with patched(model, name, clean, at=torch.tensor([1, 8])), recorded(model, [name]) as after:
        model(TOKENS)
    changed = (after[name] == 7.0).all(-1)
    assert changed.nonzero().tolist() == [[0, 1], [1, 8]]


def test_an_ablated_head_writes_nothing_and_others_are_untouched(model):
    with recorded(model, ["blocks.1.attn.hook_z"]) as before:
        model(TOKENS)
    with ablated(model, heads=[(1, 2), (1, 0), (3, 1)]), recorded(model, ["blocks.1.attn.hook_z"]) as after:
        model(TOKENS)
    z = after["blocks.1.attn.hook_z"]
    assert z[:, :, [0, 2]].abs().max() == 0
    assert torch.equal(z[:, :, [1, 3]], before["blocks.1.attn.hook_z"][:, :, [1, 3]])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_no_hook_and_keeps_the_users(model, error):
    model.hook_embed.add_hook(lambda x, hook: None)
    clean = model(TOKENS)
    with pytest.raises(error), ablated(model, heads=[(0, 0)]), recorded(model, ["hook_embed"]):
        raise error
    assert n_hooks(model) == 1
    assert torch.equal(model(TOKENS), clean)


@pytest.mark.parametrize(
    ("enter", "message"),
    [
        (lambda m: recorded(m, ["blocks.0.attn.hook_patern"]), r"did you mean 'blocks.0.attn.hook_pattern'"),
        (lambda m: recorded(m, []), "no hooks given"),
        (lambda m: ablated(m, heads=[]), "no heads given"),
        (lambda m: recorded(m, ["blocks.0.attn.hook_result"]), "never fires while cfg.use_attn_result is off"),
        (lambda m: patched(m, "hook_embed", torch.zeros(2, 9, 32), at=torch.tensor([1])), "one position per row"),
        (lambda m: ablated(m, heads=[(4, 0)]), r"layers 0..3 and heads 0..3, got \(4, 0\)"),
        (
            lambda m: patched(m, "hook_embed", torch.zeros(2, 10, 32), at=torch.tensor([0, 10])),
            r"positions must lie in 0..9, got 0..10",
        ),
    ],
)
def test_what_cannot_be_hooked_is_refused(model, enter, message):
    with pytest.raises(InputError, match=message), enter(model):
        pass


def test_a_patch_of_another_shape_is_refused(model):
    with (
        pytest.raises(InputError, match=r"has shape \(2, 10, 32\), the patch \(2, 9, 32\)"),
        patched(model, "hook_embed", torch.zeros(2, 9, 32), at=torch.tensor([0, 1])),
    ):
        model(TOKENS)
    assert n_hooks(model) == 0
