import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.model.labelled import Variable, labelled
from memhooks.report.fork_plots import plot_agreement, plot_counterfactual, plot_line, plot_swaps


def with_ends(name, values, axes=("row",), labels=None):
    values = np.asarray(values, float)
    return {
        f"{name}{end}": Variable(np.asarray(values + shift), axes, "share", labels or {})
        for end, shift in (("", 0), ("_low", -0.1), ("_high", 0.1))
    }


@pytest.fixture
def swaps():
    """Two layers of two heads, as `swap_parts` gives them."""
    names = [
        "L0",
        "L1",
        "attention 0",
        "attention 1",
        "MLP 0",
        "MLP 1",
        "L0H0",
        "L0H1",
        "L1H0",
        "L1H1",
        "W_Q 0",
        "W_Q 1",
    ]
    names += ["layers 0-0", "layers 0-1", "layers 1-1"]
    kinds = ["layer"] * 2 + ["attention"] * 2 + ["mlp"] * 2 + ["head"] * 4 + ["matrix"] * 2 + ["bottom"] * 2 + ["top"]
    layers = [0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 1, -1, -1, -1]
    heads = [-1] * 6 + [0, 1, 0, 1] + [-1] * 5
    columns = {
        "kind": Variable(np.array(kinds), ("row",), "kind", {"row": names}),
        "layer": Variable(np.array(layers), ("row",), "layer"),
        "head": Variable(np.array(heads), ("row",), "head"),
        "set": Variable(np.array(["memorized", "memorized", "control"]), ("paragraph",), "set"),
        "clean_nll_model": Variable(np.array([0.0, 1.0, 9.0]), ("paragraph",), "nats"),
        "clean_nll_other": Variable(np.array([4.0, 5.0, 9.0]), ("paragraph",), "nats"),
    }
    for place, name in enumerate(("removes", "brings", "control_rise", "control_rise_other", "blind")):
        columns |= with_ends(name, np.arange(15) / 100 + place)
    return labelled({}, **columns)


def test_the_line_shows_all_sets_and_says_how_high_the_hill_is():
    shares = {"row": [0.0, 0.5, 1.0]}
    columns = with_ends("barrier", 0.25, axes=())
    for place, name in enumerate(("memorized", "mirror", "control")):
        columns |= with_ends(f"nll_{name}", np.arange(3) + place, labels=shares) | with_ends(f"em_{name}", [5, 4, 3])
    drawn = plot_line(labelled({}, **columns))
    lines = {one.name: one for one in drawn.data if one.name}
    assert list(lines["read by the other alone"].y) == [1, 2, 3]
    assert "0.250 nats [0.150, 0.350]" in drawn.layout.title.text


def test_bars_stand_beside_the_control_and_the_blind_change(swaps):
    bars = plot_swaps(swaps)[0]
    named = {one.name: one for one in bars.data if one.showlegend is not False}
    assert list(named["whole layer"].y) == [0.0, 0.01]
    assert list(named["MLP"].y) == [0.04, 0.05]
    np.testing.assert_allclose(
        named["rise of never-read text under the whole layer's swap, over the gap"].y, [0.5, 0.5025]
    )
    assert list(named["whole layer moved as far, in random order"].y) == [4.0, 4.01]
    assert list(named["whole layer"].x) == ["L0", "L1"]


def test_runs_and_maps_put_every_part_in_its_place(swaps):
    _, runs, matrices, heads = plot_swaps(swaps)
    named = {one.name: one for one in runs.data if one.showlegend}
    assert list(named["from the bottom"].y) == [0.12, 0.13]
    assert list(named["from the top"].text) == ["layers 1-1"]
    assert np.asarray(heads.data[0].z).tolist() == [[0.06, 0.07], [0.08, 0.09]]
    assert (heads.data[0].zmin, heads.data[0].zmax) == (-heads.data[0].zmax, heads.data[1].zmax)
    assert np.asarray(matrices.data[0].z).tolist() == [[0.1], [0.11]]
    assert len(plot_swaps(swaps.isel(row=slice(10, 12)))) == 1


def test_counterfactuals_stand_by_count_with_the_controls_band():
    columns = {
        "nll_difference": Variable(np.array([1.0, 2.0, 3.0, 0.1]), ("paragraph",), "nats", {"paragraph": list("a<cd")}),
        "count": Variable(np.array([1, 8, 8, 0]), ("paragraph",), "readings"),
        "set": Variable(np.array(["memorized", "memorized", "mirror", "control"]), ("paragraph",), "set"),
        "threshold": Variable(np.array(0.5), (), "nats"),
        "threshold_mirror": Variable(np.array(0.4), (), "nats"),
        "row_set": Variable(np.array(["memorized", "memorized", "mirror", "control"]), ("row",), "set"),
        "row_count": Variable(np.array([1, 8, 8, 0]), ("row",), "readings"),
    }
    drawn = plot_counterfactual(labelled({}, **columns, **with_ends("mean", [1, 2, 3, 0.1])))
    first = drawn.data[0]
    assert list(first.y) == [1, 2]
    assert list(first.text) == ["a", "&lt;"]
    assert abs(first.x[0] - 1) < 0.5
    assert abs(first.x[1] - 2) < 0.5
    assert (drawn.layout.shapes[0].y0, drawn.layout.shapes[0].y1) == (-0.4, 0.5)
    assert drawn.layout.xaxis.ticktext == ("none", "1", "8")


def test_localizers_stand_beside_random_and_oracle():
    names = ["gradient", "gradient", "oracle", "oracle"]
    columns = {
        "localizer": Variable(np.array(names), ("row",), "localizer"),
        "fraction": Variable(np.array([0.01, 0.1] * 2), ("row",), "fraction"),
    }
    for place, name in enumerate(("target", "random", "others", "beyond_random")):
        columns |= with_ends(name, np.arange(4) / 10 + place)
    drawn = plot_agreement(labelled({}, **columns))
    assert len(drawn.data) == 6
    assert [one.name for one in drawn.data if one.showlegend] == ["gradient", "oracle"]
    assert list(drawn.data[1].y) == [1.0, 1.1]
    assert drawn.data[3].line.dash == "dot"


@pytest.mark.parametrize(
    ("plot", "message"),
    [
        (plot_line, "expected a result of loss_along_line, which holds 'barrier'"),
        (plot_swaps, "expected a result of swap_parts"),
        (plot_counterfactual, "expected a result of counterfactual_memorization"),
        (plot_agreement, "expected a result of swap_curves"),
    ],
)
def test_other_results_are_refused(plot, message):
    with pytest.raises(InputError, match=message):
        plot(labelled({}, x=Variable(np.zeros(1), ("row",), "none")))
