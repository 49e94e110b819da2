import json
import subprocess
import sys

import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.direct_effects import direct_effects
from memhooks.localize.logit_lens import logit_lens, share_decided
from memhooks.model.loading import load_model
from memhooks.organism.paragraphs import load_bundled
from memhooks.paragraphs.paragraphs import Paragraphs
from tests.command_line import assert_refused, invoke

SMALL = ["lens", "--n", "3"]


@pytest.fixture
def foreign(tmp_path, neo):
    """A foreign model's folder, with two files of paragraphs for it."""
    neo.save_pretrained(tmp_path / "neo")
    tokens = torch.randint(101, (8, 60), generator=torch.Generator().manual_seed(0))
    torch.save(tokens[:4], tmp_path / "mine.pt")
    torch.save(tokens[4:], tmp_path / "other.pt")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--control", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--model", "EleutherAI/gpt-neo-125M"], "the bundled set A belongs to organism and organism-twin"),
        (["--figure", "lens.jpg"], "lens.jpg must end in .html or .png or .svg or .pdf"),
        (["--out", "lens.csv"], "lens.csv must end in .nc"),
        (["--out", "/proc/nowhere/lens.nc"], "cannot write to /proc/nowhere"),
        (["--figure", "/proc/nowhere/lens.html"], "cannot write to /proc/nowhere"),
        (["--paragraphs", "C"], "recites none of the"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["lens", *arguments], message)


def test_a_folder_is_refused_as_output_before_any_work(tmp_path):
    for option, name in (("--out", "a.nc"), ("--figure", "a.html")):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match="is a folder; give the name of a file"):
            invoke("lens", option, tmp_path / name, "--model", "nowhere", "--paragraphs", "README.md")


def test_help_loads_no_torch_and_says_what_a_lens_and_a_control_are():
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom memhooks import cli\n"
        "print(CliRunner().invoke(cli.app, ['lens', '--help']).stdout)\n"
        "sys.exit(bool({'torch', 'transformers', 'plotly', 'numpy', 'xarray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "A logit lens ends the model early" in done.stdout
    assert "The control is text that the model does not recite" in done.stdout


def test_tables_answer_beside_the_control_in_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = invoke(*SMALL)
    assert done.exit_code == 0
    assert "organism; memorized: 3 of A, control: 3 of C" in done.stdout
    assert "memorized: the final choice is decided after" in done.stdout
    for text in ("NLL memorized", "NLL control", "100% [100,100]", "MLP 0", "L0H5", "all parts", "all heads"):
        assert text in done.stdout, text


def test_json_holds_the_means_of_the_labelled_results_which_out_keeps(tmp_path):
    done = invoke(*SMALL, "--json", "--out", tmp_path / "lens.nc", "--figure", tmp_path / "lens.html")
    found = json.loads(done.stdout)
    assert [row["blocks"] for row in found["depths"]] == list(range(9))
    page = (tmp_path / "lens.html").read_text()
    assert "From which layer on is the token decided?" in page
    assert page.count("plotly-graph-div") >= 2
    with xr.open_datatree(tmp_path / "lens.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"memorized", "control"}
        for name in tree.children:
            lens, effects = tree[name]["lens"].to_dataset(), tree[name]["direct_effects"].to_dataset()
            share = share_decided(lens).mean("paragraph").values
            assert [row[f"decided {name}"][0] for row in found["depths"]] == pytest.approx(share)
            nll = lens["nll"].mean(("paragraph", "pos")).values
            assert [row[f"NLL {name}"][0] for row in found["depths"]] == pytest.approx(nll, rel=1e-5)
            assert found["decided_after"][name][0] == pytest.approx(float(lens["decided"].mean()))
            assert found["writers"][-1][name][0] == pytest.approx(float(effects["total"].mean()), rel=1e-5)
            for row in found["heads"][:-1]:
                layer, head = map(int, row["part"][1:].split("H"))
                cell = float(effects["heads"].sel(layer=layer, head=head).mean())
                assert row[name][0] == pytest.approx(cell, rel=1e-4)
    for rows in (found["depths"], found["writers"], found["heads"]):
        ends = [value for row in rows for value in row.values() if isinstance(value, list)]
        assert all(low <= mean <= high for mean, low, high in ends)


def test_the_users_own_model_and_files_are_measured(foreign):
    arguments = ["lens", "--model", foreign / "neo", "--paragraphs", foreign / "mine.pt", "--any", "--json"]
    found = json.loads(invoke(*arguments, "--control", foreign / "other.pt").stdout)
    model = load_model(foreign / "neo")
    for name, file in (("memorized", "mine.pt"), ("control", "other.pt")):
        rows = Paragraphs(torch.load(foreign / file), n_prefix=50)
        assert found["decided_after"][name][0] == pytest.approx(float(logit_lens(model, rows)["decided"].mean()))
        total = float(direct_effects(model, rows)["total"].mean())
        assert found["writers"][-1][name][0] == pytest.approx(total, rel=1e-4)
    with pytest.raises(InputError, match="recites none of the 4 paragraphs"):
        invoke("lens", "--model", foreign / "neo", "--paragraphs", foreign / "mine.pt", "--control", "none")


def test_without_a_control_and_with_one_paragraph_there_are_no_intervals_but_still_valid_json(tmp_path):
    torch.save(load_bundled("A").tokens[-1:], tmp_path / "one.pt")
    arguments = ["lens", "--paragraphs", tmp_path / "one.pt", "--any", "--control", "none"]

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(invoke(*arguments, "--json").stdout, parse_constant=refuse)
    assert set(found["depths"][0]) == {"blocks", "NLL memorized", "decided memorized"}
    assert found["depths"][0]["NLL memorized"][1:] == [None, None]
    assert "[?,?]" in invoke(*arguments).stdout
