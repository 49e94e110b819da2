import numpy as np
import pytest
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_scores
from memhooks.localize.profile import centre_of_mass, layer_shares
from memhooks.localize.profile_contrasts import profile_contrasts
from memhooks.measure.intervals import bootstrap_mean
from memhooks.report.gradient_profile_plots import (
    plot_centre_against_loss,
    plot_layer_shares,
    plot_profile_contrasts,
)
from memhooks.report.theme import COLOURS, PALETTE


def scores(seed, low, high, n=40):
    rng = np.random.default_rng(seed)
    values = {
        "max_gradient": (("paragraph", "layer", "component"), rng.random((n, 4, 3)) + np.arange(4)[:, None] * low)
    }
    labels = {"paragraph": [f"<P{i}>" for i in range(n)], "layer": range(4), "component": list("abc")}
    return xr.Dataset(values | {"loss": ("paragraph", rng.uniform(low, high, n))}, labels)


@pytest.fixture
def results():
    return {
        "memorized": scores(0, 0.0, 0.3),
        "control": scores(1, 3.0, 5.0),
        "planted_<8>_times": scores(2, 0.01, 1.0),
        "licence": scores(3, 0.0, 0.5),
    }


@pytest.fixture
def contrasts(results):
    return profile_contrasts(results, seed=0, n_dealt=200)


def test_lines_are_mean_shares_with_their_intervals(results):
    drawing = plot_layer_shares(results)
    assert [one.name for one in drawing.data if one.name] == [
        "memorized (A)",
        "never seen (C)",
        "planted &lt;8&gt; times",
        "licence",
    ]
    for number, result in enumerate(results.values()):
        high, low, mean = drawing.data[3 * number : 3 * number + 3]
        expected = bootstrap_mean(layer_shares(result).values, seed=0)
        for trace, values in zip((mean, low, high), expected, strict=True):
            np.testing.assert_allclose(trace.y, values)
    assert drawing.layout.xaxis.ticktext == ("L0", "L1", "L2", "L3")
    assert drawing.layout.yaxis.title.text == "share of largest |gradient|"
    assert drawing.layout.shapes[0].y0 == 0.25  # where all layers have the same share


def test_known_conditions_keep_their_colour_and_others_have_their_own(results):
    for drawing, width in ((plot_layer_shares(results), 3), (plot_centre_against_loss(results), 1)):
        some = drawing.data[: 4 * width][width - 1 :: width]
        colours = [one.line.color or one.marker.color for one in some]
        assert colours == [COLOURS["memorized"], COLOURS["control"], *PALETTE[:2]]
    band = plot_layer_shares(results).data[7]
    assert band.fillcolor == "rgba(136,34,85,0.2)"
    assert not set(PALETTE) & set(COLOURS.values())


def test_near_duplicates_count_once_in_the_bands(model, paragraphs):
    twice = paragraphs.select([0, 0, 0, 1, 2, 3])
    results = {"memorized": weight_scores(model, twice), "control": weight_scores(model, paragraphs)}
    plain, known = plot_layer_shares(results), plot_layer_shares(results, sets={"memorized": twice})
    assert not np.allclose(plain.data[0].y, known.data[0].y)
    np.testing.assert_array_equal(plain.data[2].y, known.data[2].y)
    np.testing.assert_array_equal(plain.data[3].y, known.data[3].y)  # a set whose paragraphs are not given


def test_another_pooling_is_drawn_and_named(model, paragraphs):
    results = {"memorized": weight_scores(model, paragraphs)}
    drawing = plot_layer_shares(results, pooling="l2_gradient")
    expected = layer_shares(results["memorized"], pooling="l2_gradient").mean("paragraph")
    np.testing.assert_allclose(drawing.data[2].y, expected)
    assert drawing.layout.yaxis.title.text == "share of l2 gradient"
    dots = plot_centre_against_loss(results, pooling="l2_gradient")
    np.testing.assert_allclose(
        dots.data[0].y, centre_of_mass(layer_shares(results["memorized"], pooling="l2_gradient"))
    )
    assert dots.layout.yaxis.title.text == "centre of mass of l2 gradient, layers"


def test_dots_stand_at_loss_and_centre_and_means_above_them(results):
    results["memorized"]["loss"][:2] = [0, 0.001]
    drawing = plot_centre_against_loss(results)
    assert len(drawing.data) == 8
    for number, result in enumerate(results.values()):
        dots, mean = drawing.data[number], drawing.data[4 + number]
        np.testing.assert_allclose(0.01 * np.sinh(dots.x), result["loss"], atol=1e-12)
        np.testing.assert_allclose(dots.y, centre_of_mass(layer_shares(result)))
        assert 0.01 * np.sinh(mean.x[0]) == pytest.approx(float(result["loss"].mean()))
        assert mean.y[0] == pytest.approx(np.mean(dots.y))
        assert mean.marker.size > dots.marker.size
        assert not mean.showlegend
    assert len({one.marker.symbol for one in drawing.data[:4]}) == 4
    assert drawing.data[0].x[0] == 0
    assert drawing.layout.xaxis.ticktext == ("0", "0.01", "0.03", "0.1", "0.3", "1", "3", "10")
    np.testing.assert_allclose(0.01 * np.sinh(drawing.layout.xaxis.tickvals)[1:], [0.01, 0.03, 0.1, 0.3, 1, 3, 10])
    assert "nats" in drawing.layout.xaxis.title.text


def test_the_forest_plot_shows_each_difference_with_its_interval(contrasts):
    drawing = plot_profile_contrasts(contrasts)
    raw, adjusted = drawing.data[0], drawing.data[2]
    for trace, variable, above in ((raw, "difference", 0.13), (adjusted, "adjusted", -0.13)):
        mean, low, high = (contrasts[f"{variable}{end}"].values for end in ("", "_low", "_high"))
        np.testing.assert_allclose(trace.x, mean)
        np.testing.assert_allclose(np.array(trace.x) + trace.error_x.array, high)
        np.testing.assert_allclose(np.array(trace.x) - trace.error_x.arrayminus, low)
        np.testing.assert_allclose(trace.y, np.array([2, 1, 0]) + above)
    labels = drawing.layout.yaxis.ticktext
    assert list(drawing.layout.yaxis.tickvals) == [2, 1, 0]
    assert [label.split("<br>")[0] for label in labels] == ["never seen (C)", "planted &lt;8&gt; times", "licence"]
    assert "overlap 0%" in labels[0]
    assert drawing.layout.xaxis.title.text.startswith("centre of mass of largest |gradient|, memorized minus control")
    losses = [float(contrasts[f"nll_{one}"][0]) for one in ("memorized", "control")]
    assert f"loss {losses[0]:.2f} and {losses[1]:.2f}" in labels[0]
    assert drawing.layout.shapes[0].x0 == drawing.layout.shapes[0].x1 == 0
    assert [one.name for one in drawing.data if one.name] == [
        "raw",
        "at equal loss (regression)",
        "does not survive (interval and p)",
    ]


def test_dots_are_filled_where_the_difference_survives(contrasts):
    contrasts["survives"][:] = [True, False, True]
    contrasts["survives_adjusted"][:] = [False, True, False]
    drawing = plot_profile_contrasts(contrasts)
    assert [colour != "white" for colour in drawing.data[0].marker.color] == [True, False, True]
    assert [colour != "white" for colour in drawing.data[2].marker.color] == [False, True, False]


def test_rows_that_cannot_be_adjusted_say_so(contrasts):
    notes = [one for one in plot_profile_contrasts(contrasts).layout.annotations if "not adjusted" in one.text]
    assert np.isnan(contrasts["adjusted"].values).tolist() == [True, False, False]
    assert [one.y for one in notes] == [2 - 0.13]


def test_a_loss_is_needed(results):
    results["licence"] = results["licence"].drop_vars("loss")
    with pytest.raises(InputError, match="the scores of licence lack `loss`"):
        plot_centre_against_loss(results)
