import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.attention import rare_token_attention
from memhooks.localize.attention_rows import attention_of
from memhooks.localize.each_part import ablate_each
from memhooks.localize.memorization_head import memorization_head
from memhooks.localize.published_statistic import published_statistic
from memhooks.localize.rare_token_heads import rare_token_heads
from memhooks.localize.specificity import specificity
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import load_model
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo


@pytest.fixture
def foreign(tmp_path, neo):
    """A foreign model's folder, a twin's, two files of paragraphs (it recites the first), and corpus counts."""
    neo.save_pretrained(tmp_path / "neo")
    tiny_neo(seed=1).save_pretrained(tmp_path / "twin")
    tokens = torch.randint(101, (10, 60), generator=torch.Generator().manual_seed(0))
    recited = with_own_continuation(load_model(tmp_path / "neo"), Paragraphs(tokens[:5], n_prefix=50))
    torch.save(recited.tokens, tmp_path / "mine.pt")
    torch.save(tokens[5:], tmp_path / "other.pt")
    np.save(tmp_path / "counts.npy", np.random.default_rng(0).permutation(101) * 7)
    return tmp_path


def invoke_on(folder, *arguments):
    files = ["--paragraphs", folder / "mine.pt", "--control", folder / "other.pt"]
    return invoke("attention", "--model", folder / "neo", *files, *arguments)


def rows_of(folder):
    files = {"memorized": "mine.pt", "control": "other.pt"}
    return {name: Paragraphs(torch.load(folder / file), n_prefix=50) for name, file in files.items()}


def own_counts(folder):
    """How often each token stands in either file, counted by hand."""
    tokens = [token for rows in rows_of(folder).values() for row in rows.tokens.tolist() for token in row]
    return torch.tensor([tokens.count(token) for token in range(101)])


def assert_heads_are(found, probed, sets):
    """Every head's numbers in the JSON are those of the library's own tables."""
    judged = memorization_head(probed, sets={name: sets[name] for name in ("memorized", "control")}, seed=0)
    assert [row["head"] for row in found["heads"]] == judged.table.sortby("spearman")["row"].values.tolist()
    for name, one in probed.items():
        table = rare_token_heads(one, seed=0, clusters=clusters(sets[name]))
        published = published_statistic(one).isel(query=0)
        for row in found["heads"]:
            cell = table.sel(row=row["head"])
            for key in ("spearman", "partial_spearman", "share_on_rarest", "entropy"):
                ends = [float(cell[f"{key}{end}"]) for end in ("", "_low", "_high")]
                assert row[f"{key} {name}"] == pytest.approx(ends, abs=1e-5)
            assert row[f"p_value {name}"] == pytest.approx(float(cell["p_value"]))
            place = {"layer": int(cell["layer"]), "head": int(cell["head"])}
            assert row[f"published_kendall {name}"] == pytest.approx(
                float(published["summed_kendall"].sel(place)), abs=1e-5
            )
            uniform = float(published["uniform_kendall"].sel(layer=place["layer"]))
            assert row[f"published_uniform_kendall {name}"] == pytest.approx(uniform, abs=1e-9)
            if name != "memorized":
                p = float(judged.table[f"p_less_than_{name}"].sel(row=row["head"]))
                assert row[f"p_less_than_{name}"] == pytest.approx(p)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--model", "EleutherAI/gpt-neo-125M"], "the bundled set A belongs to organism and organism-twin"),
        (["--twin", "organism"], "--twin must be another model than --model"),
        (["--counts", "nowhere.npy"], "no counts file at nowhere.npy; give a .npy file or `own`"),
        (["--counts", "README.md"], "README.md must end in .npy"),
        (["--paragraph", "A300"], "--paragraph A300 is drawn in the figure; give --figure FILE.html, too"),
        (["--figure", "a.jpg"], "a.jpg must end in .html or .png or .svg or .pdf"),
        (["--out", "a.csv"], "a.csv must end in .nc"),
        (["--figure", "/proc/nowhere/a.html"], "cannot write to /proc/nowhere"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["attention", *arguments], message)


def test_questions_that_the_model_cannot_answer_are_refused(foreign, tmp_path):
    with pytest.raises(InputError, match="query 1 sees 2 prefix tokens in layer 0"):
        invoke_on(foreign, "--query", "1")
    with pytest.raises(InputError, match=r"queries must be different positions in 0\.\.59, got \[60\]"):
        invoke_on(foreign, "--query", "60")
    with pytest.raises(
        InputError, match=r"no paragraph '7' among those given \(.*mine.pt: 0 to 4, .*other.pt: 0 to 4\)"
    ):
        invoke_on(foreign, "--paragraph", "7", "--figure", tmp_path / "a.html")
    np.save(tmp_path / "short.npy", np.arange(100))
    with pytest.raises(InputError, match="expected 101 integer counts"):
        invoke_on(foreign, "--counts", tmp_path / "short.npy")
    tiny_neo(heads=2).save_pretrained(foreign / "wide")
    with pytest.raises(InputError, match="has 4 layers of 2 heads"):
        invoke_on(foreign, "--twin", foreign / "wide")


def test_help_loads_no_torch_and_says_what_a_candidate_is():
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom memhooks import cli\n"
        "print(CliRunner().invoke(cli.app, ['attention', '--help']).stdout)\n"
        "sys.exit(bool({'torch', 'transformers', 'plotly', 'numpy', 'xarray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    for text in ("Below 0: rare tokens get more", "memorization-head candidate", "Caveats: ", "Examples "):
        assert text in words, text


def test_the_verdict_and_tables_on_the_organism_fit_into_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = invoke("attention", "--n", "8", "--any")
    assert done.exit_code == 0
    assert "twin: organism-twin; counts: training text without planted copies" in done.stdout
    assert "attends to rare tokens" in done.stdout
    lines = [line.rstrip() for line in done.stdout.splitlines() if line.startswith(" ")]
    assert all(len(line) <= 80 for line in lines)
    # L0H6 looks at rare tokens in all text. Its row stands in three tables, with all intervals on one line.
    assert [line.count("[") for line in lines if line.startswith(" L0H6")] == [3, 1, 2]


def test_candidates_and_they_alone_are_ablated_unless_told_not_to(foreign, monkeypatch, tmp_path):
    rows, model = rows_of(foreign), load_model(foreign / "neo")

    def planted(asked, paragraphs, *arguments, **options):
        """As it is, but L1H2 and L3H0 look at rare tokens where the model reads what it recites."""
        found = rare_token_attention(asked, paragraphs, *arguments, **options)
        if model_hash(asked) == model_hash(model) and torch.equal(paragraphs.tokens, rows["memorized"].tokens):
            for place in ({"layer": 1, "head": 2}, {"layer": 3, "head": 0}):
                for name in ("spearman", "partial_spearman"):
                    found[name].loc[place] = np.linspace(-0.99, -0.95, len(paragraphs))[:, None]
                for name in ("p_value", "p_within"):
                    found[name].loc[place] = 0.001
        return found

    monkeypatch.setattr("memhooks.cli.attention_found.rare_token_attention", planted)
    arguments = ["--twin", foreign / "twin", "--json"]
    found = json.loads(invoke_on(foreign, *arguments, "--out", tmp_path / "a.nc").stdout)
    assert sorted(found["candidates"]) == ["L1H2", "L3H0"]
    worth = specificity({name: ablate_each(model, one, heads=[(1, 2), (3, 0)]) for name, one in rows.items()}, seed=0)
    assert sorted(row["head"] for row in found["ablation"]) == ["L1H2", "L3H0"]
    for row in found["ablation"]:
        one = worth.sel(row=row["head"])
        assert row["memorized"][0] == pytest.approx(float(one["memorized"]), abs=1e-4)
        assert row["p_more_than_control"] == pytest.approx(float(one["p_more_than_control"]), abs=1e-3)
        largest = max(row["p_more_than_control"], row["p_more_than_control_own"])
        assert (row["head"] in found["confirmed"]) == (largest <= 0.05)
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"memorized", "control", "twin", "heads", "specificity"}
        assert tree["heads"].attrs["verdict"] == found["verdict"]
    plain = json.loads(invoke_on(foreign, *arguments, "--no-confirm").stdout)
    assert (plain["candidates"], plain["confirmed"], plain["ablation"]) == (found["candidates"], [], [])
    assert "what ablation costs was not given" in plain["verdict"]
    shown = invoke_on(foreign, "--twin", foreign / "twin", "--figure", tmp_path / "a.html").stdout
    assert "NLL rise (nats per token) without the candidate" in shown
    assert "Does L1H2 look at rare tokens?" in (tmp_path / "a.html").read_text()


def test_numbers_are_those_of_the_library_for_the_users_own_model_and_files(foreign):
    arguments = ["--counts", foreign / "counts.npy", "--twin", foreign / "twin", "--query", "52", "--skip-first"]
    found = json.loads(invoke_on(foreign, *arguments, "--n-rarest", "3", "--json").stdout)
    rows, counts = rows_of(foreign), torch.from_numpy(np.load(foreign / "counts.npy"))
    model, twin = load_model(foreign / "neo"), load_model(foreign / "twin")
    sets = rows | {"twin": rows["memorized"]}
    asked = {"queries": [52], "skip_first": True, "n_rarest": 3, "seed": 0}
    probed = {
        name: rare_token_attention(twin if name == "twin" else model, one, counts, clusters=clusters(one), **asked)
        for name, one in sets.items()
    }
    assert (found["query"], found["n_rarest"], len(found["heads"])) == (52, 3, 16)
    assert_heads_are(found, probed, sets)


def test_counts_of_other_models_come_from_both_whole_files_by_default(foreign):
    rows, model = rows_of(foreign), load_model(foreign / "neo")
    arguments = ["--n", "3", "--json"]
    found = json.loads(invoke_on(foreign, *arguments).stdout)
    assert found == json.loads(invoke_on(foreign, *arguments, "--counts", "own").stdout)
    sets = {name: one.sample(3, seed=0) for name, one in rows.items()}
    probed = {
        name: rare_token_attention(model, one, own_counts(foreign), clusters=clusters(one), seed=0)
        for name, one in sets.items()
    }
    assert_heads_are(found, probed, sets)
    assert "counts: the 600 tokens of the sets themselves" in invoke_on(foreign).stdout


def test_the_page_shows_a_paragraphs_attention_and_the_tree_keeps_all_results(foreign, tmp_path):
    files = ["--figure", tmp_path / "a.html", "--out", tmp_path / "a.nc"]
    done = invoke_on(foreign, "--paragraph", "2", *files)
    assert done.exit_code == 0
    page = (tmp_path / "a.html").read_text()
    assert page.count('class="plotly-graph-div"') == 6
    assert "Where do heads look in 2?" in page
    model, rows = load_model(foreign / "neo"), rows_of(foreign)["memorized"]
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"memorized", "control", "heads", "paragraph"}
        assert set(tree["control"].children) == {"attention", "heads", "published"}
        view = tree["paragraph/attention"].to_dataset()
        expected = attention_of(model, rows.select([2]))["attention"]
        np.testing.assert_allclose(view["attention"], expected, atol=1e-5)
    assert f"{int(rows.tokens[2, 0])}" in page


def test_without_a_control_heads_are_still_named_but_nothing_is_said_of_memorization(foreign, tmp_path):
    done = invoke_on(foreign, "--control", "none", "--figure", tmp_path / "a.html")
    assert "Without a control it is open whether memorized text is special" in done.stdout
    found = json.loads(invoke_on(foreign, "--control", "none", "--twin", foreign / "twin", "--json").stdout)
    assert (found["candidates"], found["ablation"], len(found["heads"])) == ([], [], 16)
    assert {key for key in found["heads"][0] if key.startswith("spearman ")} == {"spearman memorized", "spearman twin"}


def test_one_paragraph_has_no_intervals_but_still_valid_json(foreign, tmp_path):
    torch.save(torch.load(foreign / "mine.pt")[:1], foreign / "mine.pt")

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    done = invoke_on(foreign, "--json", "--figure", tmp_path / "a.html")
    found = json.loads(done.stdout, parse_constant=refuse)
    assert found["heads"][0]["spearman memorized"][1:] == [None, None]
    assert "[?,?]" in invoke_on(foreign).stdout
