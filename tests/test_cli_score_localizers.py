"""`memhooks score-localizers` refuses before any work."""

import json

import pytest
import xarray as xr

from memhooks.truth.injection.scoring import Scoring
from tests.command_line import assert_refused, invoke


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--regions", "nowhere"], "regions are random, neurons"),
        (["--model", "mine"], "needs --paragraphs FILE of text that it never read"),
        (["--paragraphs", "missing.jsonl"], "no paragraph file at missing.jsonl"),
        (["--figure", "figure.jpg"], "figure.jpg must end in .html or .png or .svg or .pdf"),
    ],
)
def test_unusable_input_is_refused(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["score-localizers", *arguments], message)


def line(moment, **more):
    return {"localizer": "gradient", "moment": moment, "seconds": 0.1, "applies": True, "decoy_recall": None} | more


def rows():
    lost = {"lost": {"target": [2.0, 5.0], "others": [0.5, 1.0], "language": [0.1, 0.0]}}
    lost["random_lost"] = {"target": [0.0, 0.0], "others": [0.0, 0.0], "language": [0.0, 0.0]}
    for number in range(8):
        named = {"recall": 0.25 + number / 100, "random_recall": 0.0}
        lines = [line("early", **named), line("solved", **named, **lost)]
        about = {"region": "random", "number": number, "failed": False, "k": 10, "chance": 0.001, "gold": {}}
        yield about | {"lines": lines}


def test_tables_verdict_and_files(tmp_path, monkeypatch):
    """The trials themselves are tested with the library; here is what the command makes of their rows."""
    monkeypatch.setattr(Scoring, "run", lambda self: list(rows()))
    files = ["--out", tmp_path / "truth.nc", "--figure", tmp_path / "truth.html", "--folder", tmp_path / "trials"]
    found = json.loads(invoke("score-localizers", "--regions", "random", "--json", *files).stdout)
    assert [row["row"] for row in found["recall"]] == ["random, early, gradient", "random, solved, gradient"]
    assert found["recall"][0]["recall"][0] == pytest.approx(0.285)
    assert found["deletion"][0]["selectivity"][0] == pytest.approx(1.5)
    assert "early: gradient first, 0.285" in found["verdict"][0]
    assert "gradient first, 0.285" in (tmp_path / "truth.html").read_text()
    with xr.open_datatree(tmp_path / "truth.nc", engine="h5netcdf") as tree:
        assert float(tree["recall/recall"][0]) == pytest.approx(0.285)
    shown = invoke("score-localizers", "--regions", "random").stdout
    assert "chance 0.0010" in shown
    assert "random: early: gradient first" in shown
