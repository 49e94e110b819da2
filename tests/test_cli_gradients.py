import json
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.cli.gradients import Pooling
from memhooks.errors import InputError
from memhooks.localize.attribution import weight_scores
from memhooks.localize.pooling import POOLED
from memhooks.localize.profile import centre_of_mass, layer_shares
from memhooks.localize.profile_contrasts import profile_contrasts
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo

CONDITIONS = ["memorized", "control", "control_own", "twin"]


@pytest.fixture
def foreign(tmp_path, neo):
    """A foreign model's folder, a twin's, one of another shape, and two files of paragraphs (it recites the first)."""
    neo.save_pretrained(tmp_path / "neo")
    tiny_neo(seed=1).save_pretrained(tmp_path / "twin")
    tiny_neo(layers=2).save_pretrained(tmp_path / "shallow")
    tokens = torch.randint(101, (8, 60), generator=torch.Generator().manual_seed(0))
    recited = with_own_continuation(load_model(tmp_path / "neo"), Paragraphs(tokens[:4], n_prefix=50))
    torch.save(recited.tokens, tmp_path / "mine.pt")
    torch.save(tokens[4:], tmp_path / "other.pt")
    return tmp_path


def invoke_on(folder, *arguments):
    files = ["--paragraphs", folder / "mine.pt", "--control", folder / "other.pt"]
    return invoke("gradients", "--model", folder / "neo", *files, *arguments)


def conditions_of(folder):
    """Each condition's model and paragraphs, put together by hand."""
    model, twin = load_model(folder / "neo"), load_model(folder / "twin")
    mine, other = (Paragraphs(torch.load(folder / file), n_prefix=50) for file in ("mine.pt", "other.pt"))
    rows = [(model, mine), (model, other), (model, with_own_continuation(model, other)), (twin, mine)]
    return dict(zip(CONDITIONS, rows, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--control", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--model", "EleutherAI/gpt-neo-125M"], "the bundled set A belongs to organism and organism-twin"),
        (["--twin", "organism"], "--twin must be another model than --model"),
        (["--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
        (["--out", "a.csv"], "a.csv must end in .nc"),
        (["--out", "/proc/nowhere/a.nc"], "cannot write to /proc/nowhere"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["gradients", *arguments], message)


def test_a_twin_that_cannot_stand_beside_the_model_is_refused(foreign):
    with pytest.raises(InputError, match="has 2 layers of 4 heads, 101 tokens, not 4 layers of 4 heads, 101 tokens"):
        invoke_on(foreign, "--twin", foreign / "shallow")
    tiny_neo().save_pretrained(foreign / "copy")
    with pytest.raises(InputError, match="copy recites all 4 paragraphs in full, so it has read them"):
        invoke_on(foreign, "--twin", foreign / "copy")


def test_help_loads_no_torch_and_says_what_is_compared_and_what_follows_the_loss():
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom memhooks import cli\n"
        "print(CliRunner().invoke(cli.app, ['gradients', '--help']).stdout)\n"
        "sys.exit(bool({'torch', 'transformers', 'plotly', 'numpy', 'xarray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    for text in (
        "The centre of mass is the mean layer",
        "large a gradient is follows the loss",
        "Caveats: ",
        "Examples ",
    ):
        assert text in words, text


def test_the_command_offers_every_pooling():
    assert get_args(Pooling) == tuple(POOLED)


def test_tables_on_the_organism_stand_beside_their_controls_in_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = invoke("gradients", "--n", "3", "--any", "--top", "4")
    assert done.exit_code == 0
    assert "organism; memorized: 3 of A, control: 3 of C; twin: organism-twin; pooling: max_gradient" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith(" ")]
    assert all(len(line.rstrip()) <= 80 for line in lines)
    # Nothing is folded: a row of every layer, and each number with its interval on one line.
    assert [line.split()[0] for line in lines if line.count("[") == 4][:10] == [
        *(f"L{i}" for i in range(8)),
        "depth",
        "loss",
    ]
    for text in ("own words", "(max_gradient)", "(l2_gradient)", "largest share of memorized gradients"):
        assert text in done.stdout, text


def test_numbers_are_those_of_the_library_and_files_hold_the_results(foreign, tmp_path):
    files = ["--out", tmp_path / "a.nc", "--figure", tmp_path / "a.html"]
    found = json.loads(invoke_on(foreign, "--twin", foreign / "twin", "--json", *files).stdout)
    conditions = conditions_of(foreign)
    sets = {name: rows for name, (_, rows) in conditions.items()}
    scores = {name: weight_scores(*pair) for name, pair in conditions.items()}
    assert [row["condition"] for row in found["conditions"]] == CONDITIONS
    for row in found["conditions"]:
        name, one = row["condition"], scores[row["condition"]]
        shares = layer_shares(one)
        assert row["paragraphs"] == 4
        assert row["centre"][0] == pytest.approx(float(centre_of_mass(shares).mean()), abs=1e-5)
        assert row["loss"][0] == pytest.approx(float(one["loss"].mean()), rel=1e-5)
        assert [layer[name][0] for layer in found["layers"]] == pytest.approx(shares.mean("paragraph").values, abs=1e-5)
    assert set(found["contrasts"]) == {"max_gradient", "l2_gradient"}
    for pooling, rows in found["contrasts"].items():
        table = profile_contrasts(scores, sets=sets, pooling=pooling, seed=0)
        assert [row["minus"] for row in rows] == CONDITIONS[1:]
        for row in rows:
            one = table.sel(row=row["minus"])
            ends = [float(one[f"difference{end}"]) for end in ("", "_low", "_high")]
            assert row["difference"] == pytest.approx(ends, abs=1e-5)
            assert (row["p"], row["survives"]) == (pytest.approx(float(one["p"])), bool(one["survives"]))
            assert row["overlap"] == pytest.approx(float(one["overlap"]))
            assert [layer[0] for layer in row["share_difference"]] == pytest.approx(
                one["share_difference"].values, abs=1e-5
            )
    page = (tmp_path / "a.html").read_text()
    assert page.count('class="plotly-graph-div"') == 5
    assert "Do memorized gradients lie lower?" in page
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {*CONDITIONS, "contrasts"}
        assert set(tree["contrasts"].children) == {"max_gradient", "l2_gradient"}
        for name, one in scores.items():
            saved = tree[name]["gradients"].to_dataset()
            np.testing.assert_allclose(saved["max_gradient"], one["max_gradient"], rtol=1e-4, atol=1e-5)


def test_components_are_shares_of_each_paragraphs_own_map_the_largest_first(foreign):
    found = json.loads(invoke_on(foreign, "--pooling", "l2_gradient", "--json").stdout)
    model, mine = conditions_of(foreign)["memorized"]
    scores = weight_scores(model, mine)["l2_gradient"].transpose("paragraph", "layer", "component").values
    expected = {}
    labels = weight_scores(model, mine)["component"].values
    for layer in range(4):
        for column, label in enumerate(labels):
            each = [one[layer, column] / one.sum() for one in scores]
            expected[f"L{layer} {label}"] = sum(each) / len(each)
    assert set(found["contrasts"]) == {"l2_gradient", "max_gradient"}
    means = {row["component"]: row["memorized"][0] for row in found["components"]}
    assert means == pytest.approx(expected, rel=1e-4)
    assert list(means.values()) == sorted(means.values(), reverse=True)
    assert set(found["components"][0]) == {"component", *CONDITIONS[:3]}


def test_without_control_and_twin_nothing_is_compared(foreign, tmp_path):
    arguments = ["gradients", "--model", foreign / "neo", "--paragraphs", foreign / "mine.pt", "--control", "none"]
    done = invoke(*arguments, "--figure", tmp_path / "a.html")
    assert "Without a control or a twin there is nothing to compare with." in done.stdout
    assert (tmp_path / "a.html").read_text().count('class="plotly-graph-div"') == 3
    assert json.loads(invoke(*arguments, "--json").stdout)["contrasts"] == {}


def test_the_twin_is_a_control_of_its_own_where_there_is_no_other(foreign):
    arguments = ["--control", "none", "--twin", foreign / "twin", "--json"]
    found = json.loads(invoke_on(foreign, *arguments).stdout)
    assert [row["minus"] for row in found["contrasts"]["max_gradient"]] == ["twin"]
    assert found["contrasts"]["max_gradient"][0]["paired"] is True


def test_one_paragraph_has_no_intervals_but_still_valid_json(foreign, tmp_path):
    torch.save(torch.load(foreign / "mine.pt")[:1], foreign / "mine.pt")

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    done = invoke_on(foreign, "--json", "--figure", tmp_path / "a.html")
    found = json.loads(done.stdout, parse_constant=refuse)
    assert found["layers"][0]["memorized"][1:] == [None, None]
    assert found["contrasts"]["max_gradient"][0]["survives"] is False
    assert "[?,?]" in invoke_on(foreign).stdout
