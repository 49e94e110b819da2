import json

import pytest
import torch
import xarray as xr

from memhooks.model.loading import load_model
from memhooks.model.provenance import model_hash
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo


@pytest.fixture
def mine(tmp_path):
    """A model, a file of paragraphs and one of background."""
    tiny_neo(layers=2, scale=1.0).save_pretrained(tmp_path / "neo")
    for seed, name in enumerate(("mine", "other")):
        tokens = torch.randint(101, (8, 60), generator=torch.Generator().manual_seed(seed))
        torch.save(tokens, tmp_path / f"{name}.pt")
    return tmp_path


def test_a_file_is_fine_tuned_on_and_what_leaks_is_said(mine):
    own = ["--model", mine / "neo", "--paragraphs", mine / "mine.pt", "--repetitions", "0,1,10", "--lr", "0.01"]
    more = [
        "--background",
        mine / "other.pt",
        "--save",
        mine / "tuned",
        "--out",
        mine / "l.nc",
        "--figure",
        mine / "l.html",
    ]
    found = json.loads(invoke("leak", *own, *more, "--json").stdout)
    tree = xr.open_datatree(mine / "l.nc", engine="h5netcdf")
    table = tree["paragraphs"].to_dataset()
    assert [row["level"] for row in found["levels"]] == [0, 1, 10]
    assert len(found["steps"]) == 3 * table.sizes["step"]
    assert len(found["held_out"]) == table.sizes["step"]
    assert tree["held_out"].sizes["paragraph"] == 2
    last = [row for row in found["steps"] if row["level"] == 10][-1]
    assert last["nll"][0] == pytest.approx(float(table["nll"][-1][table["level"].values == 10].mean()))
    assert model_hash(load_model(mine / "tuned", tokenizer=None)) != model_hash(load_model(mine / "neo"))
    assert "what comes out after how many readings?" in (mine / "l.html").read_text("utf8")
    printed = invoke("leak", *own).stdout
    assert "Recited or extractable before any reading, and left out: 0 of 8 paragraphs." in printed
    assert "never read (control): 0%" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repetitions", "0,many"], "--repetitions must be whole numbers with commas between them"),
        (["--repetitions", "1,2"], "repetitions must hold 0 (never read: the control of the same file)"),
        (["--paragraphs", "nowhere.jsonl"], "no paragraph file at nowhere.jsonl"),
        (["--background", "nowhere.jsonl"], "no paragraph file at nowhere.jsonl"),
        (["--checkpoint", "run.pt"], "run.pt must end in .safetensors"),
        (["--n", "5"], "6 levels of repetitions need at least 12 paragraphs"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["leak", *arguments], message)
