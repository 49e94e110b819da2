"""Faults everywhere: an error or Ctrl-C at any line or hook point leaves the model as it was."""

import linecache
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformer_lens.hook_points import HookPoint

import memhooks
from memhooks.localize.activation_gradients import activation_gradients, directions
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.cumulative import ablate_cumulatively
from memhooks.localize.direct_effects import direct_effects
from memhooks.localize.each_part import ablate_each
from memhooks.localize.hook_sweep import hook_sweep
from memhooks.localize.noise import noise_doses
from memhooks.localize.patch_grid import Cell
from memhooks.localize.patch_pairs import patch_pairs
from memhooks.localize.patching import patch_cells
from memhooks.localize.screening import screen, screen_then_verify
from memhooks.measure.pairs import Pairs
from memhooks.measure.perturbation import perturb_exact_match
from memhooks.measure.replacements import first2sec
from memhooks.measure.token_scores import token_scores
from memhooks.model.ablated import ablated
from memhooks.model.audit import audit
from memhooks.model.components import trainable
from memhooks.model.decoding import greedy_continuation
from memhooks.model.hook_table import hook_table
from memhooks.model.hooks import hooked, recorded
from memhooks.model.means import activation_means
from memhooks.model.patched import patched
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.recipe import Recipe
from memhooks.unlearn.unlearning import restored, unlearning_steps

TOKENS = torch.arange(20).reshape(2, 10)
OTHERS = torch.arange(40, 60).reshape(2, 10)
ROWS = Paragraphs(TOKENS, 5)
RETAINED = Paragraphs(OTHERS, 5)
PAIRS = Pairs(ROWS, Paragraphs(OTHERS, 5), torch.tensor([1, 2]), torch.tensor([5, 6]))
SOURCE = str(Path(memhooks.__file__).parent)
NAME = "blocks.1.hook_resid_pre"


def snapshot(model):
    """Everything that a sweep could leave behind."""
    return {
        "hooks": {n: [id(handle) for handle in p.fwd_hooks + p.bwd_hooks] for n, p in model.hook_dict.items()},
        "torch hooks": {n: (len(p._forward_hooks), len(p._backward_hooks)) for n, p in model.hook_dict.items()},
        "context level": model.context_level,
        "flags": {key: str(value) for key, value in vars(model.cfg).items()},
        "requires grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "grad": {n: None if p.grad is None else (id(p.grad), p.grad.sum().item()) for n, p in model.named_parameters()},
        "train mode": {n: m.training for n, m in model.named_modules()},
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "threads": torch.get_num_threads(),
        "weights": memhooks.model.provenance.model_hash(model),
    }


def record(model):
    with recorded(model, [NAME, ("z", 2)]):
        model(TOKENS)


def record_gradients(model):
    with recorded(model, NAME, gradients=True) as store:
        store.gradients(model(TOKENS, return_type="loss"))


def hook_backward(model):
    with trainable(model) as parameters, hooked(model, backward=[(NAME, lambda gradient, hook: None)]):
        torch.autograd.grad(model(TOKENS, return_type="loss"), list(parameters.values()))


def patch(model):
    with recorded(model, NAME) as store:
        model(TOKENS)
    with patched(model, NAME, store[NAME], at=3), hooked(model, [(NAME, lambda x, hook: x.mul_(2))]):
        model(OTHERS)


def silence(model):
    with ablated(model, heads=[(0, 1), (2, 2)], edges=[(1, 0, 5, 3)], neurons=[(3, 4)], mlp_layers=[1]):
        model(TOKENS)


def silence_by_means(model):
    with ablated(model, how="mean", means=activation_means(model, OTHERS), heads=[(0, 1)]):
        model(TOKENS)


def resample(model):
    with ablated(model, how="resample", source=OTHERS, attention_layers=[1]):
        model(TOKENS)


def add_noise(model):
    with ablated(model, how="noise", heads=[(0, 1)]):
        model(TOKENS)


def unlearn_and_restore(model):
    mask = memhooks.top_weights(weight_gradients(model, ROWS), fraction=0.01)
    with restored(model):
        for _ in unlearning_steps(model, ROWS, RETAINED, mask, recipe=Recipe(n_steps=2)):
            pass


def unlearn_and_return_the_change(model):
    mask = memhooks.top_weights(weight_gradients(model, ROWS), fraction=0.01)
    delta, _ = memhooks.unlearning_delta(model, ROWS, RETAINED, mask, recipe=Recipe(n_steps=2))
    with delta.applied(model):
        model(TOKENS)


def noise_on_weights(model):
    mask = memhooks.top_weights(weight_gradients(model, ROWS), fraction=0.01)
    noise_doses(model, {"memorized": ROWS}, mask, factors=(0.0, 1.0), n_draws=1, seed=0)


HELPERS = [
    record,
    record_gradients,
    hook_backward,
    patch,
    silence,
    silence_by_means,
    resample,
    add_noise,
    noise_on_weights,
    hook_table,
    audit,
    lambda model: memhooks.recitation(model, ROWS),
    lambda model: memhooks.perturb(model, ROWS, seed=0),
    lambda model: memhooks.perturb(model, ROWS, seed=0, replace=first2sec),
    lambda model: hook_sweep(model, ROWS, {"a": [(("z", 1), lambda x, hook: 2 * x)]}, lambda x: x[:, 0, 0]),
    lambda model: ablate_cumulatively(model, {"a": ROWS}, [(0, 1), (2, 2)], n_random=1),
    lambda model: greedy_continuation(model, TOKENS, n_tokens=3),
    lambda model: weight_gradients(model, ROWS, batch_size=1),
    lambda model: token_scores(model, ROWS),
    lambda model: memhooks.rare_token_attention(model, ROWS, torch.ones(101, dtype=torch.long), seed=0, n_shuffles=2),
]

SWEEPS = [  # which refuse a model with forward hooks
    unlearn_and_restore,
    unlearn_and_return_the_change,
    lambda model: memhooks.patch(model, ROWS, OTHERS, at=torch.tensor([1, 2])),
    lambda model: memhooks.silence_heads(model, ROWS),
    lambda model: ablate_each(model, ROWS, neurons=[(1, 3)], edges=[(2, 0, 5, 2)]),
    lambda model: screen(model, ROWS, OTHERS, sites=["z", "q"]),
    lambda model: screen_then_verify(model, ROWS, OTHERS, k=2),
    lambda model: patch_cells(model, ROWS, "zero", [Cell("pattern", 1, 4, 0, 2)], direction="noising"),
    lambda model: patch_pairs(model, PAIRS, sites=["v"]),
    lambda model: memhooks.logit_lens(model, ROWS),
    lambda model: direct_effects(model, ROWS),
    lambda model: perturb_exact_match(model, ROWS, seed=0),
    lambda model: memhooks.weight_scores(model, ROWS),
    lambda model: activation_gradients(model, ROWS),
    lambda model: directions(model, ROWS, backward=False),
    lambda model: memhooks.LOCALIZERS[-1](model, ROWS, ROWS, seed=0),
    lambda model: memhooks.LOCALIZERS[-2](model, ROWS, ROWS, seed=0),
    lambda model: memhooks.inspect_paragraph(model, ROWS),
]


@pytest.fixture
def used_model(model):
    """A model in somebody else's hands: with own hooks, frozen weights and gradients."""
    model.hook_dict[NAME].add_hook(lambda x, hook: None)
    model.hook_dict["hook_embed"].add_hook(lambda x, hook: None, is_permanent=True)
    model.hook_dict["blocks.2.attn.hook_z"].add_hook(lambda x, hook: None, dir="bwd")
    model.W_E.requires_grad_(False)
    model.blocks[0].mlp.W_in.grad = torch.ones_like(model.blocks[0].mlp.W_in)
    return model


@contextmanager
def interrupted(at):
    """Ctrl-C at the `at`-th line of memhooks that runs, but while a hook, switched off by then, is being removed."""
    passed = [0]

    def local(frame, event, arg):
        # A `with` line comes again when its block ends, where Python itself takes no signals.
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() if event == "line" else ""
        if event == "line" and not text.startswith("with "):
            passed[0] += 1
            if passed[0] == at:
                raise KeyboardInterrupt(f"{frame.f_code.co_name}:{frame.f_lineno} {text}")
        return local

    def trace(frame, event, arg):
        code = frame.f_code
        mine = code.co_filename.startswith(SOURCE)
        return local if mine and code.co_name not in ("remove_", "__call__", "local") else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield passed
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("helper", [*HELPERS, *SWEEPS])
def test_ctrl_c_at_any_line_leaves_the_model_as_it_was(used_model, helper):
    if helper in SWEEPS:
        used_model.reset_hooks(including_permanent=True)
    helper(used_model)  # imports what it needs
    before = snapshot(used_model)
    with interrupted(at=0) as passed:
        helper(used_model)
    assert snapshot(used_model) == before
    n_lines = passed[0]
    for at in sorted({1 + round(step * (n_lines - 1) / 11) for step in range(12)}):
        with pytest.raises(KeyboardInterrupt) as where, interrupted(at=at):
            helper(used_model)
        assert snapshot(used_model) == before, f"after Ctrl-C at {where.value}"


@pytest.mark.parametrize("helper", HELPERS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_inside_any_hook_point_leaves_the_model_as_it_was(used_model, helper, error, monkeypatch):
    before, forward, passed = snapshot(used_model), HookPoint.forward, [0]

    def failing(at):
        def run(self, x):
            passed[0] += 1
            if passed[0] == at:
                raise error("injected")
            return forward(self, x)

        return run

    monkeypatch.setattr(HookPoint, "forward", failing(0))
    helper(used_model)
    n_calls = passed[0]
    for at in (1, 2, n_calls // 3, n_calls // 2, n_calls):
        passed[0] = 0
        monkeypatch.setattr(HookPoint, "forward", failing(at))
        try:
            found = helper(used_model)
        except error:
            found = None
        assert found is None or helper is audit  # which takes an edit that fails as a finding
        assert snapshot(used_model) == before, f"after an error at hook point {at} of {n_calls}"
