import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.massive import massive_activations
from memhooks.truth.sinks import attention_sinks
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--paragraphs", "nowhere.pt"], "no paragraph file at nowhere.pt"),
        (["--twin", "organism"], "--twin must be another model than --model"),
        (["--figure", "a.png"], "a.png must end in .html"),
        (["--out", "a.csv"], "a.csv must end in .nc"),
    ],
)
def test_unusable_input_is_refused_in_one_line(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["sinks", *arguments], message)


def test_numbers_are_those_of_the_library_for_the_users_own_files(tmp_path, neo):
    neo.save_pretrained(tmp_path / "neo")
    tiny_neo(seed=1).save_pretrained(tmp_path / "twin")
    model, tokens = (
        load_model(tmp_path / "neo"),
        torch.randint(101, (8, 60), generator=torch.Generator().manual_seed(0)),
    )
    rows = with_own_continuation(model, Paragraphs(tokens[:4], n_prefix=50))
    torch.save(rows.tokens, tmp_path / "mine.pt")
    torch.save(tokens[4:], tmp_path / "other.pt")
    files = ["--paragraphs", tmp_path / "mine.pt", "--control", tmp_path / "other.pt", "--twin", tmp_path / "twin"]
    arguments = ["sinks", "--model", tmp_path / "neo", *files, "--n-units", "2"]
    done = invoke(*arguments, "--out", tmp_path / "a.nc", "--figure", tmp_path / "a.html")
    assert "Rare-token correlation without a key" in done.stdout
    assert (tmp_path / "a.html").read_text().count('class="plotly-graph-div"') == 3
    massive, sinks = massive_activations(model, rows), attention_sinks(model, rows)
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        assert set(tree.children) == {"heads", "memorized", "control", "twin", "held"}
        np.testing.assert_allclose(tree["memorized/massive/largest"], massive["largest"], rtol=1e-4)
        means = sinks["first"].mean("paragraph").values.ravel()
        np.testing.assert_allclose(tree["heads/memorized"], means, atol=1e-5)
