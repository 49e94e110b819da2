import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.model.labelled import versions
from memhooks.truth.published import prepare, weights
from memhooks.truth.published.claims import claims
from memhooks.truth.published.claims_of_trials import editing, random, sparse
from memhooks.truth.published.files import Held, Strings
from memhooks.truth.published.parts import Measured
from memhooks.truth.published.run import Run, check_numbers
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.stand_in import stand_in_model, stand_in_text
from memhooks.truth.published.substitute import Benchmark
from memhooks.truth.published.tables import as_json, layer_sums_of, summary, table_of
from memhooks.truth.published.targets import LAYER_SUMS, NUMBERS, TARGETS, target
from memhooks.truth.published.unlearned import part_name
from memhooks.truth.published.verdicts import judged
from memhooks.truth.published.weights import check_weights

NO_MODEL = Setting(None, stand_in_text(2, d_vocab=101, seed=0))


@pytest.fixture(scope="module")
def stand_in():
    model = stand_in_model((4, 2, 16, 101), seed=0)
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
    of_one_batch = [one.text for one in made if "one batch" in one.measured]
    assert len(of_one_batch) == 2  # layers of the bins, and the largest cell
    assert all(one.holds is None for one in made if one.text in of_one_batch)
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
    assert rows["2"].reason == "2 of 442 rows of the table"


SAME = Measured((0.0002,), n=442)
TABLE, SHORT = (Strings(np.arange(n), np.ones(n, int), np.ones(n)) for n in (442, 441))
LEAST = {1: 0, 3: 0, 15: 1000, 16: 1000, 18: 1000, 21: 442} | dict.fromkeys(range(9, 15), 20)


def as_published(*, substitute="", missing=(), against="", others=(), table=TABLE, nmp=12422):
    """A setting as of the published model, with some of the files."""
    everything = stand_in_text(2, d_vocab=101, seed=0)
    sets = {name: one for name, one in everything.sets.items() if name not in missing}
    if "0-10" in sets:
        sets["0-10"] = sets["0-10"].select([0] * nmp)
    kind = type("Published", (Setting,), {"not_comparable": against})
    hashes = dict.fromkeys(others, "0")
    return kind(None, replace(everything, sets=sets, substitute=substitute, hashes=hashes, strings=table))


@pytest.mark.parametrize(
    ("key", "measured", "options", "verdict", "reason"),
    [
        ("6.50", (9.713,), {}, "reproduced", "within 0.005"),
        ("6.50", (9.80,), {}, "not reproduced", "off by 0.09, half of the last published digit"),
        ("6.50", (9.71,), {"n": 2}, "not compared", "2 of 50 rows"),
        ("6.50", (9.71,), {"n": 51}, "not compared", "51 of 50 rows"),
        ("4.MP", (12.0, 11.0, 13.0), {"n": 49}, "not compared", "49 of 50 rows"),
        ("9.MP", (27.0, 26.0, 28.0), {"n": 19}, "not compared", "19 of 20 trials"),
        ("16", (45.0,), {"n": 999}, "not compared", "999 of 1000 paragraphs"),
        ("18.L1", (0.15,), {"n": 999}, "not compared", "999 of 1000 paragraphs"),
        ("19", (0.08,), {"n": 49}, "not compared", "49 of 50 pairs"),
        ("21.all", (0.0,), {"n": 441}, "not compared", "441 of 442 rows"),
        ("2", (40382.0,), {"table": SHORT}, "not compared", "441 of 442 rows of the table"),
        ("4.MP", (12.0, 0.0, 50.0), {}, "not compared", "too wide: the interval is +-25, at most +-5 would tell"),
        ("4.MP", (30.0, 20.0, 40.0), {}, "not reproduced", "outside the 95 % interval"),
        ("15.pearson", (-0.9, -1.0, -0.5), {}, "not compared", "too wide: the interval is +-0.25, at most +-0.2"),
        ("6.50", (9.71,), {"fingerprint": Measured((0.2,), n=442)}, "not compared", "(row 21)"),
        ("6.50", (9.71,), {"fingerprint": Measured((0.0,), n=441)}, "not compared", "(row 21)"),
        ("6.50", (9.71,), {"fingerprint": None}, "not compared", "not shown to be the published weights (row 21)"),
        ("4.MP", (12.0, 11.0, 13.0), {"fingerprint": None}, "not compared", "not shown to be the published weights"),
        ("1.MP", (442.0,), {"fingerprint": None}, "reproduced", "equal"),
        ("21.all", (0.2,), {"fingerprint": None}, "not reproduced", "off by 0.2"),
        ("6.50", (9.71,), {"others": ("mem_strings.csv",)}, "not compared", "(row 21)"),
        ("6.50", (9.71,), {"others": ("50_50_preds.pt",)}, "not compared", "another file: 50_50_preds.pt"),
        ("1.MP", (442.0,), {"others": ("50_50_preds.pt",)}, "not compared", "another file: 50_50_preds.pt"),
        ("1.all", (13450.0,), {"others": ("30_49_preds.pt",)}, "not compared", "another file: 30_49_preds.pt"),
        ("1.MP", (442.0,), {"others": ("30_49_preds.pt",)}, "reproduced", "equal"),
        ("19", (0.08,), {"others": ("perturbed_mem_toks.pt",)}, "not compared", "another file: perturbed_mem_toks.pt"),
        ("4.NMP", (33.0, 32.0, 34.0), {"nmp": 7}, "not compared", "0_10_preds.pt has 7 rows instead of 12,422"),
        ("15.pearson", (-0.97, -1.0, -0.9), {"substitute": "x", "nmp": 2}, "not compared", "50 % memorized instead"),
        ("16", (45.0,), {"substitute": "x"}, "not compared", "another mixture"),
        ("4.NMP", (33.0, 32.0, 34.0), {"substitute": "x"}, "reproduced", "of a substitute of 0_10_preds.pt"),
        ("8.0-10", (1.6,), {"substitute": "x"}, "reproduced", "of a substitute of 0_10_preds.pt"),
        ("12.MP", (25.0, 24.0, 26.0), {"substitute": "x"}, "reproduced", "of a substitute of 0_10_preds.pt; 5 steps"),
        ("10.MP", (26.0, 24.0, 28.0), {}, "reproduced", "5 steps, as the code takes; the paper says 10"),
        ("21.examples", (0.426, 1.074, 0.387, 0.259, 0.276), {}, "reproduced", "adds nothing to 21.all"),
        ("5", (45.0,), {}, "not compared", "one unnamed paragraph; 3 to 50"),
        ("8.50", (0.15,), {}, "reproduced", "one-sided"),
        ("8.50", (0.14,), {}, "not reproduced", "one-sided"),
        ("8.0-10", (9.0,), {}, "reproduced", "one-sided"),
        ("8.30-49", (0.14,), {}, "reproduced", "order of magnitude"),
        ("8.30-49", (0.9,), {}, "not reproduced", "order of magnitude"),
        ("6.50", (9.71,), {"against": "stand-in"}, "not compared", "stand-in"),
        ("6.50", (9.71,), {"against": "another model"}, "not compared", "another model"),
        ("6.50", (9.71,), {"missing": ("50",)}, "not compared", "missing: 50_50_preds.pt"),
        ("1.MP", (442.0,), {}, "reproduced", "equal"),
        ("3", (34562.0,), {"substitute": "x"}, "not compared", "the bin 0-10 is a substitute"),
        ("6.0-10", (53.01,), {"substitute": "x"}, "not compared", "no interval"),
        ("6.0-10", (50.0, 48.0, 54.0), {"substitute": "x"}, "reproduced", "inside the 95 % interval"),
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
    options = dict(options)
    n = options.pop("n", LEAST.get(target(key).number, 50))
    fingerprint = options.pop("fingerprint", SAME)
    found = None
    if measured is not None:
        ends = measured[1:] if len(measured) == 3 else (None, None)
        values = measured[: len(target(key).published)]
        found = Measured(values, *ends, note="3 to 50" * (key == "5"), n=n)
    row = judged(target(key), found, as_published(**options), fingerprint=fingerprint)
    assert row.verdict == verdict
    assert reason in row.reason


def test_another_model_of_the_published_shape_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(Setting, "published_shape", True)
    model = stand_in_model((2, 2, 16, 101), seed=0)
    held = replace(stand_in_text(442, d_vocab=101, seed=0), pairs=None)
    setting = Setting(model, held, rows=50)
    run = Run(setting, tmp_path, (8,))
    assert run.parts()[0].name == "likelihoods"
    kept = {"layers": [1.0] * 2, "variance": 1.0, "sum": 1.0, "top": 0.15, "n": 50, "nll": 1.0, "top_cell": "L0 W_in"}
    for part in run.parts():
        found = {"all": held.strings.nll.tolist(), "continuation": [0.0] * 442, "em": [50] * 442}
        run._write(part, found if part.name == "likelihoods" else kept, 0.0)
    assert {one.target.key: one.verdict for one in run.rows()}["8.50"] == "reproduced"
    other = {"all": (held.strings.nll + 0.1).tolist(), "continuation": [0.0] * 442, "em": [50] * 442}
    run._write(run.parts()[0], other, 0.0)
    rows = {one.target.key: one for one in run.rows()}
    assert rows["8.50"].verdict == "not compared"
    assert rows["8.50"].reason == "not shown to be the published weights (row 21)"


def test_a_run_says_of_which_tokens_and_versions_it_is(stand_in, tmp_path):
    Run(stand_in, tmp_path)
    text = stand_in.held.sets
    changed = text["0-10"].with_continuation(text["0-10"].continuation.flip(1))
    with pytest.raises(InputError, match="holds another run: tokens differ"):
        Run(replace(stand_in, held=replace(stand_in.held, sets={**text, "0-10": changed})), tmp_path)
    about = json.loads((tmp_path / "configuration.json").read_text("utf8"))
    assert set(about["tokens"]) == {"50", "30-49", "11-29", "0-10", "clean", "perturbed"}
    assert about["versions"] == versions()
    (tmp_path / "configuration.json").write_text(json.dumps(about | {"versions": {"version_torch": "1"}}), "utf8")
    with pytest.raises(InputError, match="holds another run: versions differ"):
        Run(stand_in, tmp_path)


def test_rows_of_layers_that_a_model_lacks_say_so(tmp_path):
    model = stand_in_model((2, 2, 16, 101), seed=0)
    run = Run(Setting(model, stand_in_text(2, d_vocab=101, seed=0), rows=1), tmp_path, (17, 18))
    list(run.measure())
    rows = {one.target.key: one for one in run.rows()}
    assert rows["18.L2"].reason == "not measured: the model has 2 layers"
    assert rows["18.L1"].measured is not None
    last = claims(run.setting, run.found())[-1]
    assert (last.holds, last.measured) == (None, "not measured: the model has 2 layers")
    model.cfg.n_layers = 1
    assert "value-gradients" not in [part.name for part in run.parts()]
    reasons = {one.target.key: one.reason for one in run.rows()}
    assert reasons["17"] == "not measured: the model has 1 layer"


def test_memory_is_that_of_the_trials_by_the_size_of_the_model(stand_in, tmp_path):
    run = Run(stand_in, tmp_path, (9, 21))
    size = (4 * 16**2 * 12 + 101 * 16 / 2) / (12 * 768**2 * 12 + 50257 * 768 / 2)
    assert run.gigabytes(run.parts()) == pytest.approx(6.4 * size)
    assert run.gigabytes([part for part in run.parts() if part.name == "likelihoods"]) == 0
    assert run.gigabytes([]) == 0


def trials(changed, *, kept=50.0, held_out=50.0, leaky=0.0):
    """What a row's trials found: EM with the mask that holds, and with the leak."""
    exact = [{"MP": one, "NMP": [kept], "held out": [held_out]} for one in changed]
    return [{"exact": one, "published": {"MP": leaky, "NMP": [0.0], "held out": [0.0]}} for one in exact]


ALL, GOOD = [20.0, 24.0, 22.0, 26.0], [21.0, 24.0, 23.0, 25.0]


@pytest.mark.parametrize(
    ("top", "holds"),
    [
        (trials(GOOD), True),
        (trials([50.0] * 4), False),  # only the leak unlearns
        (trials(GOOD, kept=30.0), False),
        (trials(GOOD, held_out=30.0), False),
    ],
)
def test_sparse_unlearning_is_decided_with_the_mask_that_holds(top, holds):
    setting = Setting(None, replace(stand_in_text(4, d_vocab=101, seed=0), pairs=None), n_trials=4)
    parts = {9: trials(ALL), 10: top}
    found = {part_name(number, k): one for number, all_of in parts.items() for k, one in enumerate(all_of)}
    (claim,) = sparse(setting, found)
    assert claim.holds is holds
    assert "published, whose decay moves every weight, 0.0" in claim.control
    assert "held-out text" in claim.control
    assert sparse(replace(setting, n_trials=1), found)[0].holds is None  # one cluster has no interval


@pytest.mark.parametrize(
    ("edit", "holds"),
    [(trials([40.0] * 4), True), (trials(GOOD), False), (trials([40.0] * 4, kept=50.0, held_out=60.0), False)],
)
def test_editing_is_harder_only_where_it_does_not_keep_more(edit, holds):
    setting = Setting(None, stand_in_text(4, d_vocab=101, seed=0), n_trials=4)
    parts = {10: trials(GOOD), 13: edit}
    found = {part_name(number, k): one for number, all_of in parts.items() for k, one in enumerate(all_of)}
    assert editing(setting, found)[0].holds is holds


def test_a_random_mask_is_judged_by_intervals():
    setting = Setting(None, stand_in_text(4, d_vocab=101, seed=0), n_trials=4)
    parts = {10: trials(GOOD), 11: trials([50.0] * 4)}
    found = {part_name(number, k): one for number, all_of in parts.items() for k, one in enumerate(all_of)}
    assert random(setting, found)[0].holds is True
    assert random(replace(setting, n_trials=1), found)[0].holds is None
    found |= {part_name(11, k): one for k, one in enumerate(trials([50.0, 50.0, 50.0, 40.0]))}
    assert random(setting, found)[0].holds is False


@pytest.mark.parametrize(
    ("least", "ends", "holds"),
    [(0.1, [0.2, 0.1, 0.3], True), (-0.5, [0.2, 0.1, 0.3], False), (0.1, [0.2, -0.1, 0.3], False),
     (None, [0.2, None, None], None)],
)  # fmt: skip
def test_heads_are_other_only_where_those_of_a_layer_are_alike(stand_in, least, ends, holds):
    one = {"alike in L1": 0.3, "alike in L1, least": least, "alike in L1 and L2": -0.05, "apart": ends}
    found = {"attention": one | {"corrected of MP": []}}
    assert claims(stand_in, found)[0].holds is holds


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
