import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.attention import rare_token_attention
from memhooks.localize.attention_rows import attention_of
from memhooks.localize.rare_token_heads import rare_token_heads
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.report.attention_plots import (
    plot_attention_by_rank,
    plot_attention_of,
    plot_entropy,
    plot_heads,
    plot_rare_token_attention,
)
from memhooks.report.theme import COLOURS, colour_of

COUNTS = torch.randint(1, 1000, (101,), generator=torch.Generator().manual_seed(9))


@pytest.fixture
def results(model, paragraphs):
    sets = {"memorized": paragraphs, "control": paragraphs.select([3, 4])}
    return {
        name: rare_token_attention(model, rows, COUNTS, seed=0, n_shuffles=1, queries=[11, 12])
        for name, rows in sets.items()
    }


@pytest.mark.parametrize("variable", ["spearman", "partial_spearman"])
def test_maps_share_one_scale_around_zero_and_name_local_layers(results, variable):
    drawing = plot_rare_token_attention(results, variable, query=12)
    assert len(drawing.data) == 2
    for trace, result in zip(drawing.data, results.values(), strict=True):
        np.testing.assert_allclose(trace.z, result[variable].sel(query=12).mean("paragraph"))
        assert list(trace.y) == ["L0", "L1 local", "L2", "L3 local"]
        assert list(trace.x) == ["H0", "H1", "H2", "H3"]
        assert trace.zmin == -trace.zmax
        assert trace.colorscale[0][1] == "rgb(103,0,31)"  # red is negative: rare tokens
    largest = max(float(np.abs(np.asarray(one.z)).max()) for one in drawing.data)
    assert {one.zmax for one in drawing.data} == {largest}
    assert [one.showscale for one in drawing.data] == [True, False]
    assert {one.text for one in drawing.layout.annotations} == {"memorized (A)", "never seen (C)"}
    assert "from token 12;" in drawing.layout.title.text
    assert "from token 11 (the last of the prefix)" in plot_rare_token_attention(results).layout.title.text


def test_entropy_is_a_share_of_uniform_attentions(results):
    drawing = plot_entropy(results)
    one = results["control"].sel(query=11)
    for layer, reach in enumerate((12, 8, 12, 8)):
        np.testing.assert_allclose(
            np.asarray(drawing.data[1].z)[layer], one["entropy"].mean("paragraph")[layer] / np.log(reach)
        )
    assert (drawing.data[0].zmin, drawing.data[0].zmax) == (0, 1)


def test_attention_by_rank_is_drawn_with_the_uniform_line(results):
    drawing = plot_attention_by_rank(results, head=(1, 2))
    assert [one.name for one in drawing.data] == ["memorized (A)", "never seen (C)"]
    for trace, result in zip(drawing.data, results.values(), strict=True):
        own = result.sel(query=11, layer=1)
        there = own["tokens_at_rank"].values > 0
        np.testing.assert_allclose(trace.y, own["attention_by_rank"].sel(head=2).values[there])
        assert list(trace.x) == np.nonzero(there)[0].tolist()
        assert not np.isnan(trace.y).any()
    assert drawing.layout.shapes[0].y0 == pytest.approx(1 / 8)
    assert "L1H2" in drawing.layout.title.text
    with pytest.raises(InputError, match=r"head must be a \(layer, head\) of the results, got \(1, 9\)"):
        plot_attention_by_rank(results, head=(1, 9))


def test_bars_are_the_strongest_heads_of_the_first_result_with_intervals(results):
    drawing = plot_heads(results | {"own <counts>": results["control"]}, "kendall", n=3)
    tables = [rare_token_heads(one, seed=0) for one in results.values()]
    chosen = tables[0].sortby("kendall")["row"].values[:3].tolist()
    for trace, table in zip(drawing.data[:2], tables, strict=True):
        assert list(trace.x) == chosen
        own = table.sel(row=chosen)
        np.testing.assert_allclose(trace.y, own["kendall"])
        np.testing.assert_allclose(trace.y + trace.error_y.array, own["kendall_high"])
        np.testing.assert_allclose(trace.y - trace.error_y.arrayminus, own["kendall_low"])
    assert len({one.marker.color for one in drawing.data}) == 3
    assert drawing.layout.title.text.startswith("The 3 heads")
    assert len(plot_heads(results).data[0].x) == 12


def test_near_duplicates_count_once_in_the_bars_intervals(model, paragraphs):
    copies = Paragraphs(paragraphs.tokens[[0, 0, 0, 1, 2, 3]], 12)
    result = {"memorized": rare_token_attention(model, copies, COUNTS, seed=0, n_shuffles=1)}
    bar = plot_heads(result, sets={"memorized": copies, "control": paragraphs}).data[0]
    table = rare_token_heads(result["memorized"], seed=0, clusters=clusters(copies)).sel(row=list(bar.x))
    np.testing.assert_allclose(bar.y + bar.error_y.array, table["spearman_high"])
    assert not np.allclose(bar.error_y.array, plot_heads(result).data[0].error_y.array)
    with pytest.raises(InputError, match="clusters must name 6 paragraphs, got 2"):
        plot_heads(result, sets={"memorized": copies.select([0, 3])})


def test_conditions_are_named_and_coloured_by_the_theme(results):
    drawing = plot_heads(results | {"own <counts> of_mine": results["control"]})
    assert [one.name for one in drawing.data] == ["memorized (A)", "never seen (C)", "own &lt;counts&gt; of mine"]
    assert drawing.data[2].marker.color == colour_of("own <counts> of_mine", 2)
    assert drawing.data[2].marker.color not in COLOURS.values()


def test_the_view_of_a_paragraph_has_unique_escaped_tokens_and_gaps_for_unseen_keys(model, paragraphs):
    view = attention_of(model, paragraphs.select([0]))
    tokens = ["<b>"] * 24
    heads, layers = plot_attention_of(view, tokens, layer=1), plot_attention_of(view, tokens, head=2)
    np.testing.assert_allclose(heads.data[0].z, view["attention"].sel(layer=1))
    np.testing.assert_allclose(layers.data[0].z, view["attention"].sel(head=2))
    assert np.isnan(np.asarray(heads.data[0].z)[:, :4]).all()
    assert list(heads.data[0].y) == ["H0", "H1", "H2", "H3"]
    assert list(layers.data[0].y) == ["L0", "L1 local", "L2", "L3 local"]
    assert len(set(heads.data[0].x)) == 12
    assert list(heads.data[0].x)[3] == "'&lt;b&gt;' 3"
    quoted = plot_attention_of(view, ["\"a\" & 'b'"] * 24, layer=1).data[0].x[0]
    assert quoted == "'\"a\" &amp; \\'b\\'' 0"


def test_what_cannot_be_drawn_is_refused(model, paragraphs, results):
    for draw in (plot_rare_token_attention, plot_heads):
        with pytest.raises(
            InputError, match="variable must be one of spearman, kendall, pearson, partial_spearman, got"
        ):
            draw(results, "entropy")
        with pytest.raises(InputError, match="query must be one of the result's, 11, 12; got 1"):
            draw(results, query=1)
    view = attention_of(model, paragraphs.select([0]))
    for options in ({}, {"layer": 0, "head": 0}):
        with pytest.raises(InputError, match="give either layer, to see its heads, or head, to see it in every layer"):
            plot_attention_of(view, ["a"] * 24, **options)
    with pytest.raises(InputError, match=r"layer must be in 0..3, got 4"):
        plot_attention_of(view, ["a"] * 24, layer=4)
    with pytest.raises(InputError, match="12 keys need as many tokens, got 3"):
        plot_attention_of(view, ["a"] * 3, layer=0)
