import copy
import inspect
from dataclasses import asdict, replace

import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask, frozen_outside
from memhooks.localize.objectives import continuation_logits, forget_nll, kl_divergence
from memhooks.measure.recitation import recitation
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.tensor_files import load_tensors, save_tensors
from memhooks.unlearn import steps as steps_module
from memhooks.unlearn import unlearning
from memhooks.unlearn.recipe import Budget, Recipe
from memhooks.unlearn.unlearning import restored, unlearning_delta, unlearning_steps


@pytest.fixture
def sets(paragraphs):
    return paragraphs.select([0]), paragraphs.select([1, 2, 3])


@pytest.fixture
def mask(model, sets):
    return top_weights(weight_gradients(model, sets[0]), fraction=0.02)


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_masked_steps_equal_dense_adam_with_masked_gradients(model, sets, mask):
    forget, retain = sets
    dense = copy.deepcopy(model)
    frozen = continuation_logits(dense, retain).log_softmax(-1).detach()
    parameters = {name: dict(dense.named_parameters())[name] for name in mask.indices}
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    for _ in range(6):
        optimizer.zero_grad()
        drift = kl_divergence(continuation_logits(dense, retain), frozen).mean()
        (forget_nll(continuation_logits(dense, forget), forget).mean() + 0.5 * drift).backward()
        for name, parameter in parameters.items():
            keep = torch.zeros(parameter.numel())
            keep[mask.indices[name].long()] = 1.0
            parameter.grad.mul_(keep.reshape(parameter.shape))
        optimizer.step()
    list(unlearning_steps(model, forget, retain, mask, recipe=Recipe(n_steps=6, lr=1e-2, retain_weight=0.5)))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, dict(dense.named_parameters())[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 1.0])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_weight_outside_the_mask_stays_bit_identical(model, sets, fraction, optimizer):
    forget, retain = sets
    mask = top_weights(weight_gradients(model, forget), fraction=fraction)
    before = model_hash(model)
    recipe = Recipe(n_steps=4, lr=1e-3, optimizer=optimizer, weight_decay=0.5)
    with frozen_outside(model, mask):
        records = list(unlearning_steps(model, forget, retain, mask, recipe=recipe))
    assert model_hash(model) != before
    assert [record.step for record in records] == [0, 1, 2, 3, 4]
    assert records[-1].forget_nll > records[0].forget_nll
    assert records[0].retain_kl == pytest.approx(0, abs=1e-6)


def test_records_are_what_recitation_measures_of_the_model_at_that_moment(model, sets, mask):
    forget, retain = sets
    frozen = continuation_logits(model, retain).log_softmax(-1).detach()
    recipe = Recipe(n_steps=3, lr=1e-2, retain_weight=1.0)
    with torch.no_grad():
        for record in unlearning_steps(model, forget, retain, mask, recipe=recipe):
            measured = recitation(model, forget)  # the update follows the record
            assert record.forget_nll == pytest.approx(float(measured["nll"].mean()), rel=1e-5)
            assert record.forget_em == float(measured["exact_match"].mean())
            assert record.longest_run == float(measured["longest_run"].mean())
            drift = kl_divergence(continuation_logits(model, retain), frozen).mean()
            assert record.retain_kl == pytest.approx(float(drift), rel=1e-3, abs=1e-6)
            assert record.loss == pytest.approx(record.retain_kl - record.forget_nll, rel=1e-4)


def test_large_sets_take_several_passes_and_come_to_the_same(model, paragraphs, mask, monkeypatch):
    forget, retain = paragraphs.select([0, 1, 2]), paragraphs.select([4, 5])
    recipe, start = Recipe(n_steps=3, lr=1e-2), weights(model)
    together = list(unlearning_steps(model, forget, retain, mask, recipe=recipe))
    whole = weights(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(start[name])
    monkeypatch.setattr(steps_module, "CHUNK", 1)
    apart = list(unlearning_steps(model, forget, retain, mask, recipe=recipe))
    for one, other in zip(together, apart, strict=True):
        assert asdict(one) == pytest.approx(asdict(other), rel=1e-4, abs=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, whole[name], rtol=1e-4, atol=1e-4)


def test_retained_paragraphs_take_turns(model, paragraphs, mask, monkeypatch):
    seen = []
    original = steps_module._Pass.__init__

    def watched(self, term, retained, weight, n_forget):
        seen.append(tuple(map(tuple, retained.held.rows.tokens.tolist())))
        original(self, term, retained, weight, n_forget)

    monkeypatch.setattr(steps_module._Pass, "__init__", watched)
    recipe = Recipe(n_steps=3, n_retain=2, lr=1e-3)
    list(unlearning_steps(model, paragraphs.select([0]), paragraphs.select([1, 2, 3, 4]), mask, recipe=recipe))
    assert [len(one) for one in seen] == [2, 2, 2, 2]
    assert seen[0] == seen[2]
    assert set(seen[0]) | set(seen[1]) == set(map(tuple, paragraphs.tokens[1:5].tolist()))


def test_nothing_runs_before_iteration_and_a_stopped_loop_leaves_flags_as_they_were(model, sets):
    forget, retain = sets
    mask = matched_random_weights(top_weights(weight_gradients(model, forget), fraction=0.01), seed=0)
    flags, before = {n: p.requires_grad for n, p in model.named_parameters()}, model_hash(model)
    steps = unlearning_steps(model, forget, retain, mask, recipe=Recipe(n_steps=100))
    assert model_hash(model) == before
    next(steps)
    steps.close()
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_restored_brings_every_bit_back_after_an_error(model, sets, error):
    forget, retain = sets
    mask = top_weights(weight_gradients(model, forget), fraction=1.0)
    before = model_hash(model)
    with pytest.raises(error), restored(model):
        list(unlearning_steps(model, forget, retain, mask, recipe=Recipe(n_steps=2, lr=1e-2)))
        assert model_hash(model) != before
        raise error
    assert model_hash(model) == before


@pytest.mark.parametrize("n_steps", [1, 5])
def test_an_exploding_loss_stops_and_leaves_the_last_finite_weights(model, sets, n_steps):
    forget, retain = sets
    mask = top_weights(weight_gradients(model, forget), fraction=1.0)
    before = model_hash(model)
    with pytest.raises(RuntimeError, match=r"not finite at step 1; the weights before it are back"):
        list(unlearning_steps(model, forget, retain, mask, recipe=Recipe(n_steps=n_steps, lr=1e30)))
    assert model_hash(model) == before


def test_a_budget_stops_once_its_goals_are_met(model, sets, mask):
    forget, retain = sets
    start = float(recitation(model, forget)["nll"].mean())
    budget = Budget(forget_em=24.0, longest_run=24.0, forget_nll=start + 1.0)
    records = list(unlearning_steps(model, forget, retain, mask, recipe=Recipe(n_steps=200, lr=3e-3), budget=budget))
    assert 0 < records[-1].step < 200
    assert records[-1].forget_nll >= start + 1.0 > records[-2].forget_nll
    assert records[-1].best
    assert float(recitation(model, forget)["nll"].mean()) == pytest.approx(records[-1].forget_nll, rel=1e-5)


def test_a_budget_stops_where_too_much_is_lost_and_puts_the_best_step_back(model, sets, mask):
    forget, retain = sets
    budget = Budget(forget_nll=1e9, retain_kl=0.05)
    recipe = Recipe(n_steps=100, lr=3e-3, n_retain=3, retain_weight=1.0)
    records = list(unlearning_steps(model, forget, retain, mask, recipe=recipe, budget=budget))
    assert records[-1].retain_kl > 0.05
    best = [record for record in records if record.best][-1]
    assert best.retain_kl <= 0.05
    assert best.forget_nll == max(record.forget_nll for record in records if not record.retain_kl > 0.05)
    assert float(recitation(model, forget)["nll"].mean()) == pytest.approx(best.forget_nll, rel=1e-5)


@pytest.mark.parametrize("budget", [None, Budget(forget_nll=1e9)])
@pytest.mark.parametrize("stopped_after", [1, 6, 11, 13])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_killed_run_resumes_and_equals_an_uninterrupted_one(
    model, sets, mask, tmp_path, budget, stopped_after, optimizer
):
    forget, retain = sets
    recipe = Recipe(n_steps=12, lr=1e-3, n_retain=2, optimizer=optimizer, weight_decay=0.1)
    path = tmp_path / "run.safetensors"
    fresh = copy.deepcopy(model)
    whole = list(unlearning_steps(model, forget, retain, mask, recipe=recipe, budget=budget))
    killed = copy.deepcopy(fresh)
    run = unlearning_steps(killed, forget, retain, mask, recipe=recipe, budget=budget, checkpoint=path)
    for _ in range(stopped_after):
        next(run)
    run.close()
    with frozen_outside(fresh, mask):
        rest = list(unlearning_steps(fresh, forget, retain, mask, recipe=recipe, budget=budget, checkpoint=path))
    assert rest == whole[rest[0].step :]
    assert rest[0].step > stopped_after - unlearning.CHECKPOINT_EVERY - 2
    for name, weight in model.named_parameters():
        assert torch.equal(weight, dict(fresh.named_parameters())[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 2e-3}, r"another configuration \(recipe.lr was 0.004, is 0.002\)"),
        ({"objective": "npo"}, "another configuration .*recipe.objective was 'GradientAscent"),
        ({"budget": Budget()}, "another configuration .*budget was None"),
        ({"mask": "random"}, r"another configuration \(mask\)"),
        ({"retain": [2, 3]}, r"another configuration \(retain was "),
    ],
)
def test_resuming_with_another_configuration_is_refused(model, paragraphs, sets, mask, tmp_path, change, message):
    forget, retain = sets
    path = tmp_path / "run.safetensors"
    run = unlearning_steps(model, forget, retain, mask, recipe=Recipe(), checkpoint=path)
    next(run)
    run.close()
    budget = change.pop("budget", None) if "budget" in change else None
    other = matched_random_weights(mask, seed=1) if "mask" in change else mask
    rows = paragraphs.select(change["retain"]) if "retain" in change else retain
    recipe = replace(Recipe(), **{k: v for k, v in change.items() if k in ("lr", "objective")})
    with pytest.raises(InputError, match=message):
        next(unlearning_steps(model, forget, rows, other, recipe=recipe, budget=budget, checkpoint=path))


def test_a_damaged_checkpoint_is_refused(model, sets, mask, tmp_path):
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a checkpoint file, or damaged"):
        next(unlearning_steps(model, *sets, mask, checkpoint=path))


@pytest.mark.parametrize("killed_after", [4, 13])
def test_unlearn_resumes_also_where_the_best_step_lies_before_the_checkpoint(model, sets, mask, tmp_path, killed_after):
    path, recipe = tmp_path / "run.safetensors", Recipe(n_steps=14, lr=1e-2, retain_weight=0.0)
    budget = Budget(forget_em=0.0, longest_run=0.0, forget_nll=6.5)  # reached early; only KL could end the run
    whole = unlearning_delta(model, *sets, mask, recipe=recipe, budget=budget)
    run = unlearning_steps(copy.deepcopy(model), *sets, mask, recipe=recipe, budget=budget, checkpoint=path)
    for _, _ in zip(range(killed_after), run, strict=False):
        pass
    run.close()
    resumed = unlearning_delta(model, *sets, mask, recipe=recipe, budget=budget, checkpoint=path)
    assert resumed.delta.after == whole.delta.after
    assert resumed.delta.about == whole.delta.about
    assert (
        unlearning_delta(model, *sets, mask, recipe=recipe, budget=budget, checkpoint=path).delta.about
        == whole.delta.about
    )


def test_torchs_modes_are_the_callers_between_records(model, sets, mask):
    runs = [unlearning_steps(copy.deepcopy(model), *sets, mask, recipe=Recipe(n_steps=2)) for _ in range(2)]
    for run in runs:
        next(run)
        assert torch.is_grad_enabled()
    for run in runs:
        run.close()
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        records = list(unlearning_steps(model, *sets, mask, recipe=Recipe(n_steps=2)))
        assert torch.is_inference_mode_enabled()
    assert len(records) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_hold_their_mask_and_resume(model, sets, mask, tmp_path, dtype):
    model.to(dtype, print_details=False)
    fresh, path = copy.deepcopy(model), tmp_path / "run.safetensors"
    recipe = Recipe(n_steps=7, lr=1e-2, n_retain=2)
    with frozen_outside(model, mask):
        list(unlearning_steps(model, *sets, mask, recipe=recipe))
    run = unlearning_steps(copy.deepcopy(fresh), *sets, mask, recipe=recipe, checkpoint=path)
    for _ in range(7):
        next(run)
    run.close()
    list(unlearning_steps(fresh, *sets, mask, recipe=recipe, checkpoint=path))
    assert model_hash(fresh) == model_hash(model)


def test_masks_of_other_parameters_are_refused(model, sets):
    for name in ("embed.W_E", "blocks.0.mlp.b_in", "ln_final.w"):
        size = dict(model.named_parameters())[name].numel()
        with pytest.raises(InputError, match=f"only attention and MLP matrices .* chooses {name}"):
            next(unlearning_steps(model, *sets, WeightMask({name: torch.tensor([1], dtype=torch.int32)}, {name: size})))


@pytest.mark.parametrize(
    "damage",
    [
        lambda about, tensors: tensors.update(values=tensors["values"][:-1]),
        lambda about, tensors: tensors.update(values=torch.full_like(tensors["values"], torch.nan)),
        lambda about, tensors: tensors.pop("state.exp_avg"),
        lambda about, tensors: tensors.update({"state.exp_avg": tensors["state.exp_avg"][:-1]}),
        lambda about, tensors: about.update(step=99),
        lambda about, tensors: about.update(step=-3),
        lambda about, tensors: about.pop("least"),
    ],
)
def test_checkpoints_of_no_run_are_refused(model, sets, mask, tmp_path, damage):
    path = tmp_path / "run.safetensors"
    list(unlearning_steps(copy.deepcopy(model), *sets, mask, recipe=Recipe(n_steps=6), checkpoint=path))
    about, tensors = load_tensors(path, "checkpoint")
    damage(about, tensors)
    save_tensors(path, "checkpoint", about, tensors)
    before = model_hash(model)
    with pytest.raises(InputError, match="checkpoint"):
        next(unlearning_steps(model, *sets, mask, recipe=Recipe(n_steps=6), checkpoint=path))
    assert model_hash(model) == before


def test_a_checkpoint_of_another_ending_is_refused_before_any_work(model, sets, mask, tmp_path):
    with pytest.raises(InputError, match=r"saved as \.safetensors, got x.pt"):
        next(unlearning_steps(model, *sets, mask, checkpoint=tmp_path / "x.pt"))


def test_pairs_do_not_depend_on_how_many_paragraphs_share_a_pass(model, paragraphs, mask, monkeypatch):
    forget, retain = paragraphs.select([0, 1, 2]), paragraphs.select([4, 5])
    losses = []
    for chunk in (16, 1):
        monkeypatch.setattr(steps_module, "CHUNK", chunk)
        losses.append(next(unlearning_steps(model, forget, retain, mask, recipe=Recipe(objective="dpo"))).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_unlearn_gives_the_change_and_leaves_the_model_alone(model, sets, mask):
    before = model_hash(model)
    found = unlearning_delta(model, *sets, mask, recipe=Recipe(n_steps=3, lr=1e-2))
    assert model_hash(model) == before == found.delta.before
    with found.delta.applied(model):
        assert float(recitation(model, sets[0])["nll"].mean()) == pytest.approx(found.records[-1].forget_nll, rel=1e-5)
    assert found.delta.about["record"]["step"] == 3
    assert found.delta.about["recipe"]["lr"] == 1e-2


EMPTY = WeightMask({"a": torch.zeros(0, dtype=torch.int32)}, {"a": 5})
FOREIGN = WeightMask({"a": torch.tensor([1], dtype=torch.int32)}, {"a": 5})


@pytest.mark.parametrize(("one", "message"), [(EMPTY, "the mask is empty"), (FOREIGN, "another model: a has 5")])
def test_unusable_masks_are_refused_before_any_work(model, sets, one, message):
    with pytest.raises(InputError, match=message):
        next(unlearning_steps(model, *sets, one))


def test_a_mask_of_other_weights_is_refused(model, sets, mask):
    bound = mask.bound(model)
    with torch.no_grad():
        model.blocks[0].mlp.W_in[0, 0] += 1
    with pytest.raises(InputError, match="it was made for the weights"):
        next(unlearning_steps(model, *sets, bound))
    next(unlearning_steps(model, *sets, bound.unbound()))


def test_sets_that_share_near_duplicates_are_refused_unless_asked_for(model, paragraphs, mask):
    forget, retain = paragraphs.select([0, 1]), paragraphs.select([1, 2])
    with pytest.raises(InputError, match="1"):
        next(unlearning_steps(model, forget, retain, mask))
    next(unlearning_steps(model, forget, retain, mask, allow_shared=True))


def test_sets_of_another_shape_are_refused(model, sets, mask):
    forget, retain = sets
    shorter = Paragraphs(retain.tokens[:, :-1], retain.n_prefix)
    with pytest.raises(InputError, match=r"same prefix and length, .* got \(12, 24\) and \(12, 23\)"):
        next(unlearning_steps(model, forget, shorter, mask))


def test_a_model_with_hooks_is_refused(model, sets, mask):
    model.add_hook("blocks.1.hook_resid_pre", lambda activation, hook: None)
    with pytest.raises(InputError, match="does not run through hooks"):
        next(unlearning_steps(model, *sets, mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": 0}, "n_steps and n_retain must be at least 1"),
        ({"lr": 0.0}, "lr positive"),
        ({"objective": "nonsense"}, "no objective 'nonsense'; there are gradient_ascent"),
        ({"retain": "l2"}, "no retain term 'l2'; there are nll, kl and none"),
        ({"retain_weight": -1.0}, r"retain_weight must lie in \[0, inf\), got -1"),
        ({"weight_decay": -1.0}, "weight_decay must lie in"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
    ],
)
def test_unusable_recipes_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        inspect.unwrap(Recipe)(**change)


def test_an_unknown_optimizer_is_refused():
    recipe = object.__new__(Recipe)  # around the shape checks of the tests, which would be the first to refuse it
    for name, value in (asdict(Recipe()) | {"optimizer": "lion"}).items():
        object.__setattr__(recipe, name, value)
    with pytest.raises(InputError, match="no optimizer 'lion'; there are adam, adamw, sgd"):
        inspect.unwrap(Recipe.__post_init__)(recipe)


def test_unusable_budgets_are_refused():
    with pytest.raises(InputError, match="forget_em must be at least 0, got -1"):
        Budget(forget_em=-1.0)
    with pytest.raises(InputError, match="retain_kl must be at least 0, got nan"):
        Budget(retain_kl=float("nan"))
