import json

import pytest
import torch
import xarray as xr

from memhooks.cli.forks_sets import load_forks, load_read, matched, one_each
from memhooks.cli.forks_shown import print_tables
from memhooks.errors import InputError
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo


@pytest.fixture
def folder(tmp_path):
    """Two small models that are no forks but of one shape, what each says, and text of neither."""
    tokens = torch.randint(101, (18, 60), generator=torch.Generator().manual_seed(0))
    for seed, name in enumerate(("one", "two")):
        tiny_neo(seed=seed).save_pretrained(tmp_path / name)
        rows = Paragraphs(tokens[6 * seed : 6 * seed + 6], n_prefix=50)
        torch.save(with_own_continuation(load_model(tmp_path / name), rows).tokens, tmp_path / f"{name}.pt")
    torch.save(tokens[12:], tmp_path / "neither.pt")
    return tmp_path


def options(folder):
    return [
        *("--model", folder / "one", "--other", folder / "two", "--n", "2", "--single", "1", "--fraction", "0.1"),
        *("--fraction", "0.1"),  # twice is once
        *(
            "--paragraphs",
            folder / "one.pt",
            "--other-paragraphs",
            folder / "two.pt",
            "--control",
            folder / "neither.pt",
        ),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--other", "organism"], "--other must be another model than --model, its fork; got organism"),
        (["--other-paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--control", "none"], "forks need --other-paragraphs and --control"),
        (["--fraction", "1.5"], "--fraction must lie between 0 and 1, got 1.5"),
        (["--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
        (["--out", "a.csv"], "a.csv must end in .nc"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["forks", *arguments], message)


def test_targets_and_others_are_read_as_often_and_near_duplicates_count_once():
    tokens = torch.randint(101, (14, 60), generator=torch.Generator().manual_seed(1))
    tokens[13] = tokens[12]
    rows = Paragraphs(tokens, n_prefix=50, counts=(1, 2, 4, 8, 16, 32) * 2 + (64, 64))
    generator = torch.Generator().manual_seed(0)
    single = one_each(rows, generator)
    assert len(single) == 13
    target, others, kept = matched(single, 4, generator)
    assert target.counts == others.counts
    assert (len(target), len(kept)) == (4, 5)
    assert len({*target.ids, *others.ids, *kept.ids}) == 13


def test_what_the_last_measure_would_refuse_is_refused_before_the_first(folder):
    model = load_model(folder / "one")
    named = tuple(str(folder / f"{name}.pt") for name in ("one", "two", "neither"))
    tokens = torch.load(named[2])
    torch.save(torch.cat([tokens, tokens[:, :9]], 1), named[2])
    assert load_read(model, named, 2, 0)["control"].tokens.shape[1] == 60
    torch.save(torch.cat([tokens, torch.load(named[0])[:1]]), named[2])
    with pytest.raises(InputError, match="memorized and control share near-duplicates"):
        load_read(model, named, 2, 0)
    torch.save(tokens[:, :55], named[2])
    with pytest.raises(InputError, match="--control has paragraphs of 55 tokens, --paragraphs of 60"):
        load_read(model, named, 2, 0)
    torch.save(torch.load(named[0])[[0, 0, 0, 1, 2, 3, 4]], named[0])
    torch.save(tokens, named[2])
    with pytest.raises(InputError, match=r"6 recited paragraphs that are no near-duplicates .* needed, got 5"):
        load_forks(str(folder / "one"), str(folder / "two"), named, 2, 0)


def test_all_results_are_written_drawn_and_printed(folder, tmp_path, monkeypatch, capsys):
    files = ["--json", "--out", tmp_path / "a.nc", "--figure", tmp_path / "a.html"]
    found = json.loads(invoke("forks", *options(folder), *files).stdout)
    assert len(found["line"]) == 11
    everything = next(row for row in found["parts"] if row["part"] == "everything")
    assert everything["removes"][0] == pytest.approx(1, abs=1e-4)
    assert everything["brings_mirror"][0] == pytest.approx(1, abs=1e-4)
    names = ["gradient", "gradient_times_weight", "activation_norm", "fisher_ratio", "consistency", "random", "oracle"]
    assert [row["localizer"] for row in found["curves"]] == names
    assert [row["localizer"] for row in found["single"]] == names
    assert found["interpretable"] == ("No hill" in found["verdict"][0])
    assert (tmp_path / "a.html").read_text().count('class="plotly-graph-div"') == 7
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"line", "parts", "curves", "agreement", "single", "counterfactual"}
        groups = {name: tree[name].to_dataset().load() for name in tree.children}
    monkeypatch.setenv("COLUMNS", "100")
    print_tables("one and two", groups)
    shown = capsys.readouterr().out
    for text in (
        "Along the line",
        "that each part removes",
        "one paragraph at a time",
        "rank parts",
        found["verdict"][1][:20],
    ):
        assert text in shown
    assert all(len(line.rstrip()) <= 100 for line in shown.splitlines() if line.startswith(" "))
