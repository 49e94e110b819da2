import json

import pytest
import torch
import xarray as xr

from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.capacity import memorized_bits
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--paragraphs", "C"], "give --twin"),
        (["--twin", "none"], "give --twin"),
        (["--tokens", "prefix"], "--tokens must be all or continuation, got prefix"),
        (["--mirror", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["capacity", *arguments], message)


def test_the_organism_holds_what_it_read_and_nothing_else(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    found = json.loads(invoke("capacity", "--n", "8", "--json").stdout)
    rows = {row["set"]: row for row in found["rows"]}
    assert rows["memorized"]["bits"][1] > 100
    assert rows["control"]["bits"][1] < 20
    assert rows["mirror"]["bits"][2] < -100
    above, words = rows["memorized"]["above_control"], found["verdict"]
    assert words.startswith(f"The 8 paragraphs: {above[0]:+.1f} [")
    assert f"bits each beyond the control, {8 * above[0]:,.0f} [" in words


def test_numbers_are_those_of_the_library_for_the_users_own_files(tmp_path, neo, monkeypatch, capsys):
    neo.save_pretrained(tmp_path / "neo")
    tiny_neo(seed=1).save_pretrained(tmp_path / "twin")
    tokens = torch.randint(101, (8, 60), generator=torch.Generator().manual_seed(0))
    torch.save(tokens[:4], tmp_path / "mine.pt")
    torch.save(tokens[4:], tmp_path / "other.pt")
    longer = torch.cat([tokens[4:], tokens[:4, :30]], dim=1)
    torch.save(longer, tmp_path / "longer.pt")
    torch.save(longer[:, :55], tmp_path / "shorter.pt")
    files = ["--paragraphs", tmp_path / "mine.pt", "--control", tmp_path / "other.pt"]
    arguments = ["capacity", "--model", tmp_path / "neo", "--twin", tmp_path / "twin", *files]
    message = "shorter.pt has paragraphs of 55 tokens, --paragraphs of 60; they must match"
    assert_refused(monkeypatch, capsys, [*map(str, arguments), "--mirror", str(tmp_path / "shorter.pt")], message)
    done = invoke(
        *arguments, "--mirror", tmp_path / "longer.pt", "--out", tmp_path / "a.nc", "--figure", tmp_path / "a.html"
    )
    assert "Bits held beyond the twin" in done.stdout
    assert "How many bits of a paragraph does the model hold?" in (tmp_path / "a.html").read_text()
    own = memorized_bits(load_model(tmp_path / "neo"), load_model(tmp_path / "twin"), Paragraphs(tokens[:4]))
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"memorized", "control", "mirror", "table"}
        assert tree["mirror"].attrs["n_scored"] == tree["memorized"].attrs["n_scored"] == 59  # the mirror has 90
        assert tree["memorized/bits"].values == pytest.approx(own["bits"].values, abs=1e-3)


def test_without_a_control_the_verdict_says_that_nothing_is_corrected(tmp_path, neo):
    neo.save_pretrained(tmp_path / "neo")
    tiny_neo(seed=1).save_pretrained(tmp_path / "twin")
    torch.save(torch.randint(101, (4, 60), generator=torch.Generator().manual_seed(0)), tmp_path / "mine.pt")
    models = ["--model", tmp_path / "neo", "--twin", tmp_path / "twin"]
    done = invoke("capacity", *models, "--paragraphs", tmp_path / "mine.pt", "--control", "none", "--json")
    assert "without a control, so that what the model is better at language counts as held" in done.stdout
