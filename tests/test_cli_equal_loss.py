import json

import pytest
import torch
import xarray as xr

from memhooks.cli.equal_loss import _print, verdict
from tests.command_line import assert_refused, invoke


@pytest.fixture
def files(tmp_path, neo):
    neo.save_pretrained(tmp_path / "neo")
    tokens = torch.randint(101, (30, 60), generator=torch.Generator().manual_seed(0))
    torch.save(tokens[:8], tmp_path / "mine.pt")
    torch.save(tokens[8:], tmp_path / "other.pt")
    return tmp_path


def test_equal_loss(files, monkeypatch, capsys):
    from memhooks.truth import equal_loss_pairs as module

    found = module.equal_loss_pairs
    monkeypatch.setattr(module, "equal_loss_pairs", lambda *rows, **more: found(*rows, caliper=2.0, **more))
    given = ["--model", files / "neo", "--paragraphs", files / "mine.pt", "--control", files / "other.pt", "--n", 3]
    given += ["--out", files / "found.nc", "--figure", files / "found.html"]
    plain = json.loads(invoke("equal-loss", *given, "--json").stdout)["memorized"]
    saved = xr.open_datatree(files / "found.nc", engine="h5netcdf")["memorized"]
    assert plain["pairs"] == 3
    assert plain["rows"][0]["read"][0] == pytest.approx(float(saved["read"][0]))
    assert "At equal loss" in (files / "found.html").read_text("utf8")
    _print("mine", {"memorized": saved.to_dataset()}, None)
    printed = capsys.readouterr().out
    assert "At equal loss, read text differs in" in printed
    assert "No twin was given" in printed


def test_times_needs_counts(files, monkeypatch, capsys):
    rows = ["--model", str(files / "neo"), "--paragraphs", str(files / "mine.pt"), "--control", str(files / "other.pt")]
    assert_refused(monkeypatch, capsys, ["equal-loss", *rows, "--times", "2"], "has no counts, so that --times")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--times", "7"], "no paragraph of A was read 7 times; there are 1, 2, 4, 8"),
        (["--figure", "x.jpg"], "x.jpg must end in .html or .png or .svg or .pdf"),
    ],
)
def test_refused(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["equal-loss", *arguments], message)


def test_verdict_names_what_differs_and_what_does_so_beyond_the_twin():
    table = xr.Dataset({"p": ("row", [0.01, 0.02, 0.5])}, {"row": ["first", "second", "third"]})
    table = table.assign(loss_read=("paragraph", [1.0]))
    ends = {"more": [1.0, 1.0, 1.0], "more_low": [0.5, -0.1, 0.5], "more_high": [2.0, 2.0, 2.0]}
    beyond = xr.Dataset({name: ("row", values) for name, values in ends.items()}, {"row": table["row"].values})
    said = verdict({"memorized": table}, beyond)
    assert said == "At equal loss, read text differs in: first; second. Of these, more than under the twin: first."
    assert "No twin was given" in verdict({"memorized": table}, None)
