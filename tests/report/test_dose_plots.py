import numpy as np
import pytest
import xarray as xr

from memhooks.report.dose_plots import plot_dose_curves, plot_recency
from memhooks.report.theme import COLOURS


@pytest.fixture
def curves():
    rows = [
        (condition, measure, k, 5, mean, mean - 0.5, mean + 0.5)
        for condition in ("memorized", "twin")
        for measure in ("nll", "centre_max", "recited")
        for k, mean in ((1, 4.0), (2, 2.0), (4, 1.0))
    ]
    names = ("condition", "measure", "k", "n", "mean", "low", "high")
    return xr.Dataset({name: ("row", list(own)) for name, own in zip(names, zip(*rows, strict=True), strict=True)})


@pytest.fixture
def tables():
    columns = {"level": [1, 1, 2, 4], "gap": [9.0, 0, 3, 1], "nll": [4.0, 3, 2, 1], "exact_match": [0.0, 1, 2, 3]}
    one = xr.Dataset({name: ("paragraph", own) for name, own in columns.items()}, {"paragraph": list("abcd")})
    return {"memorized": one, "twin": one.assign(nll=one["nll"] + 1)}


def test_curves_are_drawn_beside_the_twin_with_intervals_on_a_log_axis(curves):
    drawing = plot_dose_curves(curves)
    lines = [one for one in drawing.data if one.mode == "lines+markers"]
    assert len(lines) == 6
    assert len(drawing.data) == 18  # each with two ends of its band
    assert [one.showlegend for one in lines] == [True, True] + [False] * 4
    assert {one.line.color for one in lines} == {COLOURS["memorized"], COLOURS["twin"]}
    for one in lines:
        assert list(one.x) == [1, 2, 4]
        assert list(one.y) == [4, 2, 1]
    assert list(drawing.data[0].y) == [4.5, 2.5, 1.5]
    assert drawing.layout.xaxis.type == "log"
    assert drawing.layout.xaxis.title.text == "readings k"
    assert drawing.layout.yaxis.title.text == "nats per token"
    assert [one.text for one in drawing.layout.annotations] == ["NLL", "gradient centre, largest", "recited in full"]


def test_unknown_measures_are_escaped(curves):
    drawing = plot_dose_curves(curves.assign(measure=("row", np.array(["<b>"] * 18))))
    assert drawing.layout.annotations[0].text == "&lt;b&gt;"


def test_recency_shows_every_paragraph_by_its_gap_and_level(tables):
    drawing = plot_recency(tables)
    assert len(drawing.data) == 2 * 2 * 3
    first = drawing.data[0]
    assert (first.name, list(first.x), list(first.y)) == ("k = 1", [10, 1], [4, 3])
    assert list(first.customdata) == ["a", "b"]
    assert len({one.marker.color for one in drawing.data}) == 3
    assert sum(bool(one.showlegend) for one in drawing.data) == 3
    assert drawing.layout.xaxis.type == "log"
    assert drawing.layout.yaxis.title.text == "NLL, nats per token"
