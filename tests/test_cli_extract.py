import json

import pytest
import torch
import xarray as xr

from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--natural", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--twin", "organism"], "--twin must be another model than --model"),
        (["--figure", "a.png"], "a.png must end in .html"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["extract", *arguments], message)


def test_what_the_users_model_says_is_extracted_and_nothing_else(tmp_path, neo):
    neo.save_pretrained(tmp_path / "neo")
    tiny_neo(seed=1).save_pretrained(tmp_path / "twin")
    model, tokens = (
        load_model(tmp_path / "neo"),
        torch.randint(101, (9, 60), generator=torch.Generator().manual_seed(0)),
    )
    rows = with_own_continuation(model, Paragraphs(tokens[:3], n_prefix=50))
    torch.save(rows.tokens, tmp_path / "mine.pt")
    torch.save(tokens[3:], tmp_path / "other.pt")
    files = ["--paragraphs", tmp_path / "mine.pt", "--control", tmp_path / "other.pt", "--twin", tmp_path / "twin"]
    arguments = ["extract", "--model", tmp_path / "neo", *files, "--n", "4"]
    done = invoke(*arguments, "--json", "--out", tmp_path / "a.nc", "--figure", tmp_path / "a.html")
    found = json.loads(done.stdout)
    greedy = {
        row["set"]: row["share"][0]
        for row in found["queries"]
        if (row["sampler"], row["p"], row["n"]) == ("greedy", 0.5, 1)
    }
    assert (greedy["memorized"], greedy["control"]) == (1.0, 0.0)
    whole = {row["set"]: row["exact_match"][0] for row in found["prefix"] if row["m"] == 50}
    assert whole["memorized"] == 10
    assert whole["twin"] == pytest.approx(float(recitation(load_model(tmp_path / "twin"), rows)["exact_match"].mean()))
    assert found["near_verbatim"][0]["similarity"][0] == 1
    assert set(tree_of(tmp_path / "a.nc")) == {"memorized", "control", "twin"}
    assert (tmp_path / "a.html").read_text().count('class="plotly-graph-div"') == 3


def test_without_a_twin_the_prior_alone_is_the_counterfactual(tmp_path, neo):
    neo.save_pretrained(tmp_path / "neo")
    tokens = torch.randint(101, (3, 60), generator=torch.Generator().manual_seed(0))
    torch.save(tokens, tmp_path / "mine.pt")
    torch.save(tokens.flip(1), tmp_path / "other.pt")
    files = ["--paragraphs", tmp_path / "mine.pt", "--control", tmp_path / "other.pt", "--n", "2"]
    shown = invoke("extract", "--model", tmp_path / "neo", *files).stdout
    assert "Log-probability per token, and class" in shown
    assert "twin:" not in shown


def tree_of(path):
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        return list(tree.children)
