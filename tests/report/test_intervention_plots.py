import numpy as np
import pytest
import torch

from memhooks.localize.cumulative import ablate_cumulatively
from memhooks.localize.each_part import ablate_each, every_layer, silence_heads
from memhooks.localize.patch_pairs import patch_pairs
from memhooks.localize.patch_result import patch_interval
from memhooks.localize.patching import patch
from memhooks.localize.specificity import specificity
from memhooks.measure.pairs import make_pairs
from memhooks.measure.perturbation import corrupted, perturb
from memhooks.measure.perturbation_statistics import drop_by_position, drop_by_rarity
from memhooks.report.intervention_plots import (
    plot_ablation,
    plot_cumulative,
    plot_early_prefix,
    plot_patch_heads,
    plot_patch_layers,
    plot_patch_map,
    plot_specificity,
)
from memhooks.report.perturbation_plots import plot_position_profile, plot_rarity


@pytest.fixture
def sets(paragraphs):
    return {"memorized": paragraphs, "control": paragraphs.with_continuation(paragraphs.continuation.flip(1))}


@pytest.fixture
def effects(model, sets):
    return {name: perturb(model, rows, seed=0) for name, rows in sets.items()}


def patched(model, sets, effects, *, own=False, **options):
    found = {}
    for name, rows in sets.items():
        tokens, at = corrupted(rows, effects[name])
        found[name] = patch(model, rows, tokens, at=at if own else None, **options)
    return found


def lines(drawing):
    return [trace for trace in drawing.data if trace.name]


def test_profiles_are_means_with_intervals_and_the_dotted_band_of_shuffled_drops(sets, effects):
    profiles = {name: drop_by_position(effects[name], rows, seed=0) for name, rows in sets.items()}
    drawing = plot_position_profile(profiles)
    assert len(drawing.data) == 10  # a line, two ends of its band and two dotted lines each
    high, low, mean, dotted_low, dotted_high = drawing.data[:5]
    ends = ("high", "low", "mean", "shuffled_low", "shuffled_high")
    for trace, end in zip((high, low, mean, dotted_low, dotted_high), ends, strict=True):
        np.testing.assert_allclose(trace.y, profiles["memorized"][end])
        assert list(trace.x) == list(range(12))
    assert (dotted_low.line.dash, dotted_low.showlegend, dotted_high.showlegend) == ("dot", True, False)
    assert {one.name for one in lines(drawing)} >= {"memorized (A)", "never seen (C)"}


def test_a_profile_without_shuffles_has_no_dotted_lines(sets, effects):
    profile = drop_by_position(effects["memorized"], sets["memorized"], seed=0)
    drawing = plot_position_profile({"memorized": profile.drop_vars(["shuffled_low", "shuffled_high"])})
    assert len(drawing.data) == 3


def test_rarity_is_drawn_by_bin_in_order(sets, effects):
    counts = torch.arange(101)
    profiles = {name: drop_by_rarity(effects[name], rows, counts, seed=0) for name, rows in sets.items()}
    drawing = plot_rarity(profiles)
    assert list(drawing.data[2].x) == profiles["memorized"]["row"].values.tolist()
    np.testing.assert_allclose(drawing.data[7].y, profiles["control"]["mean"])
    assert drawing.layout.xaxis.type == "category"


def test_a_map_has_a_row_per_site_a_column_per_condition_and_one_scale(model, sets, effects):
    results = patched(model, sets, effects, sites=("resid_pre", "mlp_out"))
    drawing = plot_patch_map(results)
    assert len(drawing.data) == 4
    assert len({(one.zmin, one.zmax) for one in drawing.data}) == 1
    assert drawing.data[0].zmin == -drawing.data[0].zmax
    means = [(name, site) for name in sets for site in ("resid_pre", "mlp_out")]
    for trace, (name, site) in zip(drawing.data, means, strict=True):
        expected = results[name]["effect"].sel(site=site).mean("paragraph").transpose("layer", "pos")
        np.testing.assert_allclose(trace.z, expected)
        assert list(trace.x) == list(range(12))
        assert list(trace.y) == ["L0", "L1", "L2", "L3"]
        assert "position %{x}" in trace.hovertemplate
    largest = max(float(np.abs(np.asarray(one.z)).max()) for one in drawing.data)
    assert drawing.data[0].zmax == pytest.approx(largest)
    assert [drawing.layout.yaxis.title.text, drawing.layout.yaxis3.title.text] == ["resid_pre", "mlp_out"]
    assert drawing.layout.title.text == "Restoring the clean activation at one prefix position"


def test_the_early_prefix_is_drawn_at_three_depths_with_bands(model, sets, effects):
    results = patched(model, sets, effects, sites=("resid_pre",))
    drawing = plot_early_prefix(results)
    titles = [one.text for one in drawing.layout.annotations]
    assert titles == ["resid_pre of layer 0", "resid_pre of layer 2", "resid_pre of layer 3"]
    assert len(drawing.data) == 18
    values = results["control"]["effect"].sel(site="resid_pre", layer=2)
    traces = [one for one in drawing.data if one.xaxis == "x2"][3:]
    mean, low, high = patch_interval(results["control"], values, seed=0)
    for trace, end in zip(traces, (high, low, mean), strict=True):
        np.testing.assert_allclose(trace.y, end)


def test_layers_are_lines_per_site_and_noising_is_named(model, sets, effects):
    results = patched(model, sets, effects, own=True, sites=("attn_out", "mlp_out"), direction="noising")
    drawing = plot_patch_layers(results)
    assert [(one.name, one.xaxis) for one in lines(drawing)] == [
        ("memorized (A)", "x"),
        ("never seen (C)", "x"),
        ("memorized (A)", "x2"),
        ("never seen (C)", "x2"),
    ]
    np.testing.assert_allclose(
        lines(drawing)[3].y, results["control"]["effect"].sel(site="mlp_out").mean("paragraph"), rtol=1e-5
    )
    assert drawing.layout.title.text == "Putting the perturbed run's activation in at the replaced token"
    assert drawing.layout.yaxis.title.text == "share of the damage done"


def test_heads_are_maps_with_numbers_also_of_the_logit_difference(model, sets, effects):
    results = {}
    for name, rows in sets.items():
        pairs = make_pairs(model, rows, effects[name])
        results[name] = patch_pairs(model, pairs.select(pairs.changed), sites=("z",))
    for variable in ("effect", "logit_effect"):
        drawing = plot_patch_heads(results, variable=variable)
        for trace, result in zip(drawing.data, results.values(), strict=True):
            expected = result[variable].sel(site="z").mean("paragraph").transpose("layer", "head")
            np.testing.assert_allclose(trace.z, expected)
            assert list(trace.x) == ["H0", "H1", "H2", "H3"]
            assert trace.texttemplate == "%{z:.2f}"


def test_ablation_maps_end_with_memorized_minus_control(model, sets):
    results = {name: silence_heads(model, rows) for name, rows in (sets | {"held_out": sets["control"]}).items()}
    drawing = plot_ablation(results)
    titles = [one.text for one in drawing.layout.annotations]
    assert titles == ["memorized (A)", "never seen (C)", "held-out prose", "memorized (A) minus never seen (C)"]
    means = [one["nll_rise"].mean("paragraph").transpose("layer", "head").values for one in results.values()]
    for trace, expected in zip(drawing.data, [*means, means[0] - means[1]], strict=True):
        np.testing.assert_allclose(trace.z, expected)
        assert (trace.zmin, trace.zmax) == (drawing.data[0].zmin, drawing.data[0].zmax)
    assert len(plot_ablation({"memorized": results["memorized"]}).data) == 1


def test_specificity_shows_the_largest_parts_beside_each_control(model, sets):
    table = specificity({name: ablate_each(model, rows, **every_layer(model)) for name, rows in sets.items()})
    drawing = plot_specificity(table, n=3)
    best = table.isel(row=np.argsort(-table["memorized"].values)[:3])
    assert [one.name for one in drawing.data] == ["memorized (A)", "never seen (C)"]
    for trace, name in zip(drawing.data, sets, strict=True):
        assert list(trace.y) == best["row"].values.tolist()
        np.testing.assert_allclose(trace.x, best[name])
        np.testing.assert_allclose(trace.x + trace.error_x.array, best[f"{name}_high"])
        np.testing.assert_allclose(trace.x - trace.error_x.arrayminus, best[f"{name}_low"])


def test_cumulative_ablation_is_solid_for_best_first_and_dashed_for_random(model, sets):
    table = ablate_cumulatively(model, sets, [(0, 0), (1, 2)], n_random=1)
    drawing = plot_cumulative(table)
    assert [one.line.dash for one in drawing.data] == ["solid", "dash", "solid", "dash"]
    assert [one.name for one in drawing.data][:2] == ["memorized (A), best first", "memorized (A), random heads"]
    columns = [f"{name}_em{ending}" for name in sets for ending in ("", "_random")]
    for trace, column in zip(drawing.data, columns, strict=True):
        np.testing.assert_allclose(trace.y, table[column])
        assert list(trace.x) == [0, 1, 2]
