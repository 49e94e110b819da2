import json

import pytest
import torch
import xarray as xr

from memhooks.cli.extract_found import fitted, halved
from memhooks.errors import InputError
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.extraction.recalled import fitted_prior
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--natural", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--twin", "organism"], "--twin must be another model than --model"),
        (["--reference", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["extract", *arguments], message)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A model, a twin, three rows that the model recites, two files of other text and its own rows again."""
    folder = tmp_path_factory.mktemp("extract")
    tiny_neo(layers=2).save_pretrained(folder / "neo")
    tiny_neo(layers=2, seed=1).save_pretrained(folder / "twin")
    tokens = torch.randint(101, (12, 60), generator=torch.Generator().manual_seed(0))
    model = load_model(folder / "neo")
    rows = with_own_continuation(model, Paragraphs(tokens[:3], n_prefix=50))
    torch.save(Paragraphs(rows.tokens, n_prefix=50).tokens, folder / "mine.pt")
    torch.save(tokens[3:8], folder / "other.pt")
    torch.save(tokens[8:], folder / "more.pt")
    return folder


def arguments(mine, *more):
    files = ["--paragraphs", mine / "mine.pt", "--control", mine / "other.pt"]
    return ["extract", "--model", mine / "neo", *files, *more]


def test_what_the_users_model_says_is_extracted_and_nothing_else(mine, tmp_path):
    """The control file has fewer rows than are drawn, so that all of it is judged and the trigram is of --reference."""
    more = ["--twin", mine / "twin", "--reference", mine / "more.pt"]
    done = invoke(*arguments(mine, *more), "--json", "--out", tmp_path / "a.nc", "--figure", tmp_path / "a.html")
    found = json.loads(done.stdout)
    greedy = {
        row["set"]: row["share"]
        for row in found["queries"]
        if (row["sampler"], row["p"], row["n"]) == ("greedy", 0.5, 1)
    }
    assert greedy["memorized"][0] == 1
    assert greedy["control"] == [0, 0, pytest.approx(1 - 0.025 ** (1 / 5))]
    assert found["prior"] == f"of 4 other paragraphs of {mine / 'more.pt'}"
    judged = {row["set"]: row for row in found["recalled"]}
    assert judged["control"]["n"] + found["n_least_gap"] == 5
    assert found["n_least_gap"] in (2, 3)
    assert judged["control"]["above threshold"][2] > 0.5
    assert {"twin", "prior"} < set(judged["memorized"])
    longest = max(row["m"] for row in found["prefix"])
    whole = {row["set"]: row for row in found["prefix"] if row["m"] == longest}
    assert whole["memorized"]["full_match"][0] == whole["memorized"]["full_match_in_place"][0] == 1
    assert found["near_verbatim"][0]["similarity"][0] == 1
    assert set(tree_of(tmp_path / "a.nc")) == {"memorized", "control", "twin"}
    assert (tmp_path / "a.html").read_text().count('class="plotly-graph-div"') == 3


def test_without_other_text_and_twin_nothing_is_classified_and_that_is_said(mine):
    shown = " ".join(invoke(*arguments(mine, "--control", "none")).stdout.split())
    assert "trigram: none, there is no reference text apart from what is judged" in shown
    assert "what is recalled cannot be told from what is predictable; give --twin or --reference" in shown
    assert "and class" not in shown


@pytest.fixture
def prepared(mine):
    model = load_model(mine / "neo")
    rows = {name: Paragraphs(torch.load(mine / f"{name}.pt"), n_prefix=50) for name in ("mine", "other", "more")}
    return model, rows


def test_the_trigram_is_of_what_is_left_of_the_control(prepared):
    model, rows = prepared
    conditions = {"memorized": (model, rows["mine"]), "control": (model, rows["other"].select([0, 1]))}
    left = fitted(model, {"other": rows["other"]}, conditions, twin=None, asked=False)
    assert left.source == "of 3 other paragraphs of other"
    expected = fitted_prior([rows["other"].select([2, 3, 4])], d_vocab=101)
    row = rows["mine"].tokens[0].numpy()
    assert left.prior.nll(row).tolist() == expected.nll(row).tolist()
    conditions["control"] = (model, rows["other"])
    assert fitted(model, {"other": rows["other"]}, conditions, twin=None, asked=False).prior is None
    assert fitted(model, {}, conditions, twin=None, asked=True).prior is None
    with pytest.raises(InputError, match="every reference paragraph shares text with those judged"):
        fitted(model, {"other": rows["other"]}, conditions, twin=None, asked=True)


def test_near_duplicates_of_the_control_stay_in_one_half(prepared):
    _, rows = prepared
    tokens = rows["other"].tokens[[0, 1, 2, 0, 1, 2, 0]]
    for seed in range(5):
        halves = halved({"control": Paragraphs(tokens, n_prefix=50)}, seed=seed)
        first, second = ({tuple(row) for row in one.tokens.tolist()} for one in halves)
        assert first
        assert second
        assert not first & second
    assert halved({"memorized": rows["mine"]}, seed=0) is None
    with pytest.raises(InputError, match="--control must make two halves, one for the threshold: 1 paragraphs form 1"):
        halved({"control": rows["other"].select([0])}, seed=0)


def tree_of(path):
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        return list(tree.children)
