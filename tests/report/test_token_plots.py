import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.measure.token_scores import min_k, min_k_tokens, token_scores
from memhooks.report.token_plots import plot_logit_gaps, plot_token_log_probs

TOKENS = ["<b>", *(f" t{pos % 3}" for pos in range(1, 24))]  # equal texts, and one that is markup


@pytest.fixture
def scores(model, paragraphs):
    return token_scores(model, paragraphs, k=3).isel(paragraph=1)


def alternatives(scores):
    return [[f"<{token}>" for token in row] for row in scores["top_tokens"].values]


def test_the_true_tokens_are_a_line_over_unique_labels(scores):
    drawing = plot_logit_gaps(scores, TOKENS, alternatives(scores))
    line = next(one for one in drawing.data if one.name == "true token")
    np.testing.assert_allclose(line.y, scores["log_prob"])
    assert list(line.x[:3]) == ["' t1' 1", "' t2' 2", "' t0' 3"]
    assert len(set(line.x)) == 23
    assert drawing.layout.yaxis.title.text == "log-probability, nats"
    assert drawing.layout.yaxis2.title.text == "gap, nats"
    assert {one.x0 for one in drawing.layout.shapes} == {10.5}  # between labels 10 (token 11) and 11 (token 12)


def test_alternatives_are_named_at_their_log_probability_where_they_are_not_the_true_token(scores):
    drawing = plot_logit_gaps(scores, TOKENS, alternatives(scores))
    others = [one for one in drawing.data if one.type == "scatter" and one.mode == "markers"]
    assert [one.name for one in others] == ["likeliest token", "2.", "3."]
    for place, trace in enumerate(others):
        is_true = scores["rank"].values == place
        assert list(trace.customdata) == [f"'&lt;{token}&gt;'" for token in scores["top_tokens"].values[:, place]]
        assert np.isnan(np.array(trace.y, dtype=float)[is_true]).all()
        np.testing.assert_allclose(np.array(trace.y)[~is_true], scores["top_log_probs"].values[~is_true, place])
    assert len({one.marker.line.color for one in others}) == 3


def test_bars_show_the_gap_and_their_colour_its_sign(scores):
    leads, trails = (one for one in plot_logit_gaps(scores, TOKENS, alternatives(scores)).data if one.type == "bar")
    assert (leads.name, trails.name) == ("greedy decoding says it", "another token leads")
    assert leads.marker.color != trails.marker.color
    gap = scores["gap"].values
    assert (gap > 0).any() or (gap < 0).any()
    np.testing.assert_allclose(np.nan_to_num(leads.y), np.where(gap > 0, gap, 0))
    np.testing.assert_allclose(np.nan_to_num(trails.y), np.where(gap <= 0, gap, 0))


def test_the_heat_map_is_one_row_with_the_least_likely_marked(scores):
    drawing = plot_token_log_probs(scores, TOKENS, fraction=0.25)
    heat, marks = drawing.data
    np.testing.assert_allclose(heat.z, scores["log_prob"].values[None])
    assert (heat.zmin, heat.zmax) == (pytest.approx(float(scores["log_prob"].min())), 0)
    chosen = min_k_tokens(scores, fraction=0.25).values
    assert chosen.sum() == 3
    assert list(marks.x) == [label for label, one in zip(heat.x, chosen, strict=True) if one]
    assert f"{float(min_k(scores, fraction=0.25)):.2f} nats" in drawing.layout.title.text
    assert plot_token_log_probs(scores, TOKENS, lowest=-20.0).data[0].zmin == -20


def test_what_cannot_be_drawn_is_refused(model, paragraphs, scores):
    several = token_scores(model, paragraphs)
    with pytest.raises(InputError, match="the figure shows one paragraph"):
        plot_token_log_probs(several, TOKENS)
    with pytest.raises(InputError, match="tokens must be the texts of all 24 tokens, got 23"):
        plot_logit_gaps(scores, TOKENS[1:], alternatives(scores))
    with pytest.raises(InputError, match="alternatives must hold 3 texts for each of 23 scored tokens"):
        plot_logit_gaps(scores, TOKENS, alternatives(scores)[1:])
    with pytest.raises(InputError, match="alternatives must hold 3 texts"):
        plot_logit_gaps(scores, TOKENS, [row[:2] for row in alternatives(scores)])
