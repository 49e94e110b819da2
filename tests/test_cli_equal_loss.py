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
    from memhooks.truth import equal_loss as module

    found = module.equal_loss_pairs
    monkeypatch.setattr(module, "equal_loss_pairs", lambda *rows, **more: found(*rows, caliper=2.0, **more))
    given = ["--model", files / "neo", "--paragraphs", files / "mine.pt", "--control", files / "other.pt", "--n", 3]
    given += ["--out", files / "found.nc", "--figure", files / "found.html"]
    plain = json.loads(invoke("equal-loss", *given, "--json").stdout)["memorized"]
    saved = xr.open_datatree(files / "found.nc", engine="h5netcdf")["memorized"]
    assert plain["pairs"] == 3
    assert plain["rows"][0]["read"][0] == pytest.approx(float(saved["read"][0]))
    assert "At equal loss" in (files / "found.html").read_text("utf8")
    _print("mine", {"memorized": saved.to_dataset()})
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
        (["--figure", "x.png"], "must end in .html"),
    ],
)
def test_refused(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["equal-loss", *arguments], message)


def test_verdict_names_what_differs():
    table = xr.Dataset(
        {
            "p": ("row", [0.01, 0.5]),
            **{f"difference{end}": ("row", [1.0, 0.0]) for end in ("", "_low", "_high")},
        },
        {"row": ["first", "second"]},
    ).assign(loss_read=("paragraph", [1.0]))
    assert verdict({"memorized": table}).startswith("At equal loss, read text differs in: first (+1.00).")
