import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from memhooks.errors import InputError
from memhooks.truth.published import prepare, weights
from memhooks.truth.published.claims import claims
from memhooks.truth.published.files import Held
from memhooks.truth.published.parts import Measured
from memhooks.truth.published.run import Run, check_numbers
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.stand_in import stand_in_model, stand_in_text
from memhooks.truth.published.substitute import Benchmark
from memhooks.truth.published.tables import as_json, layer_sums_of, summary, table_of
from memhooks.truth.published.targets import LAYER_SUMS, NUMBERS, TARGETS, target
from memhooks.truth.published.verdicts import judged
from memhooks.truth.published.weights import check_weights

NO_MODEL = Setting(None, stand_in_text(2, d_vocab=101, seed=0))


@pytest.fixture(scope="module")
def stand_in():
    model = stand_in_model((4, 4, 32, 101), seed=0)
    return Setting(model, stand_in_text(4, d_vocab=101, seed=0), rows=1, stand_in=True)


@pytest.fixture(scope="module")
def finished(stand_in, tmp_path_factory):
    run = Run(stand_in, tmp_path_factory.mktemp("run"))
    assert len(list(run.measure())) == len(run.parts())
    return run


def test_every_row_of_a_stand_in_has_a_verdict_and_none_is_compared(finished):
    rows = finished.rows()
    assert [one.target.key for one in rows] == [one.key for one in TARGETS]
    assert {one.verdict for one in rows} == {"not compared"}
    missing = [one.target.key for one in rows if one.measured is None]
    assert missing == ["5", "21.examples"]
    assert all(one.reason == "stand-in" for one in rows if one.measured is not None)
    assert summary(rows, finished.setting).startswith(f"{len(rows)} rows: 0 reproduced, 0 not reproduced")
    assert "The weights are random" in summary(rows, finished.setting)


def test_the_table_holds_what_was_measured(finished):
    rows = finished.rows()
    table = table_of(rows, finished.setting)
    assert table["published"].sel(row="6.50") == 9.71
    assert table["measured"].sel(row="6.50") == pytest.approx(finished.found()["gradients-50"]["sum"])
    sums = layer_sums_of(rows, finished.setting)
    assert sums["measured"].shape == (4, 4)
    assert tuple(sums["published"].sel(row="50").values) == LAYER_SUMS["50"]
    assert layer_sums_of(rows[:3], finished.setting) is None
    printed = {one["row"]: one for one in json.loads(json.dumps(as_json(rows)))}
    assert printed["5"]["measured"] is None
    assert len(printed["6.layers 50"]["measured"]) == 4


def test_every_claim_has_a_number_and_a_control(finished):
    made = claims(finished.setting, finished.found())
    assert len(made) == 12
    assert all(one.measured and one.control and one.published for one in made)
    assert claims(finished.setting, {}) == []


def test_a_killed_run_goes_on_where_it_was(stand_in, tmp_path):
    run = Run(stand_in, tmp_path, (6, 21))
    steps = run.measure()
    first = next(steps)[0]
    steps.close()
    again = Run(stand_in, tmp_path, (6, 21))
    assert len(again.left()) == len(again.parts()) - 1
    kept = (tmp_path / "parts" / f"{first}.json").read_bytes()
    names = [name for name, _ in again.measure()]
    assert first not in names
    assert (tmp_path / "parts" / f"{first}.json").read_bytes() == kept
    assert again.left() == []
    assert not list(tmp_path.rglob("*.partial"))
    (tmp_path / "parts" / f"{first}.json").write_text("{", "utf8")
    assert [part.name for part in again.left()] == [first]  # damaged by others


def test_another_runs_folder_is_refused(stand_in, tmp_path):
    Run(stand_in, tmp_path)
    with pytest.raises(InputError, match="holds another run: seed differ; delete it or give another --folder"):
        Run(replace(stand_in, seed=1), tmp_path)
    with pytest.raises(InputError, match="rows, trials differ"):
        Run(replace(stand_in, rows=5), tmp_path)
    (tmp_path / "configuration.json").write_text("{", "utf8")
    with pytest.raises(InputError, match=r"configuration.json: damaged; delete"):
        Run(stand_in, tmp_path)


def test_runs_that_cannot_be():
    with pytest.raises(InputError, match="rows of the table are 1 to 21, got 22, 99"):
        check_numbers((1, 22, 99))
    with pytest.raises(InputError, match="got none"):
        check_numbers(())
    with pytest.raises(InputError, match="rows must be at least 1, got 0"):
        replace(NO_MODEL, rows=0)
    with pytest.raises(InputError, match="this row needs a model"):
        _ = NO_MODEL.loaded


def test_parts_need_a_folder(stand_in):
    with pytest.raises(InputError, match="needs a folder"):
        list(Run(stand_in, None, (21,)).measure())


def test_rows_without_weights_need_neither_model_nor_folder():
    rows = {one.target.key: one for one in Run(NO_MODEL, None, (1, 2, 3)).rows()}
    assert rows["1.MP"].measured.values == (2.0,)
    assert rows["1.MP"].verdict == "not reproduced"
    assert rows["1.MP"].reason == "off by 440, a count"


def as_published(*, rows=50, substitute="", missing=(), against=""):
    """A setting as of the published model, with some of the files."""
    everything = stand_in_text(2, d_vocab=101, seed=0)
    sets = {name: one for name, one in everything.sets.items() if name not in missing}
    kind = type("Published", (Setting,), {"not_comparable": against})
    return kind(None, replace(everything, sets=sets, substitute=substitute), rows)


@pytest.mark.parametrize(
    ("key", "measured", "options", "verdict", "reason"),
    [
        ("6.50", (9.713,), {}, "reproduced", "within 0.005"),
        ("6.50", (9.80,), {}, "not reproduced", "off by 0.09, half of the last published digit"),
        ("6.50", (9.71,), {"rows": 2}, "not compared", "2 of 50 rows"),
        ("6.50", (9.71,), {"against": "stand-in"}, "not compared", "stand-in"),
        ("6.50", (9.71,), {"against": "another model"}, "not compared", "another model"),
        ("6.50", (9.71,), {"missing": ("50",)}, "not compared", "missing: 50_50_preds.pt"),
        ("1.MP", (442.0,), {}, "reproduced", "equal"),
        ("1.MP", (442.0,), {"rows": 2}, "reproduced", "equal"),
        ("3", (34562.0,), {"substitute": "x"}, "not compared", "the bin 0-10 is a substitute"),
        ("6.0-10", (53.01,), {"substitute": "x"}, "not compared", "no interval"),
        ("6.0-10", (50.0, 40.0, 60.0), {"substitute": "x"}, "reproduced", "inside the 95 % interval"),
        ("4.MP", (12.0, 11.0, 13.0), {}, "reproduced", "inside the 95 % interval"),
        ("4.MP", (10.0, 9.0, 11.0), {}, "not reproduced", "outside the 95 % interval"),
        ("4.MP", (10.0,), {}, "not compared", "no interval"),
        ("19", (0.2,), {}, "reproduced", "order of magnitude alone"),
        ("19", (0.8,), {}, "not reproduced", "order of magnitude alone"),
        ("15.pearson", (-0.97, -1.0, -0.9), {"missing": ("0-10",)}, "not compared", "of other text: 0_10_preds.pt"),
        ("21.examples", None, {}, "not compared", "the examples are not among these rows"),
        ("5", None, {}, "not compared", "no such paragraph"),
    ],
)  # fmt: skip
def test_verdicts(key, measured, options, verdict, reason):
    found = None
    if measured is not None:
        found = Measured(measured[:1], *(measured[1:] if len(measured) == 3 else (None, None)))
    row = judged(target(key), found, as_published(**options))
    assert row.verdict == verdict
    assert reason in row.reason


def test_weights_that_cannot_be_had_are_refused_at_once(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(weights, "getproxies", dict)
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(InputError, match=r"weights of EleutherAI/gpt-neo-125M cannot be had: .* give their folder as"):
        check_weights("EleutherAI/gpt-neo-125M")
    monkeypatch.setattr(prepare, "held", lambda *_: pytest.fail("work before the weights were looked for"))
    with pytest.raises(InputError, match="cannot be had"):
        prepare.prepared("EleutherAI/gpt-neo-125M", Path("published"), numbers=NUMBERS, seed=0)
    check_weights("organism")
    check_weights("path/to/a/folder")  # answered by loading itself


def test_weights_that_may_be_had_are_not_refused(monkeypatch):
    calls = []
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: os.devnull)
    check_weights("EleutherAI/gpt-neo-125M")
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(weights, "getproxies", lambda: {"https": "somewhere"})
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    check_weights("EleutherAI/gpt-neo-125M")
    monkeypatch.setattr(weights, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", lambda address, timeout: calls.append(address) or socket.socket())
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example:8443")
    check_weights("EleutherAI/gpt-neo-125M")
    assert calls == [("mirror.example", 8443)]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="cannot be had"):
        check_weights("EleutherAI/gpt-neo-125M")


def test_settings_that_contradict_each_other(tmp_path):
    with pytest.raises(InputError, match="give the folder of published files"):
        prepare.prepared("some/model", None, numbers=NUMBERS, seed=0)
    with pytest.raises(InputError, match="organism is measured on its own sets"):
        prepare.prepared("organism", tmp_path, numbers=NUMBERS, seed=0)
    with pytest.raises(InputError, match="--extraction completes published files"):
        prepare.prepared("x", None, extraction=Benchmark(tmp_path), stand_in=True, numbers=NUMBERS, seed=0)


def test_nothing_given_is_missing_everywhere():
    rows = Run(replace(NO_MODEL, held=Held({})), None).rows()
    assert {one.verdict for one in rows} == {"not compared"}
    assert all(one.reason.startswith("missing: ") for one in rows)


@pytest.mark.skipif("MEMHOOKS_SLOW" not in os.environ, reason="minutes; set MEMHOOKS_SLOW")
def test_the_published_shape_runs_end_to_end(tmp_path, shared_data):
    folder, extraction = shared_data / "gpt-neo-125m", Benchmark(shared_data / "lm-extraction")
    setting = prepare.prepared("", folder, extraction=extraction, stand_in=True, rows=1, numbers=NUMBERS, seed=0)
    run = Run(setting, tmp_path)
    list(run.measure())
    assert {one.verdict for one in run.rows()} == {"not compared"}
    assert [one.target.key for one in run.rows() if one.measured is None] == ["21.examples"]
