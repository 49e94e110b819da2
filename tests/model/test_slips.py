"""What TransformerLens 3.9 itself does with the slips of docs/hooks.md; memhooks' answers are in test_hooks.py."""

import pytest
import torch

TOKENS = torch.arange(20).reshape(2, 10)
RESID = "blocks.2.hook_resid_pre"


@pytest.fixture
def ran():
    return []


@pytest.fixture
def note(ran):
    def note(activation, hook):
        ran.append(hook.name)

    return note


def test_1_a_misspelt_names_filter_gives_an_empty_cache(model, note):
    assert len(model.run_with_cache(TOKENS, names_filter="blocks.0.attn.hook_patern")[1]) == 0
    with pytest.raises(KeyError):
        model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.attn.hook_patern", note)])


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("blocks.0.attn.hook_result", {}),  # 2: its flag is off
        (lambda name: "nothing like it" in name, {}),  # 3
        (RESID, {"stop_at_layer": 1}),  # 4
    ],
)
def test_2_3_4_hooks_that_never_run_are_silent(model, note, ran, place, arguments):
    model.run_with_hooks(TOKENS, fwd_hooks=[(place, note)], **arguments)
    assert not ran


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("blocks.2.hook_attn_out", lambda x, hook: x[:1]),  # 5: one row for all
        ("blocks.2.hook_attn_out", lambda x, hook: x[:, :1]),  # 5: one position for all
        ("blocks.2.attn.hook_pattern", lambda x, hook: x.half()),  # 6: rounded, then cast back
    ],
)
def test_5_6_tensors_that_do_not_fit_are_made_to_fit_silently(model, name, function):
    logits = model.run_with_hooks(TOKENS, fwd_hooks=[(name, function)])
    spread = model.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda x, hook: function(x, hook).float().expand_as(x))])
    torch.testing.assert_close(logits, spread, rtol=1e-5, atol=1e-5)
    assert (logits - model(TOKENS)).abs().max() > 1e-4


def test_5_in_the_residual_stream_a_row_less_shrinks_the_run(model):
    assert model.run_with_hooks(TOKENS, fwd_hooks=[(RESID, lambda x, hook: x[:1])]).shape[0] == 1


def test_7_a_position_of_a_pattern_is_taken_for_a_head(model):
    def third(pattern, hook):
        pattern = pattern.clone()
        pattern[:, 3] = 0
        return pattern

    change = (model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.2.attn.hook_pattern", third)]) - model(TOKENS)).abs()
    assert change[:, 0].max() > 1e-3  # long before position 3


def test_8_a_shorter_clean_tensor_shortens_the_run(model):
    clean = model.run_with_cache(TOKENS[:, :5])[1][RESID]
    assert model.run_with_hooks(TOKENS, fwd_hooks=[(RESID, lambda x, hook: clean)]).shape[1] == 5


def test_9_train_mode_is_silent(model, note, ran):
    model.train().run_with_hooks(TOKENS, fwd_hooks=[(RESID, note)])
    assert ran


def test_10_backward_hooks_without_gradients_never_run(model, note, ran):
    with torch.no_grad():
        model.run_with_hooks(TOKENS, bwd_hooks=[("hook_embed", note)], reset_hooks_end=True)
    assert not ran
