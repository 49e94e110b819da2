import numpy as np
import pytest
import xarray as xr

from memhooks.measure.intervals import bootstrap_mean
from memhooks.report.findings import (
    concentration,
    findings,
    most_negative_head,
    recited_in_full,
    unlearning_summary,
)
from memhooks.report.intervention_plots import plot_patch_layers
from memhooks.report.plots import (
    plot_dose,
    plot_em_bins,
    plot_perturbation,
    plot_unlearning,
    plot_weight_scores,
)

CONDITIONS = ("memorized", "control", "control_own", "twin")


def dataset(rng, shift, **shapes):
    return xr.Dataset({name: (dims, rng.normal(shift, 1.0, size=sizes)) for name, (dims, sizes) in shapes.items()})


@pytest.fixture
def results():
    rng = np.random.default_rng(0)
    found = {
        stage: {}
        for stage in (
            "recitation",
            "perturbation",
            "gradients",
            "attention",
            "patching",
            "ablation",
            "lens",
            "continuations",
        )
    }
    for number, name in enumerate(CONDITIONS):
        em = np.full(20, 50 if name == "memorized" else number)
        recited = xr.Dataset(
            dict.fromkeys(("exact_match", "matches", "longest_run", "near_ties"), ("paragraph", em))
            | {"full_match": ("paragraph", em == 50), "nll": (("paragraph", "pos"), rng.random((20, 50)))},
            attrs={"n_continuation": 50},
        )
        found["recitation"][name] = recited
        shift = 3.0 if name == "memorized" else 0.0
        perturbed = dataset(
            rng,
            shift,
            nll_rise=(("paragraph", "draw", "pos"), (20, 1, 50)),
            em_drop=(("paragraph", "draw", "pos"), (20, 1, 50)),
        )
        found["perturbation"][name] = perturbed.assign_coords(pos=range(50))
        gradients = dataset(
            rng,
            5.0,
            max_gradient=(("paragraph", "layer", "component"), (20, 4, 18)),
            layer_share=(("paragraph", "layer"), (20, 4)),
        )
        found["gradients"][name] = gradients.assign_coords(layer=range(4), component=[f"c{i}" for i in range(18)])
        attention = dataset(rng, 0.0, spearman=(("paragraph", "query", "layer", "head"), (20, 1, 4, 4)))
        found["attention"][name] = attention.assign_coords(layer=range(4), head=range(4))
        patching = dataset(rng, shift, effect=(("paragraph", "site", "layer"), (20, 2, 4)))
        damage = {"clean_nll": ("paragraph", np.zeros(20)), "other_nll": ("paragraph", np.full(20, 2.0))}
        patching = patching.assign(damage)
        ablation = dataset(rng, shift, nll_rise=(("paragraph", "layer", "head"), (20, 4, 4)))
        found["ablation"][name] = ablation.assign_coords(layer=range(4), head=range(4))
        found["lens"][name] = dataset(rng, shift, decided=(("paragraph", "pos"), (20, 50)))
        found["continuations"][name] = xr.Dataset(
            {key: ("paragraph", np.arange(20) < 5 * number) for key in ("dies", "resumes")}
        )
        found["patching"][name] = patching.assign_coords(site=["resid_pre", "attn_out"], layer=range(4))
    return found


ROWS = [
    {
        "mask": mask,
        "target": str(t),
        "steps": t,
        "lr": 1e-3,
        "reached": em < 10,
        "set": name,
        "exact_match": em + t,
        "matches": em,
        "longest_run": em,
        "nll": 1.0,
    }
    for t in range(3)
    for mask, em in (("untouched", 47.0), ("top 0.1 %", 2.0))
    for name in ("target", "other memorized", "never seen")
]


def test_every_figure_draws_all_conditions_with_titles_and_units(results):
    figures = [
        plot_dose({n: results["recitation"][n] for n in ("memorized", "twin")}, [1, 2] * 10),
        plot_em_bins(results["recitation"]),
        plot_perturbation(results["perturbation"]),
        plot_weight_scores(results["gradients"]),
        plot_patch_layers(results["patching"]),
        plot_unlearning(ROWS),
    ]
    for drawing in figures:
        assert drawing.layout.title.text
        assert len(drawing.data) >= 2
        assert drawing.layout.yaxis.title.text or drawing.data[0].type == "heatmap"
    names = {trace.name for trace in figures[2].data if trace.name}
    assert names == {"memorized (A)", "never seen (C)", "never seen (C), own continuation", "A under the twin"}


def test_maps_beside_each_other_share_one_scale(results):
    shares = plot_weight_scores(results["gradients"]).data
    assert len({one.zmax for one in shares}) == 1
    assert all(np.asarray(one.z).sum() == pytest.approx(100) for one in shares)


def test_the_global_template_is_left_alone(results):
    import plotly.io as pio

    before = pio.templates.default
    plot_perturbation(results["perturbation"])
    assert pio.templates.default == before


def test_findings_say_yes_where_there_is_a_difference_and_no_where_there_is_none(results):
    rows = {row["fingerprint"].removesuffix(" (n = 20)"): row for row in findings(results)}
    for name in ("NLL rise per replaced prefix token, nats", "EM drop per replaced prefix token, tokens"):
        assert (rows[name]["differs from the twin"], rows[name]["differs from never seen"]) == ("yes", "yes")
    results["perturbation"]["memorized"] = results["perturbation"]["twin"]
    results["perturbation"]["control"] = results["perturbation"]["twin"]
    same = {row["fingerprint"].removesuffix(" (n = 20)"): row for row in findings(results)}
    for name in ("NLL rise per replaced prefix token, nats", "EM drop per replaced prefix token, tokens"):
        assert (same[name]["differs from the twin"], same[name]["differs from never seen"]) == ("no", "no")


def test_conditions_that_were_not_measured_are_named_not_left_out(results):
    del results["attention"]["control_own"]
    rows = findings(results)
    assert len({tuple(row) for row in rows}) == 1
    head = next(row for row in rows if row["fingerprint"].startswith("attention"))
    assert head["never seen (C), own continuation"] == "-"


def test_sets_are_summed_up_one_row_each(results):
    rows = recited_in_full(results["recitation"])
    assert [row["recited in full"] for row in rows] == [20, 0, 0, 0]
    assert rows[0]["set"] == "set A, all planted"


def test_the_head_is_not_judged_on_the_paragraphs_that_chose_it():
    """Pure noise: a head chosen and judged on the same rows would look more negative than the twin's."""
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(40):
        noise = {
            name: xr.Dataset({"spearman": (("paragraph", "query", "layer", "head"), rng.normal(size=(40, 1, 8, 8)))})
            for name in CONDITIONS
        }
        head = most_negative_head(noise["memorized"].isel(paragraph=slice(0, None, 2)))
        judged = (
            noise["memorized"]["spearman"].values[1::2, 0, *head] - noise["twin"]["spearman"].values[1::2, 0, *head]
        )
        _, low, high = bootstrap_mean(judged, seed=0)
        verdicts.append(low * high > 0)
    assert np.mean(verdicts) < 0.2


def test_pooled_quantities_equal_their_definitions():
    rise = np.zeros((1, 50))
    rise[0, :10] = 1.0
    one = xr.Dataset({"nll_rise": (("paragraph", "draw", "pos"), rise[:, None])})
    assert concentration(one).tolist() == [0.5]


def test_the_unlearning_summary_averages_targets():
    table = unlearning_summary(ROWS)
    assert table[0]["target: EM"] == "48.0"
    assert table[1]["weights that may move"] == "top 0.1 %"
