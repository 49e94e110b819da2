import copy
import inspect

import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.top import top_weights
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.measure.recitation import in_loop, recitation, with_own_continuation
from memhooks.model.provenance import model_hash
from memhooks.unlearn.attacks.damage import every_weight
from memhooks.unlearn.breaking import steps_to_break
from memhooks.unlearn.breaking_summary import breaking_summary
from memhooks.unlearn.objectives.pairing import pairs_of
from memhooks.unlearn.own_controls import own_controls
from memhooks.unlearn.recipe import Recipe
from memhooks.unlearn.unlearning import unlearning_steps


@pytest.fixture
def recited(model, paragraphs):
    return with_own_continuation(model, paragraphs.select([0, 1]))


@pytest.mark.parametrize("weights", [0.05, "all"])
def test_steps_and_movement_equal_a_plain_run_that_is_read_afterwards(model, recited, weights):
    before = model_hash(model)
    result = steps_to_break(model, {"memorized": recited}, weights=weights, lr=2e-3, n_steps=12)
    assert model_hash(model) == before
    assert result["steps_half"].notnull().any()
    for row in range(2):
        one, found = recited.select([row]), result.isel(paragraph=row)
        other = copy.deepcopy(model)
        mask = every_weight(model) if weights == "all" else top_weights(weight_gradients(model, one), fraction=weights)
        start = {name: weight.detach().clone() for name, weight in other.named_parameters()}
        first = recitation(other, one)
        expected = {}
        recipe = Recipe(retain="none", lr=2e-3, n_steps=12)
        for record in unlearning_steps(other, one, paragraphs_of_none(one), mask, recipe=recipe, allow_shared=True):
            if record.step == 12:
                break  # the update follows the record
            now = recitation(other, one)
            change = torch.cat([(w.detach() - start[n]).flatten().double() for n, w in other.named_parameters()])
            met = {
                "half": float(now["exact_match"][0]) <= float(first["exact_match"][0]) / 2,
                "nat": float(now["nll"].mean()) >= float(first["nll"].mean()) + 1,
            }
            for name in met:
                if met[name] and name not in expected:
                    expected[name] = (record.step, float(change.norm()), float(change.abs().sum()))
        for name in ("half", "nat"):
            values = [float(found[f"{measure}_{name}"]) for measure in ("steps", "norm", "path")]
            if name in expected:
                assert values == pytest.approx(expected[name], rel=1e-4)
            else:
                assert np.isnan(values[0]) or values[0] == 12
        assert float(found["em_before"]) == 12


def paragraphs_of_none(one):
    """Something to hand over as retained text, which nothing reads."""
    return one


def test_an_edit_ends_when_the_new_continuation_is_recited(model, recited):
    result = steps_to_break(model, {"memorized": recited}, way="edit", weights="all", lr=1e-2, n_steps=30)
    assert result["steps_recited"].notnull().all()
    assert (result["steps_recited"] > 0).all()
    perturbed = pairs_of(model, recited, None, seed=0).perturbed
    # Learnt afresh by hand, the new continuation is recited at that very step.
    new = recited.with_continuation(perturbed.continuation).select([0])
    other = copy.deepcopy(model)
    optimizer = torch.optim.Adam([other.get_parameter(name) for name in every_weight(model).indices], lr=1e-2)
    step = 0
    while float(recitation(other, new)["exact_match"][0]) < 12:
        gradients = weight_gradients(other, new)
        for name in every_weight(model).indices:
            other.get_parameter(name).grad = gradients[name]
        optimizer.step()
        step += 1
        assert step <= 30
    assert step == int(result["steps_recited"][0])


def test_the_published_edit_is_offered_and_watched_in_the_same_way(model, recited):
    result = steps_to_break(model, {"memorized": recited.select([0])}, way="paper_edit", weights=0.1, n_steps=2)
    assert {"steps_half", "steps_nat", "steps_recited"} <= set(result)
    assert result.attrs["way"] == "paper_edit"


def test_controls_are_recited_in_full_and_run_into_no_loop(model, paragraphs, recited):
    candidates = paragraphs.select([2, 3, 4, 5])
    own = with_own_continuation(model, candidates)
    pairs = own_controls(model, recited.select([0]), candidates)
    assert float(recitation(model, pairs.other)["exact_match"][0]) == 12
    assert not in_loop(pairs.other.continuation[0])
    nll = recitation(model, own)["nll"].mean("pos").values
    straight = [i for i in range(4) if not in_loop(own.continuation[i])]
    target = float(recitation(model, recited.select([0]))["nll"].mean())
    nearest = min(straight, key=lambda i: abs(nll[i] - target))
    assert pairs.other.ids == (candidates.ids[nearest],)


def made_up():
    values = {
        "steps_half": [4.0, 6.0, np.nan, 1.0, 2.0],
        "norm_half": [0.4, 0.6, np.nan, 0.1, 0.2],
        "path_half": [40.0, 60.0, np.nan, 10.0, 20.0],
        "nll_before": [0.1, 0.1, 0.1, 0.3, 0.5],
    }
    made = {name: ("paragraph", np.array(one)) for name, one in values.items()}
    made["set"] = ("paragraph", np.array(["memorized"] * 3 + ["control"] * 2))
    made["cluster"] = ("paragraph", np.array([0, 1, 2, 0, 1]))
    made["steps_nat"] = made["steps_half"]
    made["norm_nat"], made["path_nat"] = made["norm_half"], made["path_half"]
    return xr.Dataset(made, attrs={"n_steps": 10})


def test_the_summary_counts_unbroken_paragraphs_with_all_steps():
    table = breaking_summary(made_up(), seed=1)
    assert table["row"].values.tolist() == ["memorized, half", "control, half", "memorized, nat", "control, nat"]
    first, control = table.sel(row="memorized, half"), table.sel(row="control, half")
    steps, theirs = np.array([4.0, 6.0, 10.0]), np.array([1.0, 2.0])
    ends = [float(first[f"steps{end}"]) for end in ("", "_low", "_high")]
    np.testing.assert_allclose(ends, bootstrap_mean(steps, seed=1))
    assert float(first["norm"]) == pytest.approx(0.5)  # of the two that broke
    assert (int(first["unbroken"]), int(control["unbroken"])) == (1, 0)
    ends = [float(control[f"difference_steps{end}"]) for end in ("", "_low", "_high")]
    np.testing.assert_allclose(ends, bootstrap_difference(steps, theirs, seed=1))
    assert np.isnan(first["difference_steps"])


def test_unusable_input_is_refused(model, recited):
    with pytest.raises(InputError, match="a paragraph is changed by ascent, edit, paper_edit, got 'prayer'"):
        inspect.unwrap(steps_to_break)(model, {"memorized": recited}, way="prayer")
    with pytest.raises(InputError, match="no sets; pass a mapping"):
        steps_to_break(model, {})
    with pytest.raises(InputError, match="n_steps must be at least 1, got 0"):
        steps_to_break(model, {"memorized": recited}, n_steps=0)
    with pytest.raises(InputError, match=r"weights must be 'all' or a share in \(0, 1\], got 1.5"):
        steps_to_break(model, {"memorized": recited}, weights=1.5)
    with pytest.raises(InputError, match="a summary needs what steps_to_break returned"):
        breaking_summary(xr.Dataset())
