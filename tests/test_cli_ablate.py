import json

import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.cumulative import ablate_cumulatively
from memhooks.localize.each_part import ablate_each, every_layer, silence_heads
from memhooks.localize.specificity import best_first, specificity
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import load_model
from memhooks.model.means import activation_means
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import split
from tests.command_line import assert_refused, invoke

SETS = {"memorized": "mine.pt", "control": "other.pt", "held_out": "prose.pt"}


@pytest.fixture
def foreign(tmp_path, neo):
    """A foreign model's folder, with three files of paragraphs for it; it recites the first."""
    neo.save_pretrained(tmp_path / "neo")
    tokens = torch.randint(101, (20, 60), generator=torch.Generator().manual_seed(0))
    recited = with_own_continuation(load_model(tmp_path / "neo"), Paragraphs(tokens[:4], n_prefix=50))
    for name, rows in (("mine", recited.tokens), ("other", tokens[4:8]), ("prose", tokens[8:])):
        torch.save(rows, tmp_path / f"{name}.pt")
    return tmp_path


def invoke_on(folder, *arguments):
    files = ["--paragraphs", folder / "mine.pt", "--control", folder / "other.pt", "--held-out", folder / "prose.pt"]
    return invoke("ablate", "--model", folder / "neo", *files, "--n", 4, *arguments)


def rows_of(folder):
    return {name: Paragraphs(torch.load(folder / file), n_prefix=50).sample(4, seed=0) for name, file in SETS.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--held-out", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--control", "none", "--held-out", "none"], "cannot be said without a control or --held-out text"),
        (["--control", "none", "--model", "nowhere"], "cannot be said without a control or --held-out text"),
        (["--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
        (["--out", "a.csv"], "a.csv must end in .nc"),
        (["--out", "/proc/nowhere/a.nc"], "cannot write to /proc/nowhere"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["ablate", *arguments], message)


def test_what_the_sets_do_not_allow_is_refused(foreign):
    with pytest.raises(InputError, match="--cumulative 9 needs as many other heads beside it, and the model has 16"):
        invoke_on(foreign, "--cumulative", 9)
    with pytest.raises(InputError, match=r"cannot be split at 0\.5.*or --cumulative 0"):
        invoke_on(foreign, "--n", 1)
    with pytest.raises(InputError, match="rows of --held-out that are not measured, and 0 are left"):
        invoke_on(foreign, "--how", "mean", "--n", 12)
    torch.save(torch.zeros(3, 55, dtype=torch.long), foreign / "prose.pt")
    with pytest.raises(InputError, match="has paragraphs of 55 tokens, --paragraphs of 60"):
        invoke_on(foreign)


def test_tables_on_the_organism_fit_into_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = invoke("ablate", "--n", "3", "--any", "--cumulative", "1")
    assert done.exit_code == 0
    assert "organism; memorized: 3 of A, control: 3 of C, held_out: 3 of held_out; ablation: zero" in done.stdout
    for text in (
        "heads: NLL rise without it",
        "layers: memorized minus control (p: largest of 16 layers)",
        "attention 0",
        "L0H5",
        "judged on the other",
        "EM, tokens before the first miss",
    ):
        assert text in done.stdout, text


def test_json_agrees_with_the_functions_and_files_are_written(foreign):
    outputs = ["--out", foreign / "a.nc", "--figure", foreign / "a.html"]
    found = json.loads(invoke_on(foreign, "--cumulative", 2, "--json", *outputs).stdout)
    model, sets = load_model(foreign / "neo"), rows_of(foreign)
    heads = {name: silence_heads(model, rows) for name, rows in sets.items()}
    layers = {name: ablate_each(model, rows, **every_layer(model)) for name, rows in sets.items()}
    for kind, results in (("heads", heads), ("layers", layers)):
        table = specificity(results)
        assert [row["part"] for row in found["parts"][kind]] == best_first(results["memorized"])
        for row in found["parts"][kind]:
            one = table.sel(row=row["part"])
            for name in ("memorized", "control", "held_out", "more_than_control", "more_than_held_out"):
                expected = [float(one[f"{name}{end}"]) for end in ("", "_low", "_high")]
                assert row[name] == pytest.approx(expected, rel=1e-3, abs=1e-5)
            assert row["p_more_than_control"] == pytest.approx(float(one["p_more_than_control"]))
    chosen, judged = split(sets["memorized"], share=0.5, seed=0)
    order = best_first(silence_heads(model, chosen))[:2]
    assert [row["added"] for row in found["cumulative"]] == ["none", *order]
    pairs = [tuple(map(int, name[1:].split("H"))) for name in order]
    together = ablate_cumulatively(model, sets | {"memorized": judged}, pairs)
    for column in together:
        assert [row[column] for row in found["cumulative"]] == pytest.approx(together[column].values, rel=1e-4)
    page = (foreign / "a.html").read_text()
    assert page.count("plotly-graph-div") >= 4
    assert "The order was chosen on one half of the memorized paragraphs" in page
    with xr.open_datatree(foreign / "a.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"memorized", "control", "held_out", "specificity", "cumulative"}
        np.testing.assert_allclose(tree["control"]["layers"]["nll_rise"], layers["control"]["nll_rise"], atol=1e-5)


def test_means_are_taken_from_rows_that_are_not_measured(foreign):
    found = json.loads(invoke_on(foreign, "--how", "mean", "--what", "layers", "--json").stdout)
    model, sets = load_model(foreign / "neo"), rows_of(foreign)
    measured = set(sets["held_out"].ids)
    prose = Paragraphs(torch.load(foreign / "prose.pt"), n_prefix=50)
    rest = prose.select([number for number, one in enumerate(prose.ids) if one not in measured])
    assert len(rest) == 8
    means = activation_means(model, rest)
    result = ablate_each(model, sets["memorized"], how="mean", means=means, **every_layer(model))
    assert set(found["parts"]) == {"layers"}
    assert found["cumulative"] == []
    for row in found["parts"]["layers"]:
        expected = float(result["nll_rise"].sel(row=row["part"]).mean())
        assert row["memorized"][0] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_resampling_says_where_from_and_leaves_heads_together_out(foreign):
    done = invoke_on(foreign, "--how", "resample", "--what", "heads")
    assert "ablation: resample over 8 other rows of held_out" in done.stdout
    assert "Heads are not ablated together with --how resample" in done.stdout
    assert "judged on" not in done.stdout


def test_a_foreign_model_needs_no_held_out_text(foreign):
    rows = torch.load(foreign / "other.pt")
    torch.save(torch.cat([rows, rows[:1]]), foreign / "other.pt")
    files = ["--paragraphs", foreign / "mine.pt", "--control", foreign / "other.pt"]
    done = invoke("ablate", "--model", foreign / "neo", *files, "--cumulative", 0, "--what", "layers")
    assert done.exit_code == 0
    assert "held_out" not in done.stdout


def test_one_paragraph_gives_valid_json(foreign):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    done = invoke_on(foreign, "--n", 1, "--cumulative", 0, "--json")
    found = json.loads(done.stdout, parse_constant=refuse)
    assert found["parts"]["heads"][0]["memorized"][1:] == [None, None]
