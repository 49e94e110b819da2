import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.measure.continuations import perturbed_continuations
from memhooks.measure.pairs import load_pairs, make_pairs
from memhooks.measure.perturbation import perturb
from memhooks.measure.perturbation_statistics import drop_by_position, perturbation_statistics
from memhooks.measure.recitation import with_own_continuation
from memhooks.measure.replacements import frequency_matched, from_paragraphs
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from tests.command_line import assert_refused, invoke


@pytest.fixture
def foreign(tmp_path, neo):
    """A foreign model's folder, with two files of paragraphs for it (it recites the first) and corpus counts."""
    neo.save_pretrained(tmp_path / "neo")
    tokens = torch.randint(101, (8, 60), generator=torch.Generator().manual_seed(0))
    recited = with_own_continuation(load_model(tmp_path / "neo"), Paragraphs(tokens[:4], n_prefix=50))
    torch.save(recited.tokens, tmp_path / "mine.pt")
    torch.save(tokens[4:], tmp_path / "other.pt")
    np.save(tmp_path / "counts.npy", np.arange(101))
    return tmp_path


def invoke_on(folder, *arguments):
    files = ["--paragraphs", folder / "mine.pt", "--control", folder / "other.pt"]
    return invoke("perturb", "--model", folder / "neo", *files, *arguments)


def rows_of(folder):
    files = {"memorized": "mine.pt", "control": "other.pt"}
    return {name: Paragraphs(torch.load(folder / file), n_prefix=50) for name, file in files.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--model", "EleutherAI/gpt-neo-125M"], "the bundled set A belongs to organism and organism-twin"),
        (["--replace", "frequency", "--model", "x"], "--replace frequency needs --counts FILE.npy"),
        (["--replace", "control", "--control", "none"], "--replace control takes tokens from the control"),
        (["--cumulative", "--decode"], "--decode and --pairs need one replaced token at a time"),
        (["--cumulative", "--pairs", "pairs.nc"], "--decode and --pairs need one replaced token at a time"),
        (["--counts", "nowhere.npy"], "no counts file at nowhere.npy"),
        (["--counts", "README.md"], "README.md must end in .npy"),
        (["--pairs", "pairs.pt"], "pairs.pt must end in .nc"),
        (["--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
        (["--out", "/proc/nowhere/a.nc"], "cannot write to /proc/nowhere"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["perturb", *arguments], message)


@pytest.mark.parametrize("command", ["perturb", "patch", "ablate"])
def test_help_loads_no_torch_and_says_what_the_control_is_for(command):
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom memhooks import cli\n"
        f"print(CliRunner().invoke(cli.app, ['{command}', '--help']).stdout)\n"
        "sys.exit(bool({'torch', 'transformers', 'plotly', 'numpy', 'xarray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Caveats: " in done.stdout
    assert "that the model does not recite" in " ".join(done.stdout.split())


def test_tables_on_the_organism_fit_into_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = invoke("perturb", "--n", "3", "--any")
    assert done.exit_code == 0
    assert "organism; memorized: 3 of A, control: 3 of C; replacement: uniform" in done.stdout
    for text in ("  given count", "share of the 5 worst", "by chance up to", "replaced by", " p=0."):
        assert text in done.stdout, text
    assert max(map(len, done.stdout.splitlines()[1:])) <= 80


def test_json_agrees_with_the_functions_and_files_are_written(foreign):
    outputs = ["--out", foreign / "a.nc", "--pairs", foreign / "pairs.nc", "--figure", foreign / "a.html"]
    done = invoke_on(foreign, "--counts", foreign / "counts.npy", "--decode", "--json", *outputs)
    found = json.loads(done.stdout)
    model = load_model(foreign / "neo")
    rows = rows_of(foreign)
    effects = {name: perturb(model, one, seed=0) for name, one in rows.items()}
    for name, one in rows.items():
        table = perturbation_statistics(effects[name], one, torch.arange(101), seed=0)
        assert [row["statistic"] for row in found["statistics"]] == table["row"].values.tolist()
        assert [row[name][0] for row in found["statistics"]] == pytest.approx(table["estimate"].values, rel=1e-4)
        profile = drop_by_position(effects[name], one, seed=0)
        for row in found["positions"]:
            expected = [float(profile[end][row["position"]]) for end in ("mean", "low", "high")]
            assert row[name] == pytest.approx(expected, rel=1e-4)
    means = [row["memorized"][0] for row in found["positions"]]
    assert means == sorted(means, reverse=True)
    decoded = perturbed_continuations(model, rows["memorized"], effects["memorized"])
    own = with_own_continuation(model, rows["control"])
    other = perturbed_continuations(model, own, perturb(model, own, seed=0))
    for row, variable in zip(found["decoded"], ("dies", "resumes", "match"), strict=True):
        assert row["memorized"][0] == pytest.approx(float(decoded[variable].mean()))
        assert row["control_own"][0] == pytest.approx(float(other[variable].mean()))
    assert found["worst"][0]["NLL rise"] == pytest.approx(float(effects["memorized"]["nll_rise"].max()), rel=1e-4)
    pairs = load_pairs(foreign / "pairs.nc")
    assert torch.equal(pairs.position, make_pairs(model, rows["memorized"], effects["memorized"]).position)
    page = (foreign / "a.html").read_text()
    assert "Which positions carry the continuation?" in page
    assert "Do rare tokens carry more?" in page
    with xr.open_datatree(foreign / "a.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"memorized", "control", "control_own"}
        assert set(tree["memorized"].children) == {"effect", "statistics", "by_position", "by_rarity", "decoded"}
        np.testing.assert_allclose(tree["control"]["effect"]["nll_rise"], effects["control"]["nll_rise"], atol=1e-5)


def test_without_counts_what_needs_them_is_left_out_and_said(foreign):
    printed = invoke_on(foreign).stdout
    assert "correlations with token count are left out; see --counts" in printed
    assert "position" in printed
    assert "given count" not in printed
    assert printed.count("token count") == 1


@pytest.mark.parametrize("kind", ["frequency", "control"])
def test_replacements_are_those_asked_for(foreign, kind):
    found = json.loads(
        invoke_on(foreign, "--counts", foreign / "counts.npy", "--replace", kind, "--draws", "2", "--json").stdout
    )
    rows = rows_of(foreign)
    put = frequency_matched(torch.arange(101)) if kind == "frequency" else from_paragraphs(rows["control"])
    effect = perturb(load_model(foreign / "neo"), rows["memorized"], seed=0, replace=put, n_draws=2)
    assert found["statistics"][0]["memorized"][0] == pytest.approx(float(effect["nll_rise"].mean()), rel=1e-4)


def test_cumulative_replacement_is_a_table_by_number_of_tokens(foreign):
    found = json.loads(invoke_on(foreign, "--cumulative", "--json", "--figure", foreign / "c.html").stdout)
    assert [row["replaced"] for row in found["cumulative"]] == list(range(1, 51))
    effect = perturb(load_model(foreign / "neo"), rows_of(foreign)["control"], seed=0, cumulative=True)
    expected = effect["nll_rise"].mean(("paragraph", "draw")).values
    assert [row["control"][0] for row in found["cumulative"]] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert "How many tokens must go?" in (foreign / "c.html").read_text()
    assert "NLL rise by number of tokens replaced" in invoke_on(foreign, "--cumulative").stdout


def test_counts_of_another_vocabulary_are_refused(foreign):
    np.save(foreign / "short.npy", np.arange(7))
    with pytest.raises(InputError, match="expected 101 integer counts"):
        invoke_on(foreign, "--counts", foreign / "short.npy")


def test_one_paragraph_without_a_control_gives_valid_json(foreign):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    arguments = ["perturb", "--model", foreign / "neo", "--paragraphs", foreign / "mine.pt", "--control", "none"]
    done = invoke(*arguments, "--n", "1", "--decode", "--json")
    found = json.loads(done.stdout, parse_constant=refuse)
    assert found["statistics"][0]["memorized"][1:] == [None, None]
    assert set(found["decoded"][0]) == {"after the worst replacement", "memorized"}
