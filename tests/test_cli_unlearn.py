import json
import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
import torch
import xarray as xr

from memhooks.cli.unlearn import RETAIN_WEIGHTS, Localizer, Objective
from memhooks.cli.unlearn_sets import Asked, draw_sets
from memhooks.errors import InputError
from memhooks.localize.localizers import LOCALIZERS
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.unlearn.delta import load_delta
from memhooks.unlearn.objectives import OBJECTIVES
from memhooks.unlearn.retain_terms import RETAIN
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo

SMALL = ("--retained", "2", "--others", "3", "--held-out", "2", "--fraction", "0.02", "--steps", "6", "--lr", "0.01")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A model's folder, a twin's, ten paragraphs (it recites the first eight), and others that it does not."""
    folder = tmp_path_factory.mktemp("foreign")
    tiny_neo().save_pretrained(folder / "neo")
    tiny_neo(seed=1).save_pretrained(folder / "twin")
    tokens = torch.randint(101, (18, 60), generator=torch.Generator().manual_seed(0))
    recited = with_own_continuation(load_model(folder / "neo"), Paragraphs(tokens[:8], n_prefix=50))
    torch.save(torch.cat([recited.tokens, tokens[8:10]]), folder / "mine.pt")
    torch.save(tokens[10:], folder / "other.pt")
    return folder


@pytest.fixture(scope="module")
def loaded(foreign):
    return load_model(foreign / "neo")


def invoke_on(folder, *arguments):
    files = ["--paragraphs", folder / "mine.pt", "--control", folder / "other.pt"]
    return invoke("unlearn", "--model", folder / "neo", *files, *SMALL, *arguments)


def asked_of(folder, **changes):
    settings = {"paragraphs": str(folder / "mine.pt"), "control": str(folder / "other.pt"), "ids": (), "n": 2}
    settings |= {"retained": 2, "others": 3, "held_out": 2, "seed": 0, "allow_shared": False}
    return Asked(**settings | changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--control", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--control", "none"], "--control cannot be none: unlearning needs text to forget and never-seen text"),
        (["--paragraphs", "none"], "--paragraphs cannot be none"),
        (["--control", "A"], "--paragraphs and --control must be different texts, got A for both"),
        (["--model", "EleutherAI/gpt-neo-125M"], "the bundled set A belongs to organism and organism-twin"),
        (["--twin", "organism"], "--twin must be another model than --model"),
        (["--fraction", "0"], "--fraction must lie in (0, 1], got 0.0"),
        (["--fraction", "1.5"], "--fraction must lie in (0, 1], got 1.5"),
        (["--fraction", "nan"], "--fraction must lie in (0, 1], got nan"),
        (["--lr", "0"], "--lr must be positive, got 0.0"),
        (["--retain-weight", "-1"], "--retain-weight must be at least 0, got -1.0"),
        (["--goal-em", "-1"], "--goal-em must be at least 0, got -1.0"),
        (["--goal-run", "nan"], "--goal-run must be at least 0, got nan"),
        (["--goal-nll", "inf"], "--goal-nll must be at least 0, got inf"),
        (["--most-kl", "-1"], "--most-kl must be at least 0, got -1.0"),
        (["--ids", "A300", "--n", "2"], "give --ids to choose the paragraphs or --n to draw them, not both"),
        (["--delta", "a.pt"], "a.pt must end in .safetensors"),
        (["--checkpoint", "a.pt"], "a.pt must end in .safetensors"),
        (["--delta", "a.safetensors", "--checkpoint", "a.safetensors"], "must be different files, got a.safetensors"),
        (["--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
        (["--out", "a.csv"], "a.csv must end in .nc"),
        (["--out", "/proc/nowhere/a.nc"], "cannot write to /proc/nowhere"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["unlearn", *arguments], message)


def test_help_and_refusals_load_no_torch():
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom memhooks import cli\n"
        "print(CliRunner().invoke(cli.app, ['unlearn', '--help']).stdout)\n"
        "for wrong in (['--fraction', '2'], ['--control', 'nowhere.pt'], ['--delta', 'a.pt']):\n"
        "    assert CliRunner().invoke(cli.app, ['unlearn', *wrong]).exit_code == 1\n"
        "sys.exit(bool({'torch', 'transformers', 'plotly', 'numpy', 'xarray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    for text in ("Examples ", "Caveats: ", "EM counts the tokens recited before the first miss", "memhooks attack"):
        assert text in words, text


def test_the_command_offers_every_localizer_objective_and_retain_term():
    names = tuple(one.__name__ for one in LOCALIZERS)
    assert get_args(Localizer) == (*names, "all", "random")
    assert get_args(Objective) == tuple(OBJECTIVES)
    assert set(RETAIN_WEIGHTS) == {*RETAIN, "none"}


def test_sets_share_no_text_and_only_what_is_recited_is_forgotten_or_kept(foreign, loaded):
    for seed in range(4):
        drawn = draw_sets(loaded, asked_of(foreign, seed=seed))
        assert [len(one) for one in drawn] == [2, 4, 3, 2]
        rows = [tuple(row) for one in drawn for row in one.tokens.tolist()]
        assert len(set(rows)) == len(rows)
        full = [recitation(loaded, one)["full_match"].values.tolist() for one in drawn]
        assert full == [[True] * 2, [True, True, False, False], [True] * 3, [False] * 2]


def test_no_near_duplicates_are_drawn_twice_unless_allowed(foreign, loaded, tmp_path):
    tokens = torch.load(foreign / "mine.pt")[:8]
    tokens[4:, 5:27] = tokens[:4, 5:27]  # four clusters of two, where own continuations follow again
    twice = with_own_continuation(loaded, Paragraphs(tokens, n_prefix=50)).tokens
    torch.save(twice, tmp_path / "twice.pt")
    few = {"paragraphs": str(tmp_path / "twice.pt"), "n": 1, "retained": 1, "others": 2}
    drawn = draw_sets(loaded, asked_of(foreign, **few))
    together = drawn.forget.joined(drawn.retain.select([0]), drawn.others)
    assert len(clusters(together).unique()) == 4
    message = "has 4 usable paragraphs that the model recites in full, one per cluster .* but 5 are needed"
    with pytest.raises(InputError, match=message):
        draw_sets(loaded, asked_of(foreign, **few | {"others": 3}))
    allowed = draw_sets(loaded, asked_of(foreign, **few | {"others": 6, "allow_shared": True}))
    assert len(allowed.others) == 6


def test_paragraphs_are_forgotten_by_name(foreign, loaded):
    drawn = draw_sets(loaded, asked_of(foreign, ids=("3", "1", "3")))
    assert drawn.forget.ids == ("3", "1")
    assert not {"3", "1"} & {*drawn.retain.ids[:2], *drawn.others.ids}
    with pytest.raises(InputError, match=r"has no paragraph 'A300'; its ids are 0, 1, 2, \.\.\."):
        draw_sets(loaded, asked_of(foreign, ids=("1", "A300")))
    with pytest.raises(InputError, match="the model does not recite 8, 9 in full, so there is nothing to forget"):
        draw_sets(loaded, asked_of(foreign, ids=("8", "0", "9")))


def test_controls_that_cannot_be_are_refused(foreign, loaded, tmp_path):
    with pytest.raises(
        InputError, match=r"has 8 paragraphs that the model does not recite, .* but 9 are needed; lower"
    ):
        draw_sets(loaded, asked_of(foreign, held_out=7))
    mine, other = torch.load(foreign / "mine.pt"), torch.load(foreign / "other.pt")
    torch.save(other[:, :55], tmp_path / "short.pt")
    with pytest.raises(InputError, match=r"short.pt has paragraphs of 55 tokens, .*mine.pt of 60"):
        draw_sets(loaded, asked_of(foreign, control=str(tmp_path / "short.pt")))
    other[0, 10:45] = mine[0, 10:45]  # never-seen text that holds most of paragraph 0
    torch.save(other[:4], tmp_path / "near.pt")
    near = {"control": str(tmp_path / "near.pt"), "ids": ("0",)}
    with pytest.raises(InputError, match=r"forget and .* share near-duplicates .*or pass --allow-shared"):
        draw_sets(loaded, asked_of(foreign, **near))
    assert len(draw_sets(loaded, asked_of(foreign, **near, allow_shared=True)).held_out) == 2


def test_numbers_are_those_of_the_saved_change_and_files_hold_the_results(foreign, loaded, tmp_path):
    files = {name: tmp_path / name for name in ("a.safetensors", "a.nc", "a.html")}
    options = ["--delta", files["a.safetensors"], "--out", files["a.nc"], "--figure", files["a.html"], "--n", "2"]
    found = json.loads(invoke_on(foreign, *options, "--twin", foreign / "twin", "--json").stdout)
    change = load_delta(files["a.safetensors"])
    rows = load_paragraphs_of(foreign).select([int(name) for name in found["forget"]])
    summary = {row["measure"]: row for row in found["summary"]}
    for column, context in (("before", None), ("after", change)):
        if context is not None:
            context.apply_(loaded)
        result = recitation(loaded, rows)
        for measure, name in (("exact match", "exact_match"), ("longest run", "longest_run"), ("NLL", "nll")):
            assert summary[f"forget: {measure}"][column][0] == pytest.approx(float(result[name].mean()), abs=1e-5)
    change.revert_(loaded)
    twin_nll = float(recitation(load_model(foreign / "twin"), rows)["nll"].mean())
    assert summary["forget: NLL"]["twin"][0] == pytest.approx(twin_nll, abs=1e-5)
    em, run, nll = found["goals"]
    assert [em["at_most"], run["at_most"], nll["at_least"]] == [2.0, 10.0, pytest.approx(twin_nll / 2, abs=1e-5)]
    assert nll["met"] is (summary["forget: NLL"]["after"][0] >= nll["at_least"])
    assert found["paragraphs"] == {"forget": 2, "retain": 4, "others": 3, "held_out": 2}
    n_weights = sum(one.numel() for name, one in loaded.named_parameters() if ".W_" in name and "blocks" in name)
    assert found["mask"]["weights"] == len(change) == round(0.02 * n_weights)
    assert sum(found["mask"]["layers"].values()) == pytest.approx(sum(found["mask"]["matrices"].values())) == 1
    assert found["delta"]["after"] == change.after
    with xr.open_datatree(files["a.nc"], engine="h5netcdf") as tree:
        assert set(tree.children) == {"summary", "forget", "others", "held_out", "steps"}
        steps = tree["steps"].to_dataset()
        assert steps["step"].values.tolist() == [one["step"] for one in found["steps"]]
        assert steps["forget_nll"].values.tolist() == [one["forget_nll"] for one in found["steps"]]
    page = files["a.html"].read_text()
    assert page.count('class="plotly-graph-div"') == 3


def load_paragraphs_of(folder):
    return Paragraphs(torch.load(folder / "mine.pt"), n_prefix=50)


def test_goals_may_be_anything_and_without_a_twin_never_seen_text_sets_one(foreign):
    found = json.loads(invoke_on(foreign, "--json").stdout)
    held_out = next(row for row in found["summary"] if row["measure"] == "held out: NLL")
    goal = found["goals"][2]
    assert goal["at_least"] == pytest.approx(held_out["before"][0] / 2)
    assert goal["why"] == "half of never-seen text's"
    found = json.loads(invoke_on(foreign, "--json", "--goal-nll", "0", "--goal-em", "10", "--goal-run", "10").stdout)
    assert [goal["goal"] for goal in found["goals"]] == ["forget EM", "longest run"]
    assert [one["step"] for one in found["steps"]] == [0]  # all is met before the first step
    assert found["delta"]["moved"] == 0
    found = json.loads(invoke_on(foreign, "--json", "--goal-nll", "90", "--most-kl", "0").stdout)
    assert found["kept_step"] == 0  # the first step is too much already
    assert [goal["met"] for goal in found["goals"]] == [False, True, False]  # its ten tokens are a run of 10


@pytest.mark.parametrize(("localizer", "weights"), [("all", 1.0), ("random", 0.02), ("fisher_ratio", 0.02)])
def test_masks_are_chosen_by_name(foreign, localizer, weights):
    found = json.loads(invoke_on(foreign, "--localizer", localizer, "--steps", "1", "--json").stdout)
    assert found["mask"]["share"] == pytest.approx(weights, abs=1e-3)
    assert found["mask"]["localizer"] == localizer


def test_a_killed_run_goes_on_and_ends_the_same(foreign, tmp_path, monkeypatch):
    goals = ["--goal-em", "10", "--goal-run", "10", "--goal-nll", "90", "--retain", "none"]
    options = [*goals, "--checkpoint", tmp_path / "c.safetensors"]
    whole = json.loads(invoke_on(foreign, "--json", *goals).stdout)

    from memhooks.unlearn.run import Run

    own, seen = Run.update_, []

    def killed(self, gradient):
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt
        own(self, gradient)

    monkeypatch.setattr(Run, "update_", killed)
    with suppress(KeyboardInterrupt):
        assert invoke_on(foreign, *options).exit_code  # typer turns Ctrl-C into an exit code
    assert len(seen) == 6
    monkeypatch.setattr(Run, "update_", own)
    done = invoke_on(foreign, *options, "--delta", tmp_path / "d.safetensors")
    assert "Resumed at step 5. Ended at step 6: no steps are left." in done.stdout
    assert load_delta(tmp_path / "d.safetensors").after == whole["delta"]["after"]
    with pytest.raises(InputError, match="belongs to a run with another configuration"):
        invoke_on(foreign, *options, "--seed", "5")


def test_a_step_size_that_explodes_is_refused_by_name(foreign):
    with pytest.raises(InputError, match=r"not finite at step .* use a smaller --lr than 1e"):
        invoke_on(foreign, "--lr", "1e37")


def test_what_is_printed_fits_80_columns_and_says_what_moved_what_it_cost_and_what_to_do(
    foreign, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    saved = tmp_path / "d.safetensors"
    done = invoke_on(foreign, "--twin", foreign / "twin", "--goal-nll", "90", "--n", "2")
    tables = [line for line in done.stdout.splitlines() if line.startswith(" ")]
    assert all(len(line.rstrip()) <= 80 for line in tables)
    for text in (
        "may move (gradient): ",
        "every other weight of the model is bit-identical (compared)",
        "Ended at step 6: no steps are left. Kept: step ",
        "Kept: other recited paragraphs",
        "Goal, forget NLL at least 90 (as asked): NOT met, try more --steps",
        "--delta change.safetensors saves the change",
    ):
        assert text in done.stdout, text
    assert "memhooks apply" not in done.stdout
    done = invoke_on(foreign, "--delta", saved)
    assert f"memhooks apply {saved} --model {foreign / 'neo'} --out FOLDER" in done.stdout
    given = f"--delta {saved} --model {foreign / 'neo'} --paragraphs {foreign / 'mine.pt'}"
    assert f"memhooks attack {given}" in done.stdout


def test_one_paragraph_has_no_intervals_but_still_valid_json(foreign):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(invoke_on(foreign, "--json", "--measures", "all").stdout, parse_constant=refuse)
    row = found["summary"][0]
    assert row["measure"] == "forget: exact match"
    assert row["before"] == [10.0, None, None]
    assert row["twin"] == [None, None, None]
    assert math.isfinite(found["steps"][-1]["retain_kl"])


def test_compare_runs_what_is_missing_and_prints_the_page(monkeypatch, tmp_path):
    import memhooks.study.comparison.comparison as module
    import memhooks.study.comparison.report as report

    seen = []

    class Fake:
        def __init__(self, folder, *, n_workers):
            seen.append((folder, n_workers))

        def run(self):
            seen.append("run")

    monkeypatch.setattr(module, "Comparison", Fake)
    monkeypatch.setattr(report, "write_comparison", lambda one: tmp_path / "page.html", raising=False)
    done = invoke("unlearn", "--compare", "--runs-folder", tmp_path, "--workers", "1")
    assert seen == [(tmp_path, 1), "run"]
    assert Path(done.stdout.strip()) == tmp_path / "page.html"
