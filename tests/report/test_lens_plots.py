import numpy as np
import pytest
import xarray as xr

from memhooks.localize.direct_effects import direct_effects
from memhooks.localize.logit_lens import logit_lens, share_decided
from memhooks.measure.intervals import bootstrap_mean
from memhooks.report.lens_plots import plot_direct_effects, plot_logit_lens


@pytest.fixture
def sets(paragraphs):
    return {"memorized": paragraphs, "control": paragraphs.with_continuation(paragraphs.continuation.flip(1))}


@pytest.fixture
def lenses(model, sets):
    return {name: logit_lens(model, rows) for name, rows in sets.items()}


@pytest.fixture
def effects(model, sets):
    return {name: direct_effects(model, rows) for name, rows in sets.items()}


def test_the_lens_has_a_line_and_a_band_per_condition_and_panel(lenses):
    drawing = plot_logit_lens(lenses)
    lines = [trace for trace in drawing.data if trace.name]
    assert [(one.name, one.xaxis) for one in lines] == [
        ("memorized (A)", "x"),
        ("memorized (A)", "x2"),
        ("never seen (C)", "x"),
        ("never seen (C)", "x2"),
    ]
    assert [one.showlegend for one in lines] == [True, False, True, False]
    assert len(drawing.data) == 12  # a line and two ends of a band each
    assert drawing.layout.yaxis.title.text == "nats per continuation token"
    assert drawing.layout.xaxis2.title.text == "blocks that have run (0 = embeddings alone)"


def test_the_lines_are_means_with_their_intervals(lenses):
    high, low, nll, *_, share = plot_logit_lens({"memorized": lenses["memorized"]}).data
    for trace, end in zip(
        (nll, low, high), bootstrap_mean(lenses["memorized"]["nll"].values.mean(-1), seed=0), strict=True
    ):
        np.testing.assert_allclose(trace.y, end)
        assert list(trace.x) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(share.y, share_decided(lenses["memorized"]).mean("paragraph"))
    assert share.y[-1] == 1


def lens_of(nll):
    values = np.tile(np.array(nll, dtype=float)[None, :, None], (3, 1, 2))
    decided = np.full((3, 2), 2)
    return xr.Dataset(
        {"nll": (("paragraph", "layer", "pos"), values), "decided": (("paragraph", "pos"), decided)},
        {"layer": range(len(nll))},
    )


def test_embeddings_that_would_press_the_curves_flat_are_named_instead_of_drawn():
    far, near = (plot_logit_lens({"memorized": lens_of(nll)}) for nll in ([40, 5, 1], [6, 5, 1]))
    assert far.layout.yaxis.range[1] == pytest.approx(6.5)
    assert "after 0 blocks, off the scale: 40.0 nats" in {one.text for one in far.layout.annotations}
    assert near.layout.yaxis.range is None
    assert not any("off the scale" in one.text for one in near.layout.annotations)


def test_maps_show_heads_and_mlps_on_one_scale_centred_on_zero(effects):
    drawing = plot_direct_effects(effects)
    assert [one.type for one in drawing.data] == ["heatmap", "heatmap"]
    assert {one.text for one in drawing.layout.annotations} == {"memorized (A)", "never seen (C)"}
    assert len({(one.zmin, one.zmax) for one in drawing.data}) == 1
    assert drawing.data[0].zmin == -drawing.data[0].zmax
    for trace, result in zip(drawing.data, effects.values(), strict=True):
        assert list(trace.x) == ["H0", "H1", "H2", "H3", "MLP"]
        assert list(trace.y) == ["L0", "L1", "L2", "L3"]
        assert np.asarray(trace.z)[2, 1] == pytest.approx(float(result["heads"].sel(layer=2, head=1).mean()))
        assert np.asarray(trace.z)[3, 4] == pytest.approx(float(result["mlp"].sel(layer=3).mean()))
    assert drawing.data[0].zmax == pytest.approx(max(float(np.abs(np.asarray(one.z)).max()) for one in drawing.data))


def test_numbers_stand_in_the_cells_only_where_they_fit(effects):
    assert plot_direct_effects(effects).data[0].texttemplate == "%{z:.1f}"
    wide = xr.concat([effects["memorized"]] * 4, "head", data_vars=["heads"]).assign_coords(head=range(16))
    assert plot_direct_effects({"memorized": wide}).data[0].texttemplate is None
