import numpy as np
import pytest
import xarray as xr

from memhooks.measure.intervals import bootstrap_mean
from memhooks.report.attack_plots import plot_attacks, plot_breaking, plot_relearning, plot_sequence


def line(drawing, name, place=0):
    return [one for one in drawing.data if one.name == name][place]


def curves(*models):
    steps = np.arange(4.0)
    made = {"half": ("row", [5.0, 2.5])}
    for i, model in enumerate(models):
        for end, shift in (("", 0), ("_low", -1), ("_high", 1)):
            made[f"exact_match_{model}{end}"] = (("row", "step"), np.stack([steps + i + shift, steps * 2 + i + shift]))
    return xr.Dataset(made, {"row": ["prefixes", "part: held out"], "step": range(4)})


def test_relearning_has_a_panel_per_attack_and_the_untouched_level():
    drawing = plot_relearning(curves("untouched", "unlearned", "twin"))
    assert [one.text for one in drawing.layout.annotations] == [
        "trained on prefixes",
        "trained on part,<br>tested on the rest",
    ]
    for place, factor in enumerate((1, 2)):
        np.testing.assert_array_equal(line(drawing, "unlearned model", place).y, np.arange(4) * factor + 1)
        np.testing.assert_array_equal(line(drawing, "twin, learns it afresh", place).y, np.arange(4) * factor + 2)
    assert line(drawing, "half of it", 1).y == (2.5, 2.5)
    assert line(drawing, "untouched, before training").y == (0.0, 0.0)
    assert drawing.layout.yaxis.title.text == "exact match, tokens"


def test_without_a_twin_there_is_no_line_for_it():
    names = {one.name for one in plot_relearning(curves("untouched", "unlearned")).data}
    assert "twin, learns it afresh" not in names


def test_attacks_are_points_with_intervals_and_what_was_not_done_is_left_out():
    made = {}
    for model, mean in (("untouched", [50.0, 48.0]), ("unlearned", [1.0, 2.0]), ("twin", [0.0, np.nan])):
        for end, shift in (("", 0), ("_low", -0.5), ("_high", 1.5)):
            made[f"exact_match_{model}{end}"] = ("row", np.array(mean) + shift)
    drawing = plot_attacks(xr.Dataset(made, {"row": ["no attack", "rounding: int4"]}))
    unlearned = line(drawing, "unlearned model")
    assert list(unlearned.x) == [1.0, 2.0]
    assert list(unlearned.error_x.array) == [1.5, 1.5]
    assert list(unlearned.error_x.arrayminus) == [0.5, 0.5]
    assert list(line(drawing, "twin, learns it afresh").x) == [0.0]
    assert list(drawing.layout.yaxis.ticktext) == ["no attack", "rounding: int4"]


def test_breaking_shows_each_paragraph_against_its_nll_and_unbroken_ones_as_triangles():
    made = {
        "nll_before": [0.01, 0.02, 0.4, 0.5],
        "steps_half": [5.0, np.nan, 1.0, 2.0],
        "norm_half": [0.5, np.nan, 0.1, 0.2],
        "path_half": [50.0, np.nan, 10.0, 20.0],
        "steps_nat": [np.nan] * 4,
        "cluster": [0, 1, 0, 1],
    }
    result = xr.Dataset({name: ("paragraph", np.array(one)) for name, one in made.items()}, attrs={"n_steps": 30})
    result["set"] = ("paragraph", np.array(["memorized"] * 2 + ["control"] * 2))
    drawing = plot_breaking(
        result.assign_coords(paragraph=["memorized: a", "memorized: b", "control: c", "control: d"])
    )
    points = line(drawing, "memorized (A)")
    assert list(points.y) == [5.0, 30.0]
    assert list(points.marker.symbol) == ["circle", "triangle-up-open"]
    assert list(line(drawing, "memorized (A)", 1).y) == [0.5]  # no one knows how far the other would have moved
    means = [one for one in drawing.data if one.hovertemplate and one.hovertemplate.startswith("mean")]
    mean, low, high = bootstrap_mean(np.array([1.0, 2.0]), seed=0)
    control = next(one for one in means if one.y[0] == mean)
    assert control.error_y.array[0] == pytest.approx(high - mean)
    assert control.error_y.arrayminus[0] == pytest.approx(mean - low)
    assert len({one.yaxis for one in drawing.data}) == 3  # a criterion that no paragraph met has no row


def test_sequence_draws_every_request_the_others_and_the_drift():
    made = {
        "exact_match": (("row", "paragraph"), np.array([[50.0, 40.0, 50.0], [0.0, 40.0, 50.0], [1.0, 2.0, 4.0]])),
        "request": ("paragraph", np.array([1, 2, 2])),
        "retain_kl": ("row", np.array([0.0, 0.1, 0.3])),
    } | {
        f"others_exact_match{end}": ("row", np.array([50.0, 49.0, 48.0]) + shift)
        for end, shift in (("", 0), ("_low", -1), ("_high", 1))
    }
    drawing = plot_sequence(xr.Dataset(made))
    assert list(line(drawing, "request 1").y) == [50.0, 0.0, 1.0]
    assert list(line(drawing, "request 2").y) == [45.0, 45.0, 3.0]
    assert list(line(drawing, "other memorized text").y) == [50.0, 49.0, 48.0]
    assert any(list(one.y) == [0.0, 0.1, 0.3] for one in drawing.data)
