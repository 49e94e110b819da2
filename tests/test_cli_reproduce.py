import inspect
import json
import socket

import pytest
import torch
import xarray as xr

from memhooks.cli import reproduce_shown
from memhooks.organism.paragraphs import load_planted
from memhooks.truth.published import bundled, prepare, weights
from memhooks.truth.published.claim import Claim
from memhooks.truth.published.parts import Measured
from memhooks.truth.published.stand_in import stand_in_model, stand_in_text
from memhooks.truth.published.targets import target
from memhooks.truth.published.verdicts import Row
from tests.command_line import assert_refused, invoke


@pytest.fixture
def small(monkeypatch):
    """A stand-in of two layers."""
    model = stand_in_model((2, 2, 16, 101), seed=0)
    monkeypatch.setattr(prepare, "stand_in_model", lambda *_, seed: model)
    monkeypatch.setattr(prepare, "stand_in_text", lambda n, *, seed: stand_in_text(n, d_vocab=101, seed=seed))


@pytest.mark.usefixtures("small")
def test_a_stand_in_from_nothing(tmp_path):
    files = {"--out": "found.nc", "--figure": "found.html", "--folder": "run"}
    options = [part for name, file in files.items() for part in (name, tmp_path / file)]
    arguments = ["reproduce", "--stand-in", "--rows", 1, "--only", "1,6,9,15", *options]
    done = invoke(*arguments)
    assert done.exit_code == 0
    assert "random weights of the 125M shape" in done.output
    assert "The weights are random" in done.output
    assert "reproduced:" not in done.output.replace("not reproduced", "")
    with xr.open_datatree(tmp_path / "found.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"rows", "layer_sums"}
        assert set(tree["rows"]["verdict"].values) == {"not compared"}
    assert "not compared" in (tmp_path / "found.html").read_text("utf8")
    found = json.loads(invoke(*arguments, "--json").stdout)  # nothing is measured again
    assert found["claims"] == []
    assert {one["verdict"] for one in found["rows"]} == {"not compared"}
    assert [one["row"] for one in found["rows"]][:3] == ["1.all", "1.MP", "1.NMP"]


def test_rows_that_need_no_weights(tmp_path):
    text = stand_in_text(3, seed=0)
    torch.save(text.sets["50"].tokens, tmp_path / "50_50_preds.pt")
    done = invoke("reproduce", "--paragraphs", tmp_path, "--only", "1,2,3", "--folder", tmp_path / "run")
    assert "50_50_preds.pt is another file than the published one" in done.output
    assert "another file: 50_50_preds.pt" in " ".join(done.output.split())
    assert "missing: mem_strings.csv" in " ".join(done.output.split())
    assert "5 rows: 0 reproduced, 0 not reproduced, 5 not compared." in done.output
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_used_is_refused(monkeypatch, capsys, tmp_path):
    assert_refused(monkeypatch, capsys, ["reproduce", "--only", "6,x"], "--only takes rows of the table between commas")
    assert_refused(monkeypatch, capsys, ["reproduce", "--only", "22"], "rows of the table are 1 to 21, got 22")
    assert_refused(monkeypatch, capsys, ["reproduce", "--out", "x.html"], "must end in .nc")
    assert_refused(monkeypatch, capsys, ["reproduce"], "give the folder of published files as --paragraphs")


def test_weights_that_cannot_be_had(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(weights, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    message = "the weights of EleutherAI/gpt-neo-125M cannot be had"
    assert_refused(monkeypatch, capsys, ["reproduce", "--paragraphs", str(tmp_path)], message)


def test_the_organism_answers_the_claims(tmp_path, monkeypatch):
    few = load_planted("A", at_least=8).select(
        [14, 25, 29, 40, *range(48, 240, 64)]
    )  # the first four are partly recited
    monkeypatch.setattr(bundled, "load_planted", lambda *_, **__: few)
    monkeypatch.setattr(bundled, "_pairs", lambda *_, **__: None)  # row 6 needs none
    arguments = ["reproduce", "--model", "organism", "--rows", 1, "--only", "6", "--folder", tmp_path / "run"]
    found = json.loads(invoke(*arguments, "--json").stdout)
    assert {one["verdict"] for one in found["rows"]} == {"not compared"}
    assert {one["reason"] for one in found["rows"]} == {"another model"}
    assert len(next(one for one in found["rows"] if one["row"] == "6.layers 50")["measured"]) == 8
    assert [one["holds"] for one in found["claims"]] == [None] * 4  # one paragraph has no interval
    assert [one["claim"][:40] for one in found["claims"]] == [
        "memorized text has more of its gradient ",
        "other text has more of it between a half",
        "the first third's share rises smoothly w",
        "the largest cell of memorized text is on",
    ]


def test_what_it_takes_is_said_beforehand(capsys):
    class Large:
        def parts(self):
            return ["one", "two"]

        left = parts

        def seconds(self, _):
            return 4 * 3600.0

        def gigabytes(self, _):
            return 6.4

        def measure(self):
            return iter([("one", 1.0)])

    inspect.unwrap(reproduce_shown.measure)(Large(), quiet=True)
    printed = capsys.readouterr().err
    assert printed == "about 4.0 hours on one core, up to about 6 GB of memory; a killed run goes on\n"


def test_claims_that_are_not_tested_and_lower_bounds_say_so(capsys):
    row = Row(target("8.50"), Measured((0.2,)), "not compared", "another model")
    reproduce_shown.print_run("x", [row], [Claim("a claim", None, "1", "2", "3")], "end")
    printed = capsys.readouterr().out
    assert "not tested" in printed
    assert "> 0.15" in printed
