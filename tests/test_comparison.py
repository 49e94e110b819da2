import json
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation
from memhooks.model.provenance import model_hash
from memhooks.study.comparison.comparison import Comparison
from memhooks.study.comparison.methods import METHODS, Method
from memhooks.study.comparison.report import table_rows, write_comparison
from memhooks.study.comparison.sets import Bench, Sizes
from memhooks.study.comparison.table import comparison_table, missed_goals
from memhooks.study.comparison.trials import GOALS, Trial, misses
from memhooks.unlearn.recipe import Budget

TINY = Sizes(
    n_tuned=2,
    n_judged=2,
    n_together=2,
    n_retain=4,
    n_others=3,
    n_others_judged=3,
    n_held_out=2,
    n_held_out_judged=2,
    n_seeds=1,
    n_steps=2,
    n_steps_together=2,
)


def few(*names):
    return tuple(Method(one.name, one.run, one.settings[:1]) for one in METHODS if one.name in names)


class InThisProcess(ProcessPoolExecutor):
    """No processes: the bench of this one runs each trial at once. The next run has true processes."""

    def __init__(self, n_workers, context, *, initializer, initargs):
        pass

    def submit(self, run, trial):
        done = Future()
        done.set_result(run(trial))
        return done

    def shutdown(self, *, wait=True):
        pass


@pytest.fixture(scope="module", autouse=True)
def recited_once():
    """Every bench asks how the organism recites set A; here it is measured once."""
    found = []

    def recited(model, planted):
        found.extend([recitation(model, planted)] if not found else [])
        return found[0]

    with pytest.MonkeyPatch.context() as once:
        once.setattr("memhooks.study.comparison.sets.recitation", recited)
        yield


def bench_of(sizes, organism, twin):
    found = Bench(sizes, 0)
    found.__dict__.update(model=organism, twin=twin)  # loaded once for all tests
    return found


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, organism, twin):
    found = Comparison(
        tmp_path_factory.mktemp("comparison"), TINY, few("top 0.1 %", "published recipe as is"), n_workers=1
    )
    with pytest.MonkeyPatch.context() as here:
        here.setattr("memhooks.study.comparison.comparison.ProcessPoolExecutor", InThisProcess)
        here.setattr("memhooks.study.comparison.comparison._BENCH", [bench_of(TINY, organism, twin)])
        found.run()
    return found


def test_a_comparison_runs_resumes_and_writes_its_table(comparison, monkeypatch):
    rows = {path.name: path.read_text() for path in (comparison.folder / "trials").glob("*.json")}
    # 2 methods: 2 tuning paragraphs and one joint set; 2 judged paragraphs and one joint set.
    assert len(rows) == 2 * (2 + 1) + 2 * (2 + 1)
    lost = sorted(rows)[-1]
    (comparison.folder / "trials" / lost).unlink()
    judged = comparison.run()
    again = {path.name: path.read_text() for path in (comparison.folder / "trials").glob("*.json")}
    assert set(again) == set(rows)
    for name, text in rows.items():
        one, other = json.loads(text), json.loads(again[name])
        assert one | {"seconds": 0} == other | {"seconds": 0}
        assert name == lost or one == other  # only the missing one was run
    assert len(judged) == 6
    page = write_comparison(comparison).read_text("utf8")
    assert "top 0.1 %" in page
    assert "| published recipe as is |" in (comparison.folder / "comparison.md").read_text("utf8")
    published = [row for row in judged if row["method"] == "published recipe as is"]
    assert all(row["share"] > 0.99 for row in published)  # its mask is of 0.1 %
    assert all(0 < row["share"] <= 0.00101 for row in judged if row["method"] == "top 0.1 %")


def test_another_comparison_does_not_mix_in(comparison):
    other = Comparison(comparison.folder, replace(TINY, n_steps=3), comparison.methods)
    with pytest.raises(InputError, match="holds a comparison with other settings or versions"):
        other.run()


@pytest.fixture(scope="module")
def bench(organism, twin):
    return bench_of(Sizes(n_steps=1), organism, twin)


def test_no_paragraph_serves_two_ends(bench):
    ids = [name for one in bench.memorized.values() for name in one.ids]
    assert len(ids) == len(set(ids)) == 8 + 24 + 24 + 16 + 24
    unread = [name for one in bench.unread.values() for name in one.ids]
    assert len(unread) == len(set(unread)) == 24 + 10 + 24
    assert len(bench.retain(0)) == 24
    assert set(bench.retain(0).ids) != set(bench.retain(1).ids)


def test_too_few_recited_paragraphs_are_refused(bench):
    larger = bench_of(Sizes(n_judged=1000), bench.model, bench.twin)
    with pytest.raises(InputError, match="recited paragraphs are needed, there are"):
        _ = larger.memorized


@pytest.mark.parametrize("method", [one.name for one in METHODS])
def test_every_method_leaves_the_model_as_it_was_and_moves_what_it_says(method, bench, monkeypatch):
    monkeypatch.setattr("memhooks.study.comparison.methods.N_EPOCHS", 2)
    forget = bench.memorized["tuned"].select([0])
    before = model_hash(bench.model)
    one = next(one for one in METHODS if one.name == method)
    edited = one.run(bench, forget, one.settings[0], 0, Budget(forget_nll=50.0))
    assert model_hash(bench.model) == before == edited.delta.before
    limits = {"all weights": 1.0, "published recipe as is": 1.0, "top 1 %": 0.01, "BalancedSubnet, dropped": 0.001}
    assert 0 < edited.share <= limits.get(method, 0.0014) * 1.001
    assert edited.share * 6_291_456 == pytest.approx(edited.delta.moved)


def made_row(**changes):
    row = {
        "phase": "judge", "method": "m", "setting": 0, "size": 1, "number": 0, "seed": 0, "seconds": 1.0, "n_steps": 3,
        "share": 0.001, "norm": 1.0, "ids": ["a"], "others_lost": [0.0, 1.0], "exact_match": [0.0],
        "longest_run": [4.0], "nll": [3.0], "twin_nll": [4.0],
        "summary": {
            "held out: perplexity ratio": 1.01, "held out: KL": 0.1,
            "held out: exact match of its own continuation": 40.0,
        },
    }  # fmt: skip
    return row | changes


def test_misses_are_zero_only_where_every_goal_is_met():
    assert misses(made_row(others_lost=[0.0], summary=made_row()["summary"] | {"held out: perplexity ratio": 1.0})) == 0
    assert misses(made_row()) < 1e-3
    for change in (
        {"exact_match": [12.0]},
        {"longest_run": [20.0]},
        {"nll": [1.0]},
        {"others_lost": [12.0]},
        {"summary": made_row()["summary"] | {"held out: perplexity ratio": 1.22}},
    ):
        assert misses(made_row(**change)) > 0.19


def test_the_table_averages_paragraphs_once_and_names_the_missed_goals():
    rows = [
        made_row(
            size=2, ids=["a", "b"], exact_match=[0.0, 10.0], longest_run=[1.0, 9.0], nll=[3.0, 3.0], twin_nll=[4.0, 4.0]
        ),
        made_row(
            size=2, ids=["b", "c"], exact_match=[20.0, 6.0], longest_run=[9.0, 9.0], nll=[3.0, 3.0], twin_nll=[4.0, 4.0]
        ),
        made_row(method="n", ids=["a"]),
    ]
    table = comparison_table(rows, seed=0)
    assert table["row"].values.tolist() == ["n, 1", "m, 2"]
    assert float(table["exact_match"][1]) == pytest.approx(9.0)
    assert missed_goals(table, 1) == ["exact match"]
    assert missed_goals(table, 0) == []
    assert int(table["met"][0]) == 5
    assert np.isnan(table["exact_match_low"][0])  # one paragraph has no interval


def test_goals_are_those_of_the_table(comparison):
    table = comparison_table([row for row in comparison.rows() if row["phase"] == "judge"], seed=0)
    printed = table_rows(table, 1, comparison)
    assert {row["weights and objective"] for row in printed} == {"top 0.1 %", "published recipe as is"}
    assert GOALS["others_lost"] == 2.0


def test_trials_have_names_of_their_own():
    keys = {Trial("tune", one.name, 0, size, 3, 0).key for one in METHODS for size in (1, 8)}
    assert len(keys) == 2 * len(METHODS)
