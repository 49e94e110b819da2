import inspect
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import ttest_1samp

from memhooks.cli.sinks_measured import changes
from memhooks.cli.sinks_shown import finite
from memhooks.cli.sinks_verdict import _held
from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.massive import massive_activations
from memhooks.truth.rare_token_without import rare_token_without
from memhooks.truth.sinks import attention_sinks
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--twin", "organism"], "--twin must be another model than --model"),
        (["--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
        (["--out", "a.csv"], "a.csv must end in .nc"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["sinks", *arguments], message)


@pytest.fixture
def files(tmp_path, neo):
    """Options for a tiny model, its twin, a set that it recites and a control."""
    neo.save_pretrained(tmp_path / "neo")
    tiny_neo(seed=1).save_pretrained(tmp_path / "twin")
    tokens = torch.randint(101, (8, 60), generator=torch.Generator().manual_seed(0))
    rows = with_own_continuation(load_model(tmp_path / "neo"), Paragraphs(tokens[:4], n_prefix=50))
    torch.save(rows.tokens, tmp_path / "mine.pt")
    torch.save(tokens[4:], tmp_path / "other.pt")
    return ["sinks", "--model", tmp_path / "neo", "--paragraphs", tmp_path / "mine.pt", "--n-units", "2"]


def test_numbers_are_those_of_the_library_for_the_users_own_files(tmp_path, files):
    arguments = [*files, "--control", tmp_path / "other.pt", "--twin", tmp_path / "twin"]
    done = invoke(*arguments, "--out", tmp_path / "a.nc", "--figure", tmp_path / "a.html")
    assert "Rare-token correlation without a key" in done.stdout
    assert (tmp_path / "a.html").read_text().count('class="plotly-graph-div"') == 3
    model, rows = load_model(tmp_path / "neo"), Paragraphs(torch.load(tmp_path / "mine.pt"), n_prefix=50)
    massive, sinks = massive_activations(model, rows), attention_sinks(model, rows)
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"heads", "memorized", "control", "twin", "held", "contrast"}
        assert tree["contrast/post"]["row"].values.tolist() == ["own", "memorized", "control"]
        np.testing.assert_allclose(tree["memorized/massive/largest"], massive["largest"], rtol=1e-4)
        means = sinks["first"].mean("paragraph").values.ravel()
        np.testing.assert_allclose(tree["heads/memorized"], means, atol=1e-5)


def test_one_paragraph_without_a_control_leaves_questions_open(files):
    found = json.loads(invoke(*files, "--control", "none", "--n", "1", "--json").stdout)
    assert "Sink heads: open" in found["verdict"]
    assert "Outstanding units of post: not held, as one cluster of paragraphs has no other half" in found["verdict"]


def test_more_units_than_leave_a_control_are_refused(monkeypatch, capsys, files):
    message = "17 of 32 units (resid_post) leave too few for a random control; give 1 to 16"
    assert_refused(monkeypatch, capsys, [*map(str, files[:-1]), "17", "--control", "none"], message)


NAMES = ("own", "memorized", "control")


def ends(*values):
    return [{"reference": name, "nll_rise": each} for name, each in zip(NAMES, values, strict=True)]


@pytest.mark.parametrize(
    ("contrast", "said"),
    [
        (ends([0.5, 0.3, 0.7], [-1.7, -2.0, -1.4], [1.3, 1.0, 1.6]), "no claim, as it depends on whose mean"),
        (ends([0.5, 0.3, 0.7], [0.2, -0.1, 0.5], [1.3, 1.0, 1.6]), "no claim, as it depends on whose mean"),
        (ends([0.5, 0.3, 0.7], [0.2, 0.1, 0.5], [1.3, 1.0, 1.6]), "loses more than the control, whosever mean"),
        (
            ends([-0.5, -0.7, -0.3], [-0.2, -0.4, -0.1], [-1.0, -2.0, -0.5]),
            "loses less than the control, whosever mean",
        ),
        ([], "Without a control nothing is said of memorized text."),
    ],
)
def test_a_contrast_that_flips_with_the_reference_is_no_claim(contrast, said):
    row = {"set": "memorized at memorized", "nll_rise": [1.0, 0.0, 2.0], "nll_rise_matched": [0.0, 0.0, 0.0]}
    row |= {"nll_rise_random": [0.0, 0.0, 0.0]}
    assert said in _held("post", [row], contrast)


def test_what_json_lacks_becomes_none():
    assert finite({"a": [np.inf, (1.5, float("nan"))], "b": "x"}) == {"a": [None, [1.5, None]], "b": "x"}


def test_a_change_is_held_against_its_null_with_near_duplicates_counted_once(model, paragraphs):
    counts = torch.from_numpy(np.random.default_rng(0).permutation(101))
    doubled = paragraphs.select([0, 1, 2, 3])
    own = {drop: rare_token_without(model, doubled, counts, drop=drop) for drop in ("nothing", "first", "strongest")}
    own |= {"position 0": own["first"], "massive": own["first"]}
    null = rare_token_without(model, doubled, counts, drop="strongest", mirrored=True)
    mirrored = dict.fromkeys(("position 0", "massive", "strongest"), null)
    label = np.array([0, 0, 1, 2])
    found = SimpleNamespace(without={"memorized": own}, mirrored=mirrored, label={"memorized": label})
    row = inspect.unwrap(changes)(found, seed=0)[6]
    change = (own["strongest"]["spearman"] - own["nothing"]["spearman"]).values.reshape(4, -1)
    beyond = change - (null["spearman"] - own["nothing"]["spearman"]).values.reshape(4, -1)
    expected = [float(one[6]) for one in bootstrap_mean(change, seed=0, clusters=label)]
    assert row["change without strongest"] == pytest.approx(expected)
    by_cluster = np.stack([beyond[:2].mean(0), beyond[2], beyond[3]])
    p = ttest_1samp(by_cluster, 0).pvalue[6]
    assert row["p beyond null without strongest"] == pytest.approx(min(16 * p, 1))
