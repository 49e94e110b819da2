import json

import pytest
import torch
import xarray as xr

from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo


@pytest.fixture
def counted(tmp_path):
    """A model, a twin, and a file of paragraphs that were read 1 to 4 times."""
    tiny_neo(layers=2).save_pretrained(tmp_path / "neo")
    tiny_neo(layers=2, seed=1).save_pretrained(tmp_path / "twin")
    tokens = torch.randint(101, (9, 60), generator=torch.Generator().manual_seed(0))
    lines = [{"tokens": row, "count": 2 ** (place // 3)} for place, row in enumerate(tokens.tolist())]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_a_files_dose_response_beside_the_twin(counted):
    own = ["--model", counted / "neo", "--twin", counted / "twin", "--paragraphs", counted / "mine.jsonl", "--n", 0]
    files = ["--out", counted / "dose.nc", "--figure", counted / "dose.html"]
    found = json.loads(invoke("dose", *own, *files, "--json").stdout)
    assert found["gaps"] is None
    tree = xr.open_datatree(counted / "dose.nc", engine="h5netcdf")
    table = tree["memorized/paragraphs"].to_dataset()
    rows = {(row["condition"], row["measure"], row["k"]): row["mean"][0] for row in found["curves"]}
    assert rows["memorized", "nll", 2] == pytest.approx(float(table["nll"][3:6].mean()))
    assert {row["question"] for row in found["statistics"]} == {"dose", "dose, same loss"}
    assert [row["threshold"][0] for row in found["thresholds"] if row["condition"] == "twin"] == ["inf"] * 4
    assert "read?" in (counted / "dose.html").read_text("utf8")
    printed = invoke("dose", *own).stdout
    assert "Means by k: twin" in printed
    assert "Goes with k at the same loss (p max <= .05, model minus twin)" in printed
    assert "Not asked, too few paragraphs: gradient centre, largest, gradient centre, norm" in " ".join(printed.split())
    assert all(row["too_few"] and row["p"] is None for row in found["statistics"] if "loss" in row["question"])
    assert "Control, the same under the twin that read none of them" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "C"], "counts must be at least 1, but C000 has 0"),
        (["--paragraphs", "held_out"], "needs how often each paragraph was read"),
        (["--paragraphs", "nowhere.jsonl"], "no paragraph file at nowhere.jsonl"),
        (["--twin", "organism"], "--twin must be another model than --model"),
        (["--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["dose", *arguments], message)
