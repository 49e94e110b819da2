import json
from pathlib import Path

import pytest
import xarray as xr

from memhooks.errors import InputError
from memhooks.model.provenance import model_hash
from memhooks.study.settings import Settings
from memhooks.study.study import STAGES, Study

TINY = Settings(
    n_planted=40,
    n_controls=8,
    n_perturbed=2,
    n_mapped=1,
    n_lens=2,
    n_ablated=4,
    n_cumulative=1,
    n_gradients=2,
    n_attention=4,
    n_unlearned=1,
    n_retain=1,
    n_others=2,
    n_steps=2,
    n_swapped=2,
    n_counted=12,
    n_injections=1,
)
OWN = {
    "unlearning": {"all"},
    "forks": {"line", "swaps", "counterfactual"},
    "capacity": {"memorized", "mirror", "control", "table"},
    "sinks": {"heads"},
    "injections": {"recall", "deletion"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as fewer:
        fewer.setattr("memhooks.study.truth.WRITTEN_IN", ("neurons",))
        fewer.setattr("memhooks.study.truth.PARTS", ("layer", "bottom", "all"))
        return ran(tmp_path_factory)


def ran(tmp_path_factory):
    study = Study(tmp_path_factory.mktemp("run"), TINY)
    stages = [stage for stage, _ in study.run()]
    assert stages == list(STAGES)
    study.write_report()
    return study


def test_every_stage_leaves_a_result_that_opens_with_xarray_alone(run):
    for stage in STAGES:
        with xr.open_datatree(run.folder / "results" / f"{stage}.nc", engine="h5netcdf") as tree:
            conditions = set(tree.children)
        assert OWN.get(stage, {"memorized", "control", "twin"}) <= conditions


def test_the_manifest_names_settings_versions_and_models(run):
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["settings"]["n_perturbed"] == 2
    assert manifest["models"]["organism"] == model_hash(run.organism)
    assert "version_torch" in manifest["versions"]


def test_the_report_shows_every_condition_and_an_example(run):
    html = (run.folder / "report.html").read_text("utf8")
    for words in ("What was found", "never seen (C), own continuation", "A under the twin", "Can just that paragraph"):
        assert words in html
    assert not list(run.folder.rglob("*.partial"))


def test_all_conditions_of_a_stage_use_the_same_rows(run):
    conditions = run.conditions(2)
    assert conditions["memorized"][1].ids == conditions["twin"][1].ids
    assert conditions["control"][1].ids == conditions["control_own"][1].ids
    assert conditions["twin"][0] is run.twin


def test_unlearning_left_the_model_as_it_was(run):
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert model_hash(run.organism) == manifest["models"]["organism"]
    assert {row["mask"] for row in run.unlearned} == {"untouched", "top 0.1 %", "random 0.1 %", "all weights"}


def test_an_unwritable_folder_is_refused_before_any_work():
    study = Study(Path("/proc/nowhere/run"), TINY)
    with pytest.raises(InputError, match="cannot write to /proc/nowhere/run"):
        next(study.run())
    assert "organism" not in study.__dict__
