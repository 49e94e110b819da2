import numpy as np
import pytest
import torch

from memhooks.report.sink_plots import plot_massive, plot_rare_tokens_without, plot_sinks
from memhooks.truth.massive import massive_activations
from memhooks.truth.rare_token_without import rare_token_without
from memhooks.truth.sinks import attention_sinks


def test_magnitudes_are_drawn_per_layer_and_site_beside_their_median(model, paragraphs):
    found = massive_activations(model, paragraphs)
    drawing = plot_massive({"memorized": found, "control": found})
    lines = [trace for trace in drawing.data if trace.mode == "lines+markers"]
    assert len(lines) == 8
    assert list(lines[0].y) == pytest.approx(found["largest"].sel(site="resid_post").values)
    assert list(lines[1].y) == pytest.approx(found["median"].sel(site="resid_post").values)
    assert drawing.layout.yaxis.type == "log"


def test_sinks_are_a_map_per_set_beyond_uniform_attention(model, paragraphs):
    found = attention_sinks(model, paragraphs)
    drawing = plot_sinks({"memorized": found, "control": found})
    expected = found["first"].values.mean(0) - found["uniform"].values[:, None]
    np.testing.assert_allclose(np.array(drawing.data[0].z), expected)
    assert list(drawing.data[0].y) == ["L0 global", "L1 local", "L2 global", "L3 local"]


def test_every_head_is_a_point_with_and_without_the_key(model, paragraphs):
    counts = torch.arange(101)
    found = {drop: rare_token_without(model, paragraphs, counts, drop=drop) for drop in ("nothing", "first")}
    drawing = plot_rare_tokens_without(found)
    assert list(drawing.data[0].x) == pytest.approx(found["nothing"]["spearman"].mean("paragraph").values.ravel())
    assert list(drawing.data[0].y) == pytest.approx(found["first"]["spearman"].mean("paragraph").values.ravel())
    assert drawing.data[0].text[5] == "L1H1"
