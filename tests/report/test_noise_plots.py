import numpy as np
import pytest

from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.top import top_weights
from memhooks.localize.noise import noise_counts, noise_doses
from memhooks.localize.weight_search import random_weights_like, search_weights
from memhooks.measure.intervals import bootstrap_mean
from memhooks.report.noise_plots import plot_noise_counts, plot_noise_doses, plot_weight_search


@pytest.fixture
def sets(paragraphs):
    return {"memorized": paragraphs, "control": paragraphs.select([0, 1, 2])}


@pytest.fixture
def gradients(model, paragraphs):
    return weight_gradients(model, paragraphs)


def test_bars_are_sorted_and_coloured_by_layer_beside_random_ones(model, gradients):
    rows = search_weights(model, gradients, k=30)
    drawing = plot_weight_search(rows, random_weights_like(model, rows, gradients, seed=0))
    bars = {axis: sorted(bar(drawing, axis)) for axis in ("x", "x2")}
    assert [place for place, *_ in bars["x"]] == list(range(1, 31))
    np.testing.assert_allclose([height for _, height, *_ in bars["x"]], np.abs(rows["score"]))
    assert [name for *_, name in bars["x"]] == rows["row"].values.tolist()
    assert [layer for _, _, layer, _ in bars["x"]] == [f"L{layer}" for layer in rows["layer"].values]
    assert bars["x2"][0][1] < bars["x"][0][1]
    colours = {(one.name, one.marker.color) for one in drawing.data}
    assert len(colours) == len({name for name, _ in colours})
    assert len([one for one in drawing.data if one.showlegend]) == len(colours)
    assert drawing.layout.yaxis2.matches == "y"


def bar(drawing, axis):
    for trace in drawing.data:
        if trace.xaxis == axis:
            yield from zip(trace.x, trace.y, [trace.name] * len(trace.x), trace.customdata, strict=True)


def test_few_bars_carry_their_names(model, gradients):
    rows = search_weights(model, gradients, k=10, head=1)
    drawing = plot_weight_search(rows)
    assert list(drawing.layout.xaxis.ticktext) == rows["row"].values.tolist()
    assert plot_weight_search(search_weights(model, gradients, k=60)).layout.xaxis.ticktext is None


def test_curves_are_means_with_intervals_a_column_per_mask(model, sets, gradients):
    result = noise_doses(model, sets, top_weights(gradients, fraction=0.01), factors=(0.0, 1.0), seed=0, n_draws=2)
    drawing = plot_noise_doses(result)
    titles = [one.text for one in drawing.layout.annotations]
    assert titles == ["noise in the chosen weights", "as many random weights"]
    lines = [one for one in drawing.data if one.name]
    assert [one.name for one in lines if one.showlegend] == ["memorized (A)", "never seen (C)"]
    assert len(lines) == 2 * 2 * 2
    panels = {("exact_match", "chosen"): "x", ("exact_match", "random"): "x2", ("nll_rise", "chosen"): "x3"}
    for (measure, mask), axis in panels.items():
        own = result.isel(row=(result["mask"] == mask).values)
        for name, rows in (("memorized (A)", slice(0, 6)), ("never seen (C)", slice(6, 9))):
            values = own[measure].mean("draw").isel(paragraph=rows).transpose("paragraph", "row").values
            mean, low, high = bootstrap_mean(values, seed=0)
            place = next(i for i, one in enumerate(drawing.data) if one.name == name and one.xaxis == axis)
            upper, lower, line, draws = drawing.data[place - 2 : place + 2]
            np.testing.assert_allclose(line.y, mean)
            np.testing.assert_allclose(lower.y, low)
            np.testing.assert_allclose(upper.y, high)
            assert list(line.x) == ["0", "1"]
            assert list(draws.x) == ["0", "0", "1", "1"]
            each = own[measure].isel(paragraph=rows).mean("paragraph").transpose("row", "draw").values
            np.testing.assert_allclose(draws.y, each.ravel())
    assert drawing.layout.yaxis3.title.text == "NLL rise, nats per token"
    assert drawing.layout.xaxis3.title.text.startswith("std of noise")


def test_counts_have_a_column_for_the_bottom_too(model, sets, gradients):
    drawing = plot_noise_counts(noise_counts(model, sets, gradients, numbers=(0, 20), factor=2.0, seed=0, n_draws=1))
    assert [one.text for one in drawing.layout.annotations] == [
        "noise in the top weights",
        "as many random weights",
        "as many of the smallest score",
    ]
    assert {tuple(one.x) for one in drawing.data if one.name} == {("0", "20")}
    assert "2 std" in drawing.layout.title.text
    assert drawing.layout.xaxis4.title.text == "weights that get noise"
