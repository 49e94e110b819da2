import inspect

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.model.hooks import recorded
from memhooks.truth.activations_by_layer import by_layer, means_and_spreads
from memhooks.truth.massive import massive_activations, outstanding_units

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
    assert found["n_distinct"].values.tolist() == [1, 0]  # one unit of the residual stream, not one for each layer
    assert [unit for _, unit in outstanding_units(model, paragraphs, site="resid_post", n=1)] == [5]


def test_units_of_the_residual_stream_are_named_once(model, paragraphs):
    units = outstanding_units(model, paragraphs, site="resid_post", n=32)
    assert sorted(unit for _, unit in units) == list(range(32))


@pytest.mark.parametrize("site", ["resid_post", "post"])
def test_layer_by_layer_is_one_pass_and_keeps_one_layer(model, paragraphs, site, monkeypatch):
    passes = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *given, **how: passes.append(how) or forward(*given, **how))
    found = list(by_layer(model, paragraphs, site, batch_size=4))
    assert [one.get("start_at_layer", 0) for one in passes] == [0, 0, 1, 1, 2, 2, 3, 3]  # no block is run twice
    assert [one["stop_at_layer"] for one in passes] == [1, 1, 2, 2, 3, 3, 4, 4]
    with recorded(model, [NAMES[site].format(layer) for layer in range(4)]) as store:
        model(paragraphs.tokens)
    means, spreads = means_and_spreads(model, paragraphs, site, batch_size=4)
    for layer in range(4):
        expected = store[NAMES[site].format(layer)]
        np.testing.assert_allclose(found[layer], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(means[layer], expected.mean((0, 1)), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(spreads[layer], expected.flatten(0, 1).numpy().std(0), rtol=1e-5, atol=1e-5)


def test_unusable_input_is_refused(model, paragraphs):
    with pytest.raises(InputError, match="site must be one of resid_post, post, got 'z'"):
        inspect.unwrap(outstanding_units)(model, paragraphs, site="z", n=1)
    with pytest.raises(InputError, match=r"n must lie in 1..32 \(units of resid_post\), got 33"):
        outstanding_units(model, paragraphs, site="resid_post", n=33)
