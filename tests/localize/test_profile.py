import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients, weight_scores
from memhooks.localize.pooling import POOLED, component_scores
from memhooks.localize.profile import about, centre_of_mass, layer_shares, layer_sums, named


def made_up(values, **attrs):
    axes = ("paragraph", "layer", "component")[-values.ndim :]
    labels = {"layer": range(values.shape[-2]), "component": [f"c{i}" for i in range(values.shape[-1])]}
    if values.ndim == 3:
        labels["paragraph"] = [f"P{i}" for i in range(len(values))]
    return xr.Dataset({"max_gradient": (axes, values, {"units": "nats"})}, labels, attrs)


@pytest.fixture
def scores():
    return made_up(np.random.default_rng(0).random((7, 4, 5)))


def test_shares_and_centre_equal_a_plain_loop(scores):
    shares, values = layer_shares(scores), scores["max_gradient"].values
    centre = centre_of_mass(shares)
    for row in range(7):
        total = sum(values[row, layer, cell] for layer in range(4) for cell in range(5))
        expected = [sum(values[row, layer]) / total for layer in range(4)]
        np.testing.assert_allclose(shares.values[row], expected, rtol=1e-9)
        assert float(centre[row]) == pytest.approx(sum(layer * expected[layer] for layer in range(4)), rel=1e-9)
    assert shares.dims == ("paragraph", "layer")
    assert shares["paragraph"].values.tolist() == [f"P{i}" for i in range(7)]
    assert "adds up to 1" in shares.attrs["units"]
    assert centre.attrs["units"].startswith("layers")


def test_the_order_of_axes_and_the_size_of_the_gradient_do_not_matter(scores):
    expected = layer_shares(scores)
    xr.testing.assert_allclose(layer_shares(scores.transpose("component", "layer", "paragraph")), expected)
    size = xr.DataArray(np.geomspace(1e-6, 1e6, 7), dims="paragraph")
    xr.testing.assert_allclose(layer_shares(scores * size), expected)


@pytest.mark.parametrize("layer", [0, 3])
def test_the_centre_is_the_layer_that_holds_all(layer):
    values = np.zeros((2, 4, 3))
    values[:, layer] = 0.2
    assert centre_of_mass(layer_shares(made_up(values))).values.tolist() == [layer, layer]


def test_layers_count_by_their_labels():
    values = np.ones((1, 2, 3))
    scores = made_up(values).assign_coords(layer=[3, 9])
    assert float(centre_of_mass(layer_shares(scores))[0]) == 6


@pytest.mark.parametrize("pooling", POOLED)
def test_shares_of_a_real_models_scores(model, paragraphs, pooling):
    scores = weight_scores(model, paragraphs)
    shares = layer_shares(scores, pooling=pooling)
    np.testing.assert_allclose(shares.sum("layer"), 1, rtol=1e-9)
    by_hand = scores[pooling].values.astype(float).sum(2)
    np.testing.assert_allclose(shares, by_hand / by_hand.sum(1, keepdims=True), rtol=1e-9)


def test_a_layer_that_writes_less_has_a_smaller_share(model, paragraphs):
    """A planted truth: with its output weights at zero, a layer keeps the gradients of these weights alone."""
    before = layer_shares(weight_scores(model, paragraphs), pooling="l1_gradient")
    with torch.no_grad():
        model.blocks[2].attn.W_O.zero_()
        model.blocks[2].mlp.W_out.zero_()
    after = layer_shares(weight_scores(model, paragraphs), pooling="l1_gradient")
    assert (after.sel(layer=2) < before.sel(layer=2)).all()


def test_sums_of_a_batch_are_those_of_its_map(model, paragraphs):
    scores = component_scores(model, weight_gradients(model, paragraphs))
    for pooling in ("max_gradient", "l2_gradient"):
        sums, values = layer_sums(scores, pooling=pooling), scores[pooling].values.astype(float)
        n = values.size
        for layer in range(4):
            expected = sum(values[layer, cell] for cell in range(values.shape[1]))
            assert float(sums["layer_sum"].sel(layer=layer)) == pytest.approx(expected, rel=1e-9)
        total = sum(values.flat)
        assert float(sums["grad_sum"]) == pytest.approx(total, rel=1e-9)
        spread = sum((one - total / n) ** 2 for one in values.flat) / (n - 1)
        assert float(sums["grad_var"]) == pytest.approx(spread, rel=1e-9)
        assert sums.attrs["pooling"] == pooling
        assert sums.attrs["model_hash"] == scores.attrs["model_hash"]


def test_a_map_of_one_cell_has_no_variance():
    assert np.isnan(float(layer_sums(made_up(np.ones((1, 1))))["grad_var"]))


def test_attributes_survive_a_round_trip_of_numbers_but_not_of_versions():
    scores = made_up(np.ones((1, 1, 1)), n=np.int64(3), version_torch="1", objective="nll")
    assert about(scores) == {"n": 3, "objective": "nll"}
    assert type(about(scores)["n"]) is int


def test_unknown_and_missing_pooling_are_refused(scores):
    with pytest.raises(InputError, match=r"pooling must be one of max_gradient, .*, got 'median'"):
        layer_shares(scores, pooling="median")
    with pytest.raises(InputError, match="lack 'l1_gradient', they hold max_gradient; compute them with weight_scores"):
        layer_shares(scores, pooling="l1_gradient")
    with pytest.raises(InputError, match="they hold nothing"):
        layer_sums(xr.Dataset())


def test_scores_over_other_axes_are_refused(scores):
    batch = scores.mean("paragraph")
    with pytest.raises(
        InputError, match=r"paragraph, layer, component are needed, as weight_scores .* got layer, comp"
    ):
        layer_shares(batch)
    with pytest.raises(InputError, match="layer, component are needed, as component_scores gives them; got paragraph"):
        layer_sums(scores)
    with pytest.raises(InputError, match="got no axes"):
        layer_sums(scores.mean())


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1])
def test_unusable_gradients_are_named(scores, value):
    scores["max_gradient"][5, 2, 1] = value
    with pytest.raises(InputError, match="must be 0 or more, but is NaN, infinite or negative in paragraph P5"):
        layer_shares(scores)
    with pytest.raises(InputError, match="NaN, infinite or negative in layer 2"):
        layer_sums(scores.isel(paragraph=5, drop=True))


def test_paragraphs_without_any_gradient_are_named(scores):
    scores["max_gradient"][[1, 4]] = 0
    with pytest.raises(InputError, match="max_gradient is 0 everywhere for paragraph P1, P4: without a gradient"):
        layer_shares(scores)


@pytest.mark.parametrize("value", [0.3, np.nan])
def test_shares_that_do_not_add_up_are_refused(scores, value):
    shares = layer_shares(scores)
    shares[2, 1] = value
    for one in (shares, scores["max_gradient"].sum("component")):
        with pytest.raises(InputError, match="shares must add up to 1 over the layers of every paragraph"):
            centre_of_mass(one)


def test_long_lists_are_cut_short():
    assert named(list(range(7))) == "0, 1, 2, 3, 4 and 2 more"
    assert named(np.array(["A1", "A2"])) == "A1, A2"
