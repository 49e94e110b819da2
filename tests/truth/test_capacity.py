import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.membership import membership_p
from memhooks.model.loading import load_model
from memhooks.paragraphs.splits import clusters
from memhooks.truth.capacity import capacity_table, levels, memorized_bits, n_parameters
from tests.conftest import tiny_neo


@pytest.fixture(scope="module")
def other():
    return load_model(tiny_neo(seed=1))


def bits_by_hand(neo, rows, first):
    """The sum of -log2 p of the tokens from `first` on, one row and token at a time."""
    found = []
    for row in rows:
        with torch.no_grad():
            p = neo(row[None]).logits[0].double().softmax(-1)
        found.append(sum(-np.log2(float(p[pos - 1, row[pos]])) for pos in range(first, len(row))))
    return np.array(found)


@pytest.mark.parametrize(("tokens", "first"), [("all", 1), ("continuation", 12)])
def test_bits_are_the_difference_of_hugging_faces_code_lengths(neo, model, other, paragraphs, tokens, first):
    found = memorized_bits(model, other, paragraphs, tokens=tokens, batch_size=4)
    own, theirs = (bits_by_hand(one, paragraphs.tokens, first) for one in (neo, tiny_neo(seed=1)))
    np.testing.assert_allclose(found["model_bits"], own, rtol=1e-5)
    np.testing.assert_allclose(found["twin_bits"], theirs, rtol=1e-5)
    np.testing.assert_allclose(found["bits"], theirs - own, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found["share"], 1 - own / theirs, rtol=1e-4, atol=1e-5)
    assert found.attrs["n_scored"] == 24 - first


def test_a_model_holds_exactly_nothing_beyond_itself(model, paragraphs):
    found = memorized_bits(model, model, paragraphs)
    assert (found["bits"] == 0).all()
    assert (found["share"] == 0).all()


def test_parameters_are_counted_as_hugging_face_counts_them(neo, model):
    every, matrices = n_parameters(model)
    assert every == sum(one.numel() for one in neo.parameters())
    assert matrices == 4 * (4 * 32 * 32 + 2 * 32 * 96)


def test_the_table_has_the_naive_means_totals_and_growth(model, other, paragraphs):
    counted = replace(paragraphs, counts=(1, 1, 1, 8, 8, 8))
    sets = {"memorized": counted, "control": paragraphs.with_continuation(paragraphs.continuation.flip(1))}
    results = {name: memorized_bits(model, other, rows) for name, rows in sets.items()}
    table = capacity_table(results, sets=sets, seed=0)
    assert table["row"].values.tolist() == ["memorized", "control", "memorized k=1", "memorized k=8"]
    bits, ceiling = results["memorized"]["bits"].values, results["memorized"]["twin_bits"].values
    one, eight = table.sel(row="memorized k=1"), table.sel(row="memorized k=8")
    assert float(one["bits"]) == pytest.approx(bits[:3].mean())
    assert float(eight["total"]) == pytest.approx(bits[3:].sum())
    assert float(eight["share"]) == pytest.approx(bits[3:].sum() / ceiling[3:].sum())
    assert float(eight["growth"]) == pytest.approx((bits[3:].mean() - bits[:3].mean()) / 3)  # 8 is three doublings of 1
    assert np.isnan(float(one["growth"]))
    assert float(one["bits_per_token"]) == pytest.approx(bits[:3].mean() / 23)
    assert float(one["clipped"]) == pytest.approx(np.maximum(bits[:3], 0).mean())
    whole, control = table.sel(row="memorized"), table.sel(row="control")
    parameters = sum(weight.numel() for weight in tiny_neo().parameters())
    assert float(whole["per_parameter"]) == pytest.approx(bits.sum() / parameters)
    theirs = results["control"]["bits"].values
    assert float(whole["above_control"]) == pytest.approx(bits.mean() - theirs.mean())
    assert np.isnan(float(control["above_control"]))
    part = [results[name]["bits"].values[:, None] for name in ("memorized", "control")]
    label = tuple(clusters(sets[name]).numpy() for name in ("memorized", "control"))
    alone = membership_p(part[0][3:], part[1], clusters=(label[0][3:], label[1]), seed=0)[0]
    assert float(eight["p_control"]) == pytest.approx(min(2 * alone, 1))  # two levels are two questions
    assert float(whole["p_control"]) == pytest.approx(membership_p(*part, clusters=label, seed=0)[0])
    _, low, high = bootstrap_mean(bits, seed=0)
    assert (float(whole["bits_low"]), float(whole["bits_high"])) == pytest.approx((float(low), float(high)))


def test_sets_without_counts_have_no_levels_and_need_no_control(model, other, paragraphs):
    found = memorized_bits(model, other, paragraphs)
    assert levels(found) == []
    table = capacity_table({"memorized": found}, sets={"memorized": paragraphs}, seed=0, control=None)
    assert table["row"].values.tolist() == ["memorized"]
    assert np.isnan(float(table["p_control"][0]))


def test_unusable_input_is_refused(model, other, paragraphs):
    with pytest.raises(InputError, match="tokens must be 'all' or 'continuation', got 'prefix'"):
        inspect.unwrap(memorized_bits)(model, other, paragraphs, tokens="prefix")
    wide = load_model(tiny_neo(vocab=103))
    with pytest.raises(InputError, match="the twin has 103 tokens, the model 101"):
        memorized_bits(model, wide, paragraphs)
    found = memorized_bits(model, other, paragraphs)
    with pytest.raises(InputError, match="no result for 'control'; results are of memorized"):
        capacity_table({"memorized": found}, sets={"memorized": paragraphs}, seed=0)
    with pytest.raises(InputError, match="sets must hold the 6 paragraphs of 'memorized', in their order"):
        capacity_table({"memorized": found}, sets={"memorized": paragraphs.select([0])}, seed=0, control=None)
