import copy

import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.localize.localizers import gradient
from memhooks.localize.masks.overlap import mask_overlap
from memhooks.localize.masks.top import top_weights
from memhooks.localize.objectives import continuation_logits, kl_divergence
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.provenance import model_hash
from memhooks.unlearn import sequence
from memhooks.unlearn.recipe import Recipe
from memhooks.unlearn.sequence import unlearn_in_sequence
from memhooks.unlearn.unlearning import unlearning_steps

RECIPE = Recipe(n_steps=4, lr=3e-3, retain_weight=1.0)


@pytest.fixture
def sets(model, paragraphs):
    own = with_own_continuation(model, paragraphs)
    return [own.select([0]), own.select([1, 2])], own.select([3, 4]), own.select([5])


def test_each_request_starts_from_what_the_ones_before_left(model, sets):
    requests, retain, others = sets
    before = model_hash(model)
    result, deltas = unlearn_in_sequence(model, requests, retain, others=others, fraction=0.05, recipe=RECIPE)
    assert model_hash(model) == before
    # The same by hand on a copy, measured by other functions.
    other = copy.deepcopy(model)
    frozen = continuation_logits(model, retain).log_softmax(-1).detach()
    masks = []
    for number in range(3):
        row = result.isel(row=number)
        measured = [recitation(other, one) for one in requests]
        em = np.concatenate([one["exact_match"].values for one in measured])
        nll = np.concatenate([one["nll"].mean("pos").values for one in measured])
        np.testing.assert_array_equal(row["exact_match"], em)
        np.testing.assert_allclose(row["nll"], nll, rtol=1e-4, atol=1e-5)
        assert float(row["others_exact_match"]) == float(recitation(other, others)["exact_match"].mean())
        drift = kl_divergence(continuation_logits(other, retain), frozen).mean()
        assert float(row["retain_kl"]) == pytest.approx(drift.item(), rel=1e-3, abs=1e-6)
        squares = sum(
            float((one.detach() - model.get_parameter(name).detach()).double().square().sum())
            for name, one in other.named_parameters()
        )
        assert float(row["norm_total"]) == pytest.approx(squares**0.5, rel=1e-5, abs=1e-9)
        if number < 2:
            mask = top_weights(gradient(other, requests[number], retain), fraction=0.05)
            list(unlearning_steps(other, requests[number], retain, mask, recipe=RECIPE))
            masks.append(mask)
    assert deltas[-1].after == model_hash(other)
    found = mask_overlap(masks[1], masks[0])
    last = result.isel(row=2)
    assert int(last["shared"]) == found.shared
    assert float(last["shared_expected"]) == pytest.approx(found.expected)
    assert np.isnan(result["shared"].values[:2]).all()
    assert result["request"].values.tolist() == [1, 2, 2]
    assert [int(one) for one in result["moved"].values[1:]] == [one.moved for one in deltas]


def test_the_deltas_can_be_applied_and_reverted_in_turn(model, sets):
    requests, retain, others = sets
    before = model_hash(model)
    _, deltas = unlearn_in_sequence(model, requests, retain, others=others, fraction=0.05, recipe=RECIPE)
    for delta in deltas:
        delta.apply_(model)
    assert model_hash(model) == deltas[-1].after
    for delta in reversed(deltas):
        delta.revert_(model)
    assert model_hash(model) == before


def test_the_model_is_put_back_after_an_error(model, sets, monkeypatch):
    requests, retain, others = sets
    before, calls = model_hash(model), []
    original = sequence.unlearning_delta

    def fails(*arguments, **settings):
        calls.append(arguments)
        if len(calls) == 2:
            raise RuntimeError("in the second request")
        return original(*arguments, **settings)

    monkeypatch.setattr(sequence, "unlearning_delta", fails)
    with pytest.raises(RuntimeError, match="in the second request"):
        unlearn_in_sequence(model, requests, retain, others=others, recipe=RECIPE)
    assert model_hash(model) == before


def test_unusable_requests_are_refused(model, sets):
    requests, retain, others = sets
    with pytest.raises(InputError, match="no requests; pass a list"):
        unlearn_in_sequence(model, [], retain, others=others)
    with pytest.raises(InputError, match="request 1 and request 2 share near-duplicates"):
        unlearn_in_sequence(model, [requests[0], requests[0]], retain, others=others)
    with pytest.raises(InputError, match="request 2 and others share near-duplicates"):
        unlearn_in_sequence(model, requests, retain, others=requests[1])
