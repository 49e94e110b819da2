"""Trials are run once each, resumed, never mixed; tables are those of a plain loop."""

import itertools
import json

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.localizers import activation_norm, gradient
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.injection import regions, trial, writing
from memhooks.truth.injection.bench import Bench, Plan, one_per_cluster
from memhooks.truth.injection.candidates import random_scores, weight_outlier
from memhooks.truth.injection.regions import Region
from memhooks.truth.injection.scoring import Scoring
from memhooks.truth.injection.tables import deletion_table, recall_table
from memhooks.truth.injection.trial import GOLD, INJECTION, Trial, trials

PLAN = Plan(
    regions=("head", "easy", "decoy", "natural"),
    n_injections=2, n_checks=1, n_natural=1, n_retain=1, n_others=1, n_language=1, n_steps=3,
)  # fmt: skip
UNTIMED = ("seconds",)


@pytest.fixture
def texts(model):
    tokens = torch.randint(101, (9, 24), generator=torch.Generator().manual_seed(5))
    return Paragraphs(tokens[:6], 12), with_own_continuation(model, Paragraphs(tokens[6:], 12))


@pytest.fixture
def bench(model, texts, monkeypatch):
    """What counts as written is easy to reach here: the scoring is tested, not the writing."""
    monkeypatch.setattr(writing, "EARLY", 100.0)
    monkeypatch.setattr(writing, "SOLVED", 100.0)
    after_one_step = itertools.cycle([False, True])
    monkeypatch.setattr(writing, "_recited", lambda _: next(after_one_step))
    monkeypatch.setattr(writing, "_refuse_recited", lambda *_: None)
    return Bench(model, PLAN, *texts, localizers=(gradient, activation_norm, weight_outlier, random_scores))


def plain(row):
    """A row without its times."""
    kept = {name: value for name, value in row.items() if name not in UNTIMED}
    kept["lines"] = [{name: value for name, value in line.items() if name not in UNTIMED} for line in row["lines"]]
    return json.loads(json.dumps(kept))


def test_a_killed_scoring_goes_on_and_gives_the_same(bench, tmp_path, monkeypatch):
    fingerprint = model_hash(bench.model)
    whole = Scoring(tmp_path / "whole", lambda: bench).run()
    assert model_hash(bench.model) == fingerprint
    assert [row["number"] for row in whole] == [one.number for one in trials(PLAN)]
    ran, run = [], Trial.run

    def killed(self, own):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(self.key)
        return run(self, own)

    monkeypatch.setattr(Trial, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        Scoring(tmp_path / "killed", lambda: bench).run()
    assert len(list((tmp_path / "killed" / "trials").glob("*.json"))) == 2
    again = []
    monkeypatch.setattr(Trial, "run", lambda self, own: again.append(self.key) or run(self, own))
    resumed = Scoring(tmp_path / "killed", lambda: bench).run()
    assert not set(again) & set(ran)
    assert len(again) == len(whole) - 2
    assert list(map(plain, resumed)) == list(map(plain, whole))

    other = Bench(bench.model, Plan(**(vars(PLAN) | {"seed": 1})), bench.unread, bench.recited, bench.localizers)
    with pytest.raises(InputError, match="holds a scoring with other settings"):
        Scoring(tmp_path / "killed", lambda: other).run()
    (tmp_path / "killed" / "trials" / "head-000.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        Scoring(tmp_path / "killed", lambda: bench).run()
    with pytest.raises(InputError, match="n_workers must be at least 1"):
        Scoring(tmp_path / "killed", lambda: bench, n_workers=0).run()


def test_tables_equal_plain_means(bench, tmp_path):
    rows = Scoring(tmp_path, lambda: bench).run()
    table = recall_table(rows, seed=0)
    for label in table["row"].values:
        region, moment, localizer = label.split(", ")
        lines = [
            line for row in rows if row["region"] == region for line in row["lines"]
            if (line["moment"], line["localizer"]) == (moment, localizer)
        ]  # fmt: skip
        one = table.sel(row=label)
        assert int(one["n"]) == len(lines)
        if any(line["applies"] for line in lines):
            assert float(one["recall"]) == pytest.approx(np.mean([line["recall"] for line in lines]), abs=1e-9)
            blind = np.mean([line["random_recall"] for line in lines])
            assert float(one["difference"]) == pytest.approx(float(one["recall"]) - blind, abs=1e-9)
        else:
            assert (region, localizer) == ("head", "activation_norm") or label.endswith("early, weight_change")
            assert np.isnan(one["recall"])
            assert np.isnan(one["p"])
    assert {name.split(", ")[2] for name in table["row"].values} >= {"weight_change", "gradient"}
    assert float(table.sel(row="easy, early, weight_outlier")["recall"]) > 0.9
    assert set(table["region"].values) == {"head", "easy", "decoy"}
    assert np.isfinite(table.sel(row="decoy, solved, weight_outlier")["decoy_recall"])
    assert np.isnan(table.sel(row="head, solved, weight_outlier")["decoy_recall"])

    lost = deletion_table(rows, seed=0)
    natural = next(row for row in rows if row["region"] == "natural")
    line = next(one for one in natural["lines"] if one["localizer"] == "gradient")
    one = lost.sel(row="natural, solved, gradient")
    assert float(one["target_nll_rise"]) == pytest.approx(line["lost"]["target"][0], abs=1e-9)
    expected = line["lost"]["target"][0] - line["lost"]["others"][0]
    assert float(one["selectivity"]) == pytest.approx(expected, abs=1e-9)
    assert {f"head, solved, {name}" for name in (*GOLD, INJECTION)} <= set(lost["row"].values)
    head = [row["gold"][GOLD[0]]["others"][1] for row in rows if row["region"] == "head"]
    assert float(lost.sel(row=f"head, solved, {GOLD[0]}")["others_em_drop"]) == pytest.approx(np.mean(head), abs=1e-9)


def test_a_failed_injection_is_counted_and_left_out(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SOLVED", 0.0)
    rows = Scoring(tmp_path, lambda: bench).run()
    assert [row["failed"] for row in rows] == [row["region"] != "natural" for row in rows]
    with pytest.raises(InputError, match="no injection succeeded"):
        recall_table(rows, seed=0)
    assert set(deletion_table(rows, seed=0)["region"].values) == {"natural"}
    with pytest.raises(InputError, match="nothing was deleted"):
        deletion_table([row for row in rows if row["failed"]], seed=0)


def test_what_cannot_be_planned_is_refused(model, texts):
    with pytest.raises(InputError, match=r"regions are .* got nowhere"):
        Plan(regions=("nowhere",))
    with pytest.raises(InputError, match=r"regions are .* got none"):
        Plan(regions=())
    with pytest.raises(InputError, match="n_steps must be at least 1, got 0"):
        Plan(n_steps=0)
    with pytest.raises(InputError, match="n_learned must be at least 0"):
        Plan(n_learned=-1)
    with pytest.raises(InputError, match="52 never-read paragraphs are needed"):
        Bench(model, Plan(), *texts)
    with pytest.raises(InputError, match="2 recited paragraphs are needed, one per cluster"):
        Bench(model, PLAN, texts[0], texts[1].select([0]))
    with pytest.raises(InputError, match="recites all of the text that it should never have read"):
        Bench(model, PLAN, texts[1], texts[1])


def test_one_per_cluster_drops_copies(paragraphs):
    twice = paragraphs.joined(paragraphs)
    assert sorted(map(tuple, one_per_cluster(twice, 0).tokens.tolist())) == sorted(
        map(tuple, paragraphs.tokens.tolist())
    )


def test_every_region_has_its_own_seed():
    seeds = [one.seed for one in trials(Plan(n_injections=100, n_checks=100, n_natural=100))]
    assert len(set(seeds)) == len(seeds)
    assert list(regions.REGIONS) == ["random", "neurons", "head", "decoy", "easy"]
    assert isinstance(regions.REGIONS["easy"], Region)
    assert trial.REFERENCE == "weight_change"
