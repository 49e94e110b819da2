"""The study: what it leaves on disk, and that nothing can stop it for good."""

import inspect
import json
import multiprocessing
import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import xarray as xr

from memhooks.errors import InputError, Stopped
from memhooks.model.labelled import load_result
from memhooks.model.provenance import model_hash
from memhooks.one_run import alone_in
from memhooks.organism.paragraphs import load_unigram_counts
from memhooks.paragraphs.files import load_paragraphs, save_paragraphs
from memhooks.study import compute, truth
from memhooks.study.kept import Kept
from memhooks.study.run_folder import clear
from memhooks.study.settings import Settings
from memhooks.study.settings_file import load_settings, save_settings
from memhooks.study.stages import STAGES, readers_of, with_needs
from memhooks.study.study import Study
from memhooks.study.subject import load_subject
from tests.study_runs import short_files, small_settings

KILLS = int(os.environ.get("MEMHOOKS_KILLS", "3"))
"""`make soak` sets 20."""

KILLED = ("recitation", "perturbation", "sinks", "unlearning")
"""Stages of the run that is killed again and again: every kind of result, in few seconds."""


@pytest.fixture(scope="module", autouse=True)
def _fewer():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truth, "WRITTEN_IN", ("neurons",))
        patch.setattr(truth, "PARTS", ("layer", "bottom", "all"))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return short_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A whole study on files of one's own, with a twin and without what the twin read."""
    study, seen = Study(tmp_path_factory.mktemp("run") / "own", small_settings(files)), []
    study.report = study.run(watch=seen.append)
    study.seen = seen
    return study


def contents(folder, names=None):
    """Every result's bytes by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "results").glob("*/*.nc"))
        if names is None or str(path.relative_to(folder)) in names
    }


def test_every_stage_runs_or_says_why_not(run):
    ran = {event.stage for event in run.seen if event.kind == "stage"}
    assert ran | set(run.left_out) == set(STAGES)
    assert set(run.left_out) == {"forks", "capacity", "attention"}
    assert "token counts" in run.left_out["attention"]
    assert "twin" in run.left_out["forks"]
    shares = [event.share for event in run.seen]
    assert shares == sorted(shares)
    assert run.seen[-1].kind == "done"
    assert run.seen[-1].share == 1.0


def test_every_result_opens_with_xarray_alone(run):
    paths = list((run.folder / "results").glob("*/*.nc"))
    assert len(paths) == sum(len(found) for found in run.results.values())
    for path in paths:
        with xr.open_dataset(path, engine="h5netcdf") as result:
            xr.testing.assert_identical(result.load(), run.results[path.parent.name][path.stem])
    assert not list(run.folder.rglob("*.partial"))


def test_all_conditions_of_a_stage_use_the_same_rows(run):
    ids = {name: one["paragraph"].values.tolist() for name, one in run.results["lens"].items()}
    assert ids["memorized"] == ids["twin"]
    assert ids["control"] == ids["control_own"]
    assert not set(ids["memorized"]) & set(ids["control"])


def test_the_manifest_and_the_settings_say_what_was_run(run, files):
    manifest = json.loads((run.folder / "manifest.json").read_text())
    subject = load_subject(run.settings)
    assert manifest["models"] == {"model": model_hash(subject.model), "twin": model_hash(subject.twin)}
    assert "version_torch" in manifest["versions"]
    assert Settings(**load_settings(run.folder / "study.toml")) == small_settings(files)


def test_the_report_has_a_verdict_on_each_claim_and_the_paragraphs(run):
    html = run.report.read_text("utf8")
    for words in ("never seen (C), own continuation", "Can just that paragraph", "not run", "undecided"):
        assert words in html


def test_unlearning_is_seen_token_by_token(run):
    before, after = run.results["unlearned_tokens"]["before"], run.results["unlearned_tokens"]["after"]
    assert after["nll"].shape == before["nll"].shape == (2, 8)
    assert after["said"].dtype == before["said"].dtype
    table = run.results["unlearning"]["all"]
    assert set(table["mask"].values) == {"untouched", "top 0.1 %", "random 0.1 %", "all weights"}
    touched = (table["mask"] == "top 0.1 %") & (table["set"] == "target")
    assert table["nll"].values[touched.values] == pytest.approx(after["nll"].mean("pos").values, rel=1e-5)


def test_a_finished_run_is_read_and_computes_nothing(run, files, monkeypatch):
    monkeypatch.setattr("memhooks.study.study.compute", None)
    again = Study(run.folder, small_settings(files))
    again.run()
    assert {name: list(found) for name, found in again.results.items()} == {
        name: list(found) for name, found in run.results.items()
    }


def in_a_child(folder, settings):
    Study(folder, settings).run(KILLED)


def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(run, files, tmp_path):
    settings, folder = small_settings(files), tmp_path / "killed"
    whole = tmp_path / "whole"
    start = time.perf_counter()
    Study(whole, settings).run(KILLED)
    seconds, moments = time.perf_counter() - start, random.Random(0)
    for _ in range(KILLS):
        child = multiprocessing.get_context("fork").Process(target=in_a_child, args=(folder, settings))
        child.start()
        child.join(moments.uniform(0.05, 0.6) * seconds)
        child.kill()
        child.join(30)
        assert child.exitcode in (-9, 0)
    Study(folder, settings).run(KILLED)
    assert contents(folder) == contents(whole)
    same = set(contents(whole))
    assert contents(run.folder, same) == contents(whole, same)  # and other stages change nothing


def test_two_runs_on_one_folder_exclude_each_other(files, tmp_path):
    with alone_in(tmp_path), pytest.raises(InputError, match="another run is at work in"):
        Study(tmp_path, small_settings(files)).run()
    with alone_in(tmp_path):
        pass  # free again


def test_a_full_disk_is_an_error_that_names_the_file_and_the_run_goes_on(run, files, tmp_path, monkeypatch):
    full = tmp_path / "results" / "recitation" / "memorized.nc.partial"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*memorized\.nc'") as raised:
        Study(tmp_path, small_settings(files)).run(["recitation"])
    assert raised.value.errno == 28
    Study(tmp_path, small_settings(files)).run(["recitation"])
    assert contents(tmp_path) == contents(run.folder, set(contents(tmp_path)))


def test_an_unwritable_folder_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("memhooks.study.study.load_subject", None)
    with pytest.raises(InputError, match="cannot write to /proc/nowhere/run"):
        Study(Path("/proc/nowhere/run")).run()


def test_max_minutes_stops_and_the_same_call_goes_on(files, tmp_path):
    study = Study(tmp_path, small_settings(files))
    with pytest.raises(Stopped, match="the same command goes on from here"):
        study.run(["recitation"], max_minutes=0.0)
    assert not contents(tmp_path)
    study.run(["recitation"], max_minutes=60.0)
    assert len(contents(tmp_path)) == 3


def test_other_settings_models_or_code_are_refused_until_restart(files, tmp_path, monkeypatch):
    settings = small_settings(files)
    Study(tmp_path, settings).run(["recitation"])
    with pytest.raises(InputError, match=r"other settings: seed \(0 there, 1 now\).*--restart"):
        Study(tmp_path, small_settings(files, seed=1)).run(["recitation"])
    monkeypatch.setattr("memhooks.study.run_folder.code_hash", lambda: "other")
    with pytest.raises(InputError, match="other versions: memhooks code"):
        Study(tmp_path, settings).run(["recitation"])
    mine = [tmp_path / "mine.txt", tmp_path / "results" / "recitation" / "mine.nc", tmp_path / "results" / "own.nc"]
    for path in mine:
        path.write_text("kept")
    there = contents(tmp_path)
    with pytest.raises(InputError, match="no file at"):  # what cannot run deletes nothing
        Study(tmp_path, small_settings(files | {"paragraphs": "no.jsonl"})).run(["recitation"], restart=True)
    assert contents(tmp_path) == there
    Study(tmp_path, small_settings(files, seed=1)).run(["recitation"], restart=True)
    assert [path.read_text() for path in mine] == ["kept"] * 3


def test_clear_leaves_a_folder_that_holds_no_study_alone(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "years.txt").write_text("of work")
    clear(tmp_path)
    assert (tmp_path / "results" / "years.txt").read_text() == "of work"


def test_a_first_try_that_failed_leaves_the_folder_free(files, tmp_path):
    with pytest.raises(InputError, match="no file at"):
        Study(tmp_path, small_settings(files | {"paragraphs": "no.jsonl"})).run(["recitation"])
    Study(tmp_path, small_settings(files)).run(["recitation"])


def test_the_same_tokens_with_another_prefix_are_another_text(files, tmp_path):
    Study(tmp_path / "run", small_settings(files)).run(["recitation"])
    rows = load_paragraphs(files["paragraphs"])
    content = Path(files["paragraphs"]).read_bytes()
    try:
        save_paragraphs(replace(rows, n_prefix=20), files["paragraphs"])
        with pytest.raises(InputError, match="other paragraphs: candidates"):
            Study(tmp_path / "run", small_settings(files)).run(["recitation"])
    finally:
        Path(files["paragraphs"]).write_bytes(content)


def test_again_computes_anew_what_was_done_and_what_reads_it(run, files, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "copy")
    before, seen = contents(folder), []
    Study(folder, small_settings(files)).run(["recitation"], again=["lens"], watch=seen.append)
    made = {event.stage for event in seen if event.kind == "result" and not event.reused}
    assert made == {"lens", "viewer"}
    assert contents(folder) == before


def test_the_viewer_shows_the_heads_of_later_stages(run, files, tmp_path):
    Study(tmp_path, small_settings(files)).run(["viewer"])
    study = Study(tmp_path, small_settings(files))
    study.run(["ablation", "viewer"])
    assert contents(tmp_path) == contents(run.folder, set(contents(tmp_path)))


def test_a_stage_that_cannot_run_is_left_out_with_what_reads_it(files, tmp_path, monkeypatch):
    def too_little(*given, **settings):
        raise InputError("too little text")

    monkeypatch.setattr("memhooks.study.interventions.drop_by_position", too_little)
    study, seen = Study(tmp_path, small_settings(files)), []
    study.run(["patching"], watch=seen.append)
    assert study.left_out["perturbation"] == "too little text"
    assert study.left_out["patching"] == "reads the stage perturbation, which is left out"
    assert set(study.results) == {"recitation"}
    assert all(0 <= event.share <= 1 and (event.left is None or event.left >= 0) for event in seen)


@pytest.mark.parametrize("minutes", [float("nan"), float("inf"), -1.0])
def test_a_limit_that_is_none_is_refused(minutes, tmp_path):
    with pytest.raises(InputError, match="max_minutes must be a number of minutes"):
        Study(tmp_path).run(max_minutes=minutes)


def test_a_damaged_result_is_named(files, tmp_path):
    Study(tmp_path, small_settings(files)).run(["recitation"])
    path = tmp_path / "results" / "recitation" / "memorized.nc"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"memorized\.nc.*delete this file, and the run goes on from there"):
        Study(tmp_path, small_settings(files)).run(["recitation"])
    path.unlink()
    Study(tmp_path, small_settings(files)).run(["recitation"])
    assert len(contents(tmp_path)) == 3


def test_the_bundled_study_reaches_what_only_it_has(tmp_path):
    settings = Settings(n_planted=48, n_controls=40, n_counted=8, n_swapped=2, n_attention=4, n_ablated=4, threads=1)
    study = Study(tmp_path, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compute, "_intervene", lambda *given: None)
        study.run(["forks", "capacity"])
    assert set(study.results["forks"]) == {"line", "swaps", "counterfactual"}
    assert set(study.results["capacity"]) == {"memorized", "mirror", "control", "table"}
    assert set(study.results["recitation"]) == {"memorized", "twin", "natural", "control"}
    assert load_unigram_counts().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paragraphs": "mine.jsonl"}, "needs paragraphs .* and controls"),
        ({"model": "elsewhere"}, "a study of elsewhere needs paragraphs"),
        ({"paragraphs": "no.jsonl", "controls": "no2.jsonl"}, "there is no file at no.jsonl"),
    ],
)
def test_a_study_of_ones_own_needs_text_and_a_control(changes, message):
    with pytest.raises(InputError, match=message):
        load_subject(Settings(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_lens": 0}, "n_lens must be from 2 to"),
        ({"n_lens": 2.5}, "n_lens must be a whole number; got 2.5"),
        ({"fraction": 2}, "fraction must be from 1e-09 to 1; got 2"),
        ({"model": 3}, "model must be a text"),
        ({"seed": True}, "seed must be a whole number"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    unchecked = inspect.unwrap(Settings.__init__)  # without the types that tests check everywhere
    with pytest.raises(InputError, match=message):
        unchecked(object.__new__(Settings), **changes)


def test_the_settings_file_keeps_every_value_and_says_what_it_means(tmp_path):
    settings = Settings(model='a "quoted" \\ näme', lr_all=1e-7, n_steps=3)
    save_settings(settings, tmp_path / "study.toml")
    assert Settings(**load_settings(tmp_path / "study.toml")) == settings
    assert "# unlearning: updates, at most\nn_steps = 3" in (tmp_path / "study.toml").read_text("utf8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_step = 3", "did you mean n_steps"),
        ("zzz = 1", "there are model, twin"),
        ("a = = 1", "cannot be read as TOML"),
    ],
)
def test_a_bad_settings_file_is_refused(text, message, tmp_path):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_settings(tmp_path / "study.toml")
    with pytest.raises(InputError, match="no settings file at"):
        load_settings(tmp_path / "none.toml")


def test_stages_bring_what_they_read_and_drop_what_reads_them():
    assert with_needs(["patching"]) == ("recitation", "perturbation", "patching")
    assert readers_of(["perturbation"]) == ("perturbation", "patching", "viewer")
    assert readers_of(["recitation"]) == STAGES
    with pytest.raises(InputError, match="no stage 'patchin'; did you mean patching"):
        with_needs(["patchin"])
    with pytest.raises(InputError, match="no stage is asked for"):
        with_needs([])


def test_a_result_is_computed_once_until_it_is_dropped(tmp_path):
    made, calls = Kept(tmp_path), []

    def compute_once():
        calls.append(1)
        return xr.Dataset({"a": ("row", [float(len(calls))])})

    for _ in range(2):
        with made.stage("one"):
            made("name", "condition", compute_once)
    assert len(calls) == 1
    assert made.finished("one")
    assert not made.finished("two")
    made.drop("one")
    assert not made.finished("one")
    with made.stage("one"):
        assert float(made("name", "condition", compute_once)["a"][0]) == 2
    assert load_result(tmp_path / "results" / "name" / "condition.nc").identical(made.results["name"]["condition"])
