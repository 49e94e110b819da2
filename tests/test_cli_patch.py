import json

import pytest
import torch
import xarray as xr

from memhooks.localize.patch_pairs import patch_pairs
from memhooks.localize.patching import patch
from memhooks.measure.pairs import make_pairs
from memhooks.measure.perturbation import corrupted, perturb
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from tests.command_line import assert_refused, invoke


@pytest.fixture
def foreign(tmp_path, neo):
    """A foreign model's folder, with two files of paragraphs for it; it recites the first."""
    neo.save_pretrained(tmp_path / "neo")
    tokens = torch.randint(101, (6, 60), generator=torch.Generator().manual_seed(0))
    recited = with_own_continuation(load_model(tmp_path / "neo"), Paragraphs(tokens[:3], n_prefix=50))
    torch.save(recited.tokens, tmp_path / "mine.pt")
    torch.save(tokens[3:], tmp_path / "other.pt")
    return tmp_path


def invoke_on(folder, *arguments):
    files = ["--paragraphs", folder / "mine.pt", "--control", folder / "other.pt"]
    return invoke("patch", "--model", folder / "neo", *files, *arguments)


def rows_of(folder):
    files = {"memorized": "mine.pt", "control": "other.pt"}
    return {name: Paragraphs(torch.load(folder / file), n_prefix=50) for name, file in files.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--control", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--sites", "resid"], "--sites is a comma list of different ones among resid_pre, "),
        (["--sites", "z,z"], "--sites is a comma list of different ones among resid_pre, "),
        (["--sites", "z,mlp_out"], "--sites must be all of whole layers or all by head"),
        (["--sites", "q,k", "--at", "prefix"], "--at prefix goes with sites of whole layers"),
        (["--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
        (["--out", "a.csv"], "a.csv must end in .nc"),
        (["--figure", "/proc/nowhere/a.html"], "cannot write to /proc/nowhere"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["patch", *arguments], message)


def test_tables_on_the_organism_fit_into_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = invoke("patch", "--n", "3", "--any", "--sites", "resid_pre,attn_out")
    assert done.exit_code == 0
    about, memorized, control, *tables = done.stdout.splitlines()
    assert about.startswith("organism; memorized: 3 of A, control: 3 of C; denoising; means")
    assert memorized.startswith("memorized: NLL per token ")
    assert control.startswith("control: NLL per token ")
    assert "resid_pre: share of the damage undone" in done.stdout
    assert "by construction" in tables[-1]
    first = next(line for line in tables if line.strip().startswith("L0"))
    assert first.count("+100.0%") == 2  # the replaced token itself is put back
    assert max(len(line) for line in tables if "L" in line[:3]) <= 80


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_cells_are_means_of_the_labelled_results_which_out_keeps(foreign, direction):
    outputs = ["--out", foreign / "a.nc", "--figure", foreign / "a.html"]
    found = json.loads(invoke_on(foreign, "--direction", direction, "--json", *outputs).stdout)
    model = load_model(foreign / "neo")
    for number, (name, rows) in enumerate(rows_of(foreign).items()):
        tokens, at = corrupted(rows, perturb(model, rows, seed=0))
        result = patch(model, rows, tokens, at=at, direction=direction)
        for cell in found["cells"]:
            expected = float(result["effect"].sel(site=cell["site"], layer=cell["layer"]).mean())
            assert cell[name][0] == pytest.approx(expected, rel=1e-3, abs=1e-5)
        damage = found["damage"][number]
        assert (damage["set"], damage["used"], damage["unchanged"]) == (name, 3, 0)
        assert damage["NLL perturbed"][0] == pytest.approx(float(result["other_nll"].mean()), rel=1e-4)
        with xr.open_datatree(foreign / "a.nc", engine="h5netcdf") as tree:
            xr.testing.assert_allclose(tree[name].to_dataset()["effect"], result["effect"], atol=1e-4)
    means = [cell["memorized"][0] for cell in found["cells"]]
    assert len(means) == 3 * 4
    assert means == sorted(means, reverse=True)
    assert "Damage is the rise of the continuation" in (foreign / "a.html").read_text()


def test_heads_at_the_impact_token_use_changed_pairs_and_the_controls_own_words(foreign):
    options = ["--impact", "--sites", "v,z", "--seed", "1", "--figure", foreign / "a.html"]
    found = json.loads(invoke_on(foreign, *options, "--json").stdout)
    model, rows = load_model(foreign / "neo"), rows_of(foreign)
    rows = {"memorized": rows["memorized"], "control_own": with_own_continuation(model, rows["control"])}
    assert [row["set"] for row in found["damage"]] == list(rows)
    for damage, (name, one) in zip(found["damage"], rows.items(), strict=True):
        pairs = make_pairs(model, one, perturb(model, one, seed=1))
        assert damage["unchanged"] == int((~pairs.changed).sum())
        result = patch_pairs(model, pairs.select(pairs.changed), sites=("v", "z"))
        for cell in found["cells"]:
            values = result["logit_effect"].sel({axis: cell[axis] for axis in ("site", "layer", "head")})
            assert cell[name][0] == pytest.approx(float(values.mean()), rel=1e-3, abs=1e-4)
    assert "logit difference at the impact token" in (foreign / "a.html").read_text()
    printed = invoke_on(foreign, *options[:-2]).stdout
    assert "control, own words: 3 of" in printed
    assert "z: share of the damage undone" in printed


def test_pairs_that_do_not_change_are_counted(foreign, monkeypatch):
    def with_one_unchanged(*arguments, **options):
        pairs = make_pairs(*arguments, **options)
        pairs.impact[0] = -1
        return pairs

    monkeypatch.setattr("memhooks.measure.pairs.make_pairs", with_one_unchanged)
    done = invoke_on(foreign, "--impact", "--sites", "attn_out")
    assert done.stdout.count("; 1 dropped, as nothing they say changes") == 2


def test_the_prefix_is_mapped_position_by_position(foreign):
    options = ["--at", "prefix", "--sites", "resid_pre", "--n", "2"]
    found = json.loads(invoke_on(foreign, *options, "--json", "--figure", foreign / "a.html").stdout)
    assert len(found["cells"]) == 4 * 50
    assert {cell["pos"] for cell in found["cells"]} == set(range(50))
    page = (foreign / "a.html").read_text()
    assert page.count("plotly-graph-div") >= 2
    assert "resid_pre of layer 2" in page
    assert ", position " in invoke_on(foreign, *options).stdout


def test_one_paragraph_without_a_control_gives_valid_json(foreign):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    arguments = ["patch", "--model", foreign / "neo", "--paragraphs", foreign / "mine.pt", "--control", "none"]
    done = invoke(*arguments, "--n", "1", "--sites", "mlp_out", "--json")
    found = json.loads(done.stdout, parse_constant=refuse)
    assert set(found["cells"][0]) == {"site", "layer", "memorized"}
    assert found["cells"][0]["memorized"][1:] == [None, None]
