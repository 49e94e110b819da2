import inspect

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation
from memhooks.model.hooks import hooked, recorded
from memhooks.truth.massive import hold_units, massive_activations, outstanding_units

NAMES = {"resid_post": "blocks.{}.hook_resid_post", "post": "blocks.{}.mlp.hook_post"}


def test_largest_and_median_are_those_of_recorded_activations(model, paragraphs):
    found = massive_activations(model, paragraphs, batch_size=4)
    for site, name in NAMES.items():
        names = [name.format(layer) for layer in range(4)]
        with recorded(model, names) as store:
            model(paragraphs.tokens)
        for layer, one in enumerate(names):
            size, cell = store[one].abs(), found.sel(layer=layer, site=site)
            assert float(cell["largest"]) == pytest.approx(float(size.max()), rel=1e-5)
            assert float(cell["median"]) == pytest.approx(float(size.flatten().median()), rel=1e-5)
            place = int(cell["in_row"]), int(cell["at_pos"]), int(cell["unit"])
            assert float(size[place]) == pytest.approx(float(size.max()), rel=1e-5)
            assert int(cell["token"]) == int(paragraphs.tokens[place[:2]])
            assert cell["peak_pos"].values.tolist() == size.amax(2).argmax(1).tolist()


def test_a_planted_massive_unit_is_named_and_no_other(model, paragraphs):
    clean = massive_activations(model, paragraphs)
    with torch.no_grad():
        model.blocks[1].mlp.b_out[5] += 1e4 * float(clean["median"].sel(layer=1, site="resid_post"))
    found = massive_activations(model, paragraphs)
    assert (clean["n_massive"] == 0).all()
    massive = found["n_massive"].sel(site="resid_post").values
    assert massive.tolist() == [0, 1, 1, 1]
    assert found["unit"].sel(site="resid_post").values[1:].tolist() == [5, 5, 5]
    assert (found["n_massive"].sel(site="post") == 0).all()
    assert [unit for _, unit in outstanding_units(model, paragraphs, site="resid_post", n=1)] == [5]


def test_units_of_the_residual_stream_are_named_once(model, paragraphs):
    units = outstanding_units(model, paragraphs, site="resid_post", n=32)
    assert sorted(unit for _, unit in units) == list(range(32))


@pytest.mark.parametrize("site", ["resid_post", "post"])
def test_holding_units_is_what_hooks_by_hand_do(model, paragraphs, site):
    units, name = [(1, 3), (2, 7)], NAMES[site]
    reference = paragraphs.with_continuation(paragraphs.continuation.flip(1))
    found = hold_units(model, {"memorized": paragraphs}, units, site=site, reference=reference, seed=0, n_random=2)
    where = {1: [3], 2: [7]} if site == "post" else {layer: [3, 7] for layer in range(4)}
    with recorded(model, [name.format(layer) for layer in where]) as store:
        model(reference.tokens)
    mean = {layer: store[name.format(layer)].mean((0, 1)) for layer in where}

    def hold(activation, hook):
        for unit in where[hook.layer()]:
            activation[:, :, unit] = mean[hook.layer()][unit]
        return activation

    clean = recitation(model, paragraphs)
    with hooked(model, [(name.format(layer), hold) for layer in where]):
        after = recitation(model, paragraphs)
    rise = float((after["nll"] - clean["nll"]).mean())
    assert float(found["nll_rise"][0]) == pytest.approx(rise, abs=1e-5)
    drop = float((clean["exact_match"] - after["exact_match"]).mean())
    assert float(found["em_drop"][0]) == pytest.approx(drop)
    more = float(found["nll_rise"][0] - found["nll_rise_random"][0])
    assert float(found["more_than_random"][0]) == pytest.approx(more)
    assert np.isnan(float(found["more_than_first"][0]))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_unusable_input_is_refused(model, paragraphs):
    with pytest.raises(InputError, match="site must be one of resid_post, post, got 'z'"):
        inspect.unwrap(outstanding_units)(model, paragraphs, site="z", n=1)
    with pytest.raises(InputError, match=r"n must lie in 1..32 \(units of resid_post\), got 33"):
        outstanding_units(model, paragraphs, site="resid_post", n=33)
    sets = {"memorized": paragraphs}
    with pytest.raises(InputError, match="site must be one of"):
        inspect.unwrap(hold_units)(model, sets, [(0, 1)], site="z", reference=paragraphs, seed=0)
    with pytest.raises(InputError, match=r"units are \(layer, unit\) pairs in 0..3 and 0..31, got \[\(4, 0\)\]"):
        hold_units(model, sets, [(4, 0)], site="resid_post", reference=paragraphs, seed=0)
    with pytest.raises(InputError, match="n_random must be at least 1, got 0"):
        hold_units(model, sets, [(0, 0)], site="resid_post", reference=paragraphs, seed=0, n_random=0)
    many = [(0, unit) for unit in range(20)]
    with pytest.raises(InputError, match="20 of 32 units leave too few for a random control"):
        hold_units(model, sets, many, site="resid_post", reference=paragraphs, seed=0)
