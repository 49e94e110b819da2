import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.activation_gradients import activation_gradients, directions
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.pooling import component_scores
from memhooks.localize.range_maps import range_maps
from memhooks.localize.similarity import paired_similarity, weight_similarity
from memhooks.report.gradient_plots import (
    plot_activation_gradients,
    plot_attention_and_mlp,
    plot_component_map,
    plot_one_paragraph,
    plot_pair_similarity,
    plot_range_maps,
    plot_similarity,
)


def test_range_maps_are_shares_with_their_layer_sums_beside(model, paragraphs):
    maps = range_maps(model, paragraphs, exact_match=np.array([12, 0, 1, 12, 5, 12]))
    drawing = plot_range_maps(maps)
    heat, bars = drawing.data[::2], drawing.data[1::2]
    assert len(heat) == len(bars) == 3
    for number, (one, bar) in enumerate(zip(heat, bars, strict=True)):
        own = maps["max_gradient"].isel(row=number)
        assert np.asarray(one.z) == pytest.approx(100 * (own / own.sum()).values)
        assert list(bar.x) == pytest.approx(np.asarray(one.z).sum(1))
        assert one.zmax == heat[0].zmax  # one scale
    assert "EM 0-2: 2 paragraphs" in drawing.layout.annotations[0].text
    sums = plot_attention_and_mlp(maps)
    assert [trace.name for trace in sums.data[:3]] == ["EM 0-2", "EM 3-7", "EM 12"]
    assert list(sums.data[0].y) == pytest.approx(maps["attention"].isel(row=0).values)


def test_activation_maps_share_a_scale_and_sum_to_a_hundred(model, paragraphs):
    at = torch.tensor([0, 3, 11, 5, 4, 7])
    results = {
        name: activation_gradients(model, paragraphs.select(rows), sites=["q", "k"], at=at[rows])
        for name, rows in (("memorized", [0, 1, 2]), ("control", [3, 4, 5]))
    }
    drawing = plot_activation_gradients(results)
    assert [np.sum(one.z) for one in drawing.data] == pytest.approx([100] * 4)
    assert drawing.data[0].zmax == drawing.data[1].zmax
    assert drawing.layout.annotations[0].text == "q: memorized (A)"


def test_one_paragraph_has_unique_escaped_labels(model, paragraphs):
    gradients = activation_gradients(model, paragraphs.select([0]), sites=["v"])
    tokens = ["<b>", "same", *["same"] * 22]
    by_head = plot_one_paragraph(gradients, tokens, layer=1).data[0]
    assert len(set(by_head.x)) == 12
    assert by_head.x[0] == "'&lt;b&gt;' 0"
    assert list(by_head.y) == ["H0", "H1", "H2", "H3"]
    assert np.asarray(by_head.z) == pytest.approx(gradients["max_gradient"][0, 0, 1].values)
    by_layer = plot_one_paragraph(gradients, tokens, head=2).data[0]
    assert list(by_layer.y) == ["L0", "L1", "L2", "L3"]
    for wrong in ({}, {"layer": 1, "head": 2}):
        with pytest.raises(InputError, match=r"give either a layer, .* or a head"):
            plot_one_paragraph(gradients, tokens, **wrong)


def test_cosines_lie_on_a_scale_centred_on_zero(model, paragraphs):
    found = weight_similarity(model, paragraphs.select([0, 1, 2]), paragraphs.select([3, 4, 5]))
    drawing = plot_similarity(found)
    assert [(one.zmin, one.zmax) for one in drawing.data] == [(-1, 1)] * 3
    assert np.asarray(drawing.data[0].z) == pytest.approx(found["between"].values)
    at = torch.tensor([0, 3, 11])
    one, other = (
        directions(model, paragraphs.select(rows), sites=["q", "v"], at=at) for rows in ([0, 1, 2], [3, 4, 5])
    )
    pairs = paired_similarity(one, other)
    assert np.asarray(plot_pair_similarity(pairs).data[1].z) == pytest.approx(
        pairs["cosine"].mean("paragraph").sel(site="v").values, nan_ok=True
    )
    assert plot_pair_similarity(pairs, variable="difference").data[0].zmin == 0


def test_a_map_of_any_scores(model, paragraphs):
    scores = component_scores(model, weight_gradients(model, paragraphs))
    drawing = plot_component_map(scores, variable="rms_gradient", title="gradient")
    assert np.asarray(drawing.data[0].z) == pytest.approx(scores["rms_gradient"].values)
    assert drawing.layout.title.text == "gradient"
