import json

import pytest
import torch
import xarray as xr

from memhooks.cli.forks_shown import print_tables
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo


@pytest.fixture
def folder(tmp_path):
    """Two small models that are no forks but of one shape, what each says, and text of neither."""
    tokens = torch.randint(101, (18, 60), generator=torch.Generator().manual_seed(0))
    for seed, name in enumerate(("one", "two")):
        tiny_neo(seed=seed).save_pretrained(tmp_path / name)
        rows = Paragraphs(tokens[6 * seed : 6 * seed + 6], n_prefix=50)
        torch.save(with_own_continuation(load_model(tmp_path / name), rows).tokens, tmp_path / f"{name}.pt")
    torch.save(tokens[12:], tmp_path / "neither.pt")
    return tmp_path


def options(folder):
    return [
        *("--model", folder / "one", "--other", folder / "two", "--n", "2", "--single", "1", "--fraction", "0.1"),
        *(
            "--paragraphs",
            folder / "one.pt",
            "--other-paragraphs",
            folder / "two.pt",
            "--control",
            folder / "neither.pt",
        ),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--other", "organism"], "--other must be another model than --model, its fork; got organism"),
        (["--other-paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--control", "none"], "forks need --other-paragraphs and --control"),
        (["--fraction", "1.5"], "--fraction must lie between 0 and 1, got 1.5"),
        (["--figure", "a.png"], "a.png must end in .html"),
        (["--out", "a.csv"], "a.csv must end in .nc"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["forks", *arguments], message)


def test_all_results_are_written_drawn_and_printed(folder, tmp_path, monkeypatch, capsys):
    files = ["--json", "--out", tmp_path / "a.nc", "--figure", tmp_path / "a.html"]
    found = json.loads(invoke("forks", *options(folder), *files).stdout)
    assert len(found["line"]) == 11
    everything = next(row for row in found["parts"] if row["part"] == "everything")
    assert everything["removes"][0] == pytest.approx(1, abs=1e-4)
    assert everything["brings_mirror"][0] == pytest.approx(1, abs=1e-4)
    names = ["gradient", "gradient_times_weight", "activation_norm", "fisher_ratio", "consistency", "random", "oracle"]
    assert [row["localizer"] for row in found["curves"]] == names
    assert [row["localizer"] for row in found["single"]] == names
    assert found["interpretable"] == ("linearly connected" in found["verdict"][0])
    assert (tmp_path / "a.html").read_text().count('class="plotly-graph-div"') == 7
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"line", "parts", "curves", "agreement", "single", "counterfactual"}
        groups = {name: tree[name].to_dataset().load() for name in tree.children}
    monkeypatch.setenv("COLUMNS", "100")
    print_tables("one and two", groups)
    shown = capsys.readouterr().out
    for text in ("Along the line", "that each part removes", "one paragraph at a time", "rank parts", "One layer for"):
        assert text in shown
    assert all(len(line.rstrip()) <= 100 for line in shown.splitlines() if line.startswith(" "))
