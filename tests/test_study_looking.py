import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_scores
from memhooks.localize.profile_contrasts import nll_matched, profile_contrasts
from memhooks.model.labelled import load_result, save_result
from memhooks.organism.paragraphs import load_controls, load_natural, load_planted
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.report.looking_sections import contrast_notes, contrast_rows
from memhooks.study import looking
from memhooks.study.interventions import ablation_stage
from memhooks.study.kept import Kept
from memhooks.study.looking import at_equal_loss, attention_stage, gradients_stage, partly_recited


@pytest.fixture
def scores(model):
    """Scores of two random sets of 12, and the sets."""
    tokens = torch.randint(101, (24, 24), generator=torch.Generator().manual_seed(3))
    sets = {
        name: Paragraphs(rows, n_prefix=12, ids=tuple(f"{name}{i}" for i in range(12)))
        for name, rows in zip(("memorized", "control_own"), tokens.split(12), strict=True)
    }
    return {name: weight_scores(model, rows) for name, rows in sets.items()}, sets


def test_partly_recited_are_those_planted_often_and_not_said_in_full(paragraphs):
    planted = Paragraphs(paragraphs.tokens, n_prefix=12, ids=tuple("abcdef"), counts=(7, 8, 8, 12, 16, 17))
    recited = np.array([False, False, True, False, False, False])
    found = partly_recited(planted, recited)
    assert found is not None
    assert found.ids == ("b", "d", "e")
    assert partly_recited(planted, np.ones(6, dtype=bool)) is None


def test_pairs_of_equal_loss_are_those_of_matching_and_marked(scores):
    results, sets = scores
    found = at_equal_loss(results, sets=sets, pooling="l2_gradient", seed=4)
    first, second, rows = nll_matched(*results.values(), *sets.values())
    matched = {"memorized": rows.one, "control_own": rows.other}
    expected = profile_contrasts(
        {"memorized": first, "control_own": second}, sets=matched, pooling="l2_gradient", seed=4
    )
    xr.testing.assert_equal(found, expected)
    assert found.attrs["matched"] == 1
    assert int(found["n_memorized"][0]) == len(rows.one)


def test_no_paragraph_of_equal_loss_is_kept_on_record(scores, tmp_path):
    results, sets = scores
    results["control_own"] = results["control_own"].assign(loss=results["control_own"]["loss"] + 50)
    found = at_equal_loss(results, sets=sets, pooling="max_gradient", seed=4)
    save_result(found, tmp_path / "found.nc")
    row = contrast_rows({"": load_result(tmp_path / "found.nc")})[0]
    assert row["memorized minus control"] == (
        "memorized (A) minus never seen (C), own continuation, pairs of equal loss"
    )
    assert row["memorized is"] == "no paragraph of equal loss"
    means = [float(one["loss"].mean()) for one in results.values()]
    assert row["NLL"] == f"{means[0]:.2f} / {means[1]:.2f}"


def test_other_errors_of_matching_are_not_swallowed(scores):
    results, sets = scores
    results["control_own"]["loss"][0] = np.nan
    with pytest.raises(InputError, match="the loss of the second set is NaN or infinite"):
        at_equal_loss(results, sets=sets, pooling="max_gradient", seed=4)


@pytest.fixture(scope="module")
def conditions(organism, twin):
    """Two paragraphs each, as the study has them."""
    memorized, control = load_planted("A", at_least=64).sample(2, seed=0), load_controls("prose").sample(2, seed=0)
    return {
        "memorized": (organism, memorized),
        "control": (organism, control),
        "control_own": (organism, looking.with_own_continuation(organism, control)),
        "twin": (twin, memorized),
    }


def test_the_gradients_of_two_paragraphs_each(conditions, tmp_path):
    sets = {"natural": load_natural(), "licence_never": load_controls("licence_never"), "partly": load_planted("A")}
    further, keep = {name: rows.sample(2, seed=0) for name, rows in sets.items()}, Kept(tmp_path / "all")
    gradients_stage(keep, conditions, further, seed=0)
    found = keep.results
    assert list(found["gradients"]) == [*conditions, "natural", "licence_never", "licence_own", "partly"]
    contrasts = found["gradient_contrasts"]
    pairs = [
        ("memorized", "control_own"),
        ("memorized", "licence_own"),
        ("natural", "licence_own"),
        ("partly", "control_own"),
        ("partly", "licence_own"),
    ]
    names = ["A", "natural", *(f"{one}, matched with {other}" for one, other in pairs)]
    assert list(contrasts) == [*names, *(f"{name}, l2_gradient" for name in names)]
    for name, table in contrasts.items():
        assert table.attrs["pooling"] == ("l2_gradient" if name.endswith("l2_gradient") else "max_gradient")
        assert ("matched" in table.attrs) == ("matched" in name)
    assert contrasts["A"]["row"].values.tolist() == [name for name in found["gradients"] if name != "memorized"]
    assert contrasts["A"]["paired"].values.tolist() == [False, False, True, False, False, False, False]
    rows = contrast_rows(contrasts)
    assert len(rows) == 2 * (7 + 2 + 5)
    assert len({(row["memorized minus control"], row["pooling"]) for row in rows}) == len(rows)
    assert contrast_notes(contrasts)[-1].startswith("The table holds 18 tests (18 raw or matched, 0 adjusted)")
    del further["partly"]
    without = Kept(tmp_path / "without")
    gradients_stage(without, conditions, further, seed=0)
    assert list(without.results["gradient_contrasts"]) == [name for name in contrasts if not name.startswith("partly")]


def test_attention_is_probed_with_the_clusters_of_near_duplicates(conditions, organism, tmp_path, monkeypatch):
    """Two of the three paragraphs are the same: the probe and the verdict are told."""
    asked = []
    known = conditions["memorized"][1].select([0, 0, 1])
    few = {name: (conditions[name][0], known) for name in ("memorized", "twin")} | {"control": conditions["control"]}
    real = looking.rare_token_attention

    def spy(model, rows, counts, **how):
        asked.append(how["clusters"].tolist())
        assert torch.equal(how["clusters"], clusters(rows))
        return real(model, rows, counts, **how, n_shuffles=5)

    monkeypatch.setattr(looking, "rare_token_attention", spy)
    monkeypatch.setattr(looking, "memorization_head", lambda *_, worth, **__: Verdict(worth))
    counts = torch.randint(1, 99, (organism.cfg.d_vocab,), generator=torch.Generator().manual_seed(0))
    keep = Kept(tmp_path, results={"specificity": {"heads": xr.Dataset({"worth": 1})}})
    attention_stage(keep, few, counts, seed=0)
    found = keep.results
    assert asked == [[0, 0, 1], [0, 0, 1], [0, 1]]
    assert set(found["attention"]) == set(found["attention_published"]) == {"memorized", "twin", "control"}
    assert found["attention_heads"]["memorized"].attrs["verdict"] == "in words"


class Verdict:
    """Stands for a `MemorizationHead` and keeps what it was told."""

    verdict = "in words"

    def __init__(self, table):
        self.table = table


def test_the_twin_is_a_further_control_of_what_a_head_is_worth(conditions, tmp_path):
    keep = Kept(tmp_path)
    ablation_stage(keep, conditions, load_controls("held_out").sample(2, seed=0), n_cumulative=1, seed=0)
    found = keep.results
    table, twin = found["specificity"]["heads"], found["ablation"]["twin"]["nll_rise"].mean("paragraph")
    names = [str(name) for name in table if str(name).startswith("p_more_than_")]
    assert names == [f"p_more_than_{name}" for name in ("control", "control_own", "held_out", "twin")]
    for layer, head in ((0, 1), (2, 0)):
        expected = float(twin.sel(layer=layer, head=head))
        assert float(table["twin"].sel(row=f"L{layer}H{head}")) == pytest.approx(expected, abs=1e-6)
    assert "p_more_than_twin" not in found["specificity"]["layers"]
