import copy

import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask, frozen_outside
from memhooks.localize.objectives import continuation_logits, forget_nll, kl_divergence
from memhooks.model.provenance import model_hash
from memhooks.unlearn.evaluation import evaluate, summary
from memhooks.unlearn.unlearning import restored, unlearning_steps


@pytest.fixture
def sets(paragraphs):
    return paragraphs.select([0]), paragraphs.select([1, 2, 3])


def test_masked_steps_equal_dense_adam_with_masked_gradients(model, sets):
    forget, retain = sets
    mask = top_weights(weight_gradients(model, forget), fraction=0.02)
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
    list(unlearning_steps(model, forget, retain, mask, n_steps=6, lr=1e-2, retain_weight=0.5))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, dict(dense.named_parameters())[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 1.0])
def test_every_weight_outside_the_mask_stays_bit_identical(model, sets, fraction):
    forget, retain = sets
    mask = top_weights(weight_gradients(model, forget), fraction=fraction)
    before = model_hash(model)
    with frozen_outside(model, mask):
        records = list(unlearning_steps(model, forget, retain, mask, n_steps=4, lr=1e-3))
    assert model_hash(model) != before
    assert [record.step for record in records] == [0, 1, 2, 3]
    assert records[-1].forget_nll > records[0].forget_nll
    assert records[0].retain_kl == pytest.approx(0, abs=1e-6)


def test_nothing_runs_before_iteration_and_a_stopped_loop_leaves_flags_as_they_were(model, sets):
    forget, retain = sets
    mask = matched_random_weights(top_weights(weight_gradients(model, forget), fraction=0.01), seed=0)
    flags, before = {n: p.requires_grad for n, p in model.named_parameters()}, model_hash(model)
    steps = unlearning_steps(model, forget, retain, mask, n_steps=100, lr=1e-3)
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
        list(unlearning_steps(model, forget, retain, mask, n_steps=2, lr=1e-2))
        assert model_hash(model) != before
        raise error
    assert model_hash(model) == before


@pytest.mark.parametrize("n_steps", [1, 5])
def test_an_exploding_loss_stops_and_leaves_the_last_finite_weights(model, sets, n_steps):
    forget, retain = sets
    mask = top_weights(weight_gradients(model, forget), fraction=1.0)
    before = model_hash(model)
    with pytest.raises(RuntimeError, match=r"not finite at step 1; the weights before it are back"):
        list(unlearning_steps(model, forget, retain, mask, n_steps=n_steps, lr=1e30))
    assert model_hash(model) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": 0}, "n_steps must be at least 1"),
        ({"lr": 0.0}, "lr positive"),
        ({"mask": WeightMask({"a": torch.zeros(0, dtype=torch.int32)}, {"a": 5})}, "the mask is empty"),
        (
            {"mask": WeightMask({"a": torch.tensor([1], dtype=torch.int32)}, {"a": 5})},
            "belongs to another model: a has 5",
        ),
    ],
)
def test_unusable_settings_are_refused_before_any_work(model, sets, change, message):
    forget, retain = sets
    settings = {"mask": top_weights(weight_gradients(model, forget), fraction=0.01), "n_steps": 1, "lr": 1e-3} | change
    with pytest.raises(InputError, match=message):
        list(unlearning_steps(model, forget, retain, **settings))


def test_the_summary_averages_over_paragraphs(model, paragraphs):
    results = evaluate(model, {"all": paragraphs})
    found = summary(results)["all"]
    assert found["exact_match"] == pytest.approx(float(results["all"]["exact_match"].values.mean()))
    assert found["nll"] == pytest.approx(float(results["all"]["nll"].values.mean()))
