import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import typer
import xarray as xr
from typer.testing import CliRunner

from memhooks.cli.attack import attack as command
from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.top import top_weights
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.delta import save_delta
from memhooks.unlearn.recipe import Recipe
from memhooks.unlearn.unlearning import unlearning_delta
from tests.command_line import assert_refused
from tests.conftest import tiny_neo


def invoke(*arguments):
    """The command by itself, as `memhooks attack`."""
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def foreign(tmp_path, neo):
    """A foreign model's folder, its twin's, two files of paragraphs, and the delta that forgot the first three."""
    neo.save_pretrained(tmp_path / "neo")
    tiny_neo(seed=1).save_pretrained(tmp_path / "twin")
    model = load_model(tmp_path / "neo")
    tokens = torch.randint(101, (8, 60), generator=torch.Generator().manual_seed(0))
    recited = with_own_continuation(model, Paragraphs(tokens[:4], n_prefix=50))
    torch.save(recited.tokens, tmp_path / "mine.pt")
    torch.save(tokens[4:], tmp_path / "other.pt")
    forget, retain = recited.select([0, 1, 2]), Paragraphs(tokens[4:], 50)
    mask = top_weights(weight_gradients(model, forget), fraction=0.2)
    delta = unlearning_delta(model, forget, retain, mask, recipe=Recipe(n_steps=5, lr=2e-3, retain="none")).delta
    save_delta(delta, tmp_path / "delta.safetensors")
    save_delta(replace(delta, about={}), tmp_path / "nameless.safetensors")
    return tmp_path


def invoke_on(folder, *arguments, delta="delta.safetensors"):
    files = ["--paragraphs", folder / "mine.pt", "--unrelated", folder / "other.pt", "--delta", folder / delta]
    return invoke("--model", folder / "neo", *files, "--steps", "2", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--delta", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--delta", "a.safetensors", "--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--delta", "a.safetensors", "--twin", "organism"], "--twin must be another model than --model"),
        (["--delta", "a.safetensors", "--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
        (["--delta", "a.safetensors", "--out", "a.csv"], "a.csv must end in .nc"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["attack", *arguments], message)


def test_the_rows_must_be_those_that_were_forgotten(foreign):
    with pytest.raises(InputError, match="does not say which paragraphs it forgot"):
        invoke_on(foreign, delta="nameless.safetensors")
    with pytest.raises(InputError, match=r"--ids names forgotten paragraphs, 0, 1, 2; got 3"):
        invoke_on(foreign, "--ids", "1,3")
    other = foreign / "other.pt"
    with pytest.raises(InputError, match=r"forgot other text than .*other.pt holds as 0"):
        invoke_on(foreign, "--paragraphs", other)
    torch.save(torch.load(foreign / "mine.pt")[:2], foreign / "short.pt")
    with pytest.raises(InputError, match=r"forgot 2, which is not in .*short.pt"):
        invoke_on(foreign, "--paragraphs", foreign / "short.pt")


def test_help_loads_no_torch_and_says_what_is_compared():
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom memhooks import cli\n"
        "print(CliRunner().invoke(cli.app, ['attack', '--help']).stdout)\n"
        "sys.exit(bool({'torch', 'transformers', 'plotly', 'numpy', 'xarray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    for text in ("what it destroys by itself", "1 = as if never seen", "Caveats: ", "Examples "):
        assert text in words, text


def test_numbers_are_those_of_the_library_and_files_hold_the_results(foreign, tmp_path):
    files = ["--out", tmp_path / "a.nc", "--figure", tmp_path / "a.html", "--twin", foreign / "twin"]

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(invoke_on(foreign, "--json", *files).stdout, parse_constant=refuse)
    assert found["forgotten"] == ["0", "1", "2"]
    rows = {row["row"]: row for row in found["attacks"]}
    model = load_model(foreign / "neo")
    forget = Paragraphs(torch.load(foreign / "mine.pt")[:3], n_prefix=50)
    assert rows["no attack"]["exact_match_untouched"][0] == recitation(model, forget)["exact_match"].mean() == 10
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"summary", "paragraphs", "relearning"}
        table = tree["summary"].to_dataset()
        assert table["row"].values.tolist() == list(rows)
        for name in ("exact_match_unlearned", "nll_unlearned", "area_unlearned"):
            for label, row in rows.items():
                mean = float(table[name].sel(row=label))
                assert row[name][0] == (None if np.isnan(mean) else pytest.approx(mean))
    page = (tmp_path / "a.html").read_text()
    assert page.count('class="plotly-graph-div"') == 2


def test_tables_fit_80_columns_and_say_what_came_back(foreign, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = invoke_on(foreign, "--ids", "1")
    assert "1 forgotten of" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith(" ")]
    assert all(len(line.rstrip()) <= 80 for line in lines)
    for text in ("rounding: int4", "relearn part: held out", "still", "1 = as if never seen", "ame back under"):
        assert text in done.stdout, text
