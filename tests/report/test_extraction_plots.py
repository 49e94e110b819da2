import pytest

from memhooks.report.extraction_plots import plot_extraction, plot_prefix_length, plot_recalled
from memhooks.truth.extraction.prefix_length import prefix_length_curve
from memhooks.truth.extraction.queries import extraction_curves
from memhooks.truth.extraction.recalled import fitted_prior, log_probabilities


def test_curves_of_every_set_are_drawn_with_bands_over_queries(model, paragraphs):
    found = extraction_curves(model, paragraphs, queries=(1, 100))
    drawing = plot_extraction({"memorized": found, "control": found})
    lines = [trace for trace in drawing.data if trace.name]
    assert [line.name for line in lines] == ["memorized (A)", "never seen (C)"]
    assert list(lines[0].x) == [1, 100]
    assert list(lines[0].y) == found["share"].sel(sampler="temperature 1", p=0.5).values.tolist()
    assert drawing.layout.xaxis.type == "log"


def test_prefix_lengths_are_the_axis_of_exact_match(model, paragraphs):
    found = prefix_length_curve(model, paragraphs, seed=0, lengths=[6, 12])
    line = next(trace for trace in plot_prefix_length({"memorized": found}).data if trace.name)
    assert list(line.x) == [6, 12]
    assert list(line.y) == found["exact_match"].values.tolist()


def test_tokens_in_place_are_a_dashed_line_beside(model, paragraphs):
    found = prefix_length_curve(model, paragraphs, seed=0, in_front=paragraphs, lengths=[6, 12])
    dashed = [one for one in plot_prefix_length({"memorized": found}).data if one.line.dash == "dash"]
    assert [one.name for one in dashed] == ["memorized (A), in place after other text"]
    assert list(dashed[0].y) == found["exact_match_in_place"].values.tolist()


def test_points_are_the_model_against_the_best_of_the_others(model, paragraphs):
    found = log_probabilities(model, paragraphs, prior=fitted_prior([paragraphs], d_vocab=101))
    points = plot_recalled({"memorized": found}).data[0]
    assert list(points.x) == pytest.approx(found["prior"].values.tolist())
    assert list(points.y) == pytest.approx(found["model"].values.tolist())
