"""A scan finds the planted paragraphs that recite, nothing else, and the same through kills, processes and Ray."""

import json

import numpy as np
import pytest
import torch

from memhooks import load_controls, load_model, load_paragraphs, load_planted
from memhooks.errors import InputError
from memhooks.model.decoding import greedy_continuation
from memhooks.scale import scan as scan_file
from memhooks.scale.engine import Engine
from memhooks.scale.rules import Rule
from memhooks.scale.scan import Source, scan
from memhooks.scale.scan_settings import ScanSettings
from tests.scale.workers import killed_scanner

SMALL = ScanSettings(piece_mb=0.02)


@pytest.fixture(scope="module")
def model():
    return load_model("organism")


@pytest.fixture(scope="module")
def planted():
    return load_planted("A").select(range(0, 384, 4))


@pytest.fixture(scope="module")
def corpus(planted, tmp_path_factory):
    """Each planted paragraph once, at the start of a document that goes on with text nobody read; one twice."""
    others = load_controls("held_out").tokens
    path = tmp_path_factory.mktemp("corpus") / "slice.jsonl"
    documents = [planted.tokens[row].tolist() + others[row, :40].tolist() for row in range(len(planted))]
    documents.append(documents[-1])
    path.write_text("\n".join(json.dumps({"tokens": one}) for one in documents))
    return path


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return scan([corpus], folder, settings=SMALL), folder


def contents(folder):
    return {name: (folder / name).read_bytes() for name in ("found.parquet", "summary.json")}


def test_what_recites_is_found_and_nothing_else(model, planted, uninterrupted):
    found, folder = uninterrupted
    said = greedy_continuation(model, planted.prefix, n_tokens=50)
    recites = (said == planted.continuation).all(1)
    assert 30 < recites.sum() < len(planted)
    wanted = {tuple(row) for row in planted.tokens[recites].tolist()}
    assert {tuple(row) for row in found.paragraphs.tokens.tolist()} == wanted
    assert found.summary()["kept"] == recites.sum() + 1
    assert max(found.paragraphs.counts) == 2
    again = load_paragraphs(folder / "found.parquet")
    assert torch.equal(again.tokens, found.paragraphs.tokens)
    assert (again.counts, again.sources, again.text) == (
        found.paragraphs.counts,
        found.paragraphs.sources,
        found.paragraphs.text,
    )
    assert all(source.endswith("@0") for source in again.sources)
    assert sum(found.tally.matches) + found.tally.dropped == found.tally.windows == (len(planted) + 1) * 1


@pytest.mark.parametrize("engine", [Engine(workers=2), Engine("ray", workers=2)], ids=["processes", "ray"])
def test_engines_find_the_same(engine, corpus, uninterrupted, tmp_path):
    scan([corpus], tmp_path, settings=SMALL, engine=engine)
    assert contents(tmp_path) == contents(uninterrupted[1])


def test_a_killed_process_loses_a_block_at_most(corpus, uninterrupted, tmp_path, monkeypatch):
    mark = tmp_path / "killed"
    measured = []
    plain = scan_file._measured
    monkeypatch.setattr(scan_file, "BLOCK", 16)
    with monkeypatch.context() as patch:
        patch.setattr(scan_file, "scanner", killed_scanner_of(mark))
        with pytest.raises(InputError, match="a worker process was killed"):
            scan([corpus], tmp_path / "run", settings=SMALL, engine=Engine(workers=2))
    assert (tmp_path / "run/parts/000001.000.parquet").exists()
    monkeypatch.setattr(scan_file, "_measured", lambda *given: measured.append(len(given[1])) or plain(*given))
    scan([corpus], tmp_path / "run", settings=SMALL)
    assert contents(tmp_path / "run") == contents(uninterrupted[1])
    assert 0 < sum(measured) < uninterrupted[0].tally.windows
    measured.clear()
    scan([corpus], tmp_path / "run", settings=SMALL)
    assert measured == []


def test_ray_survives_a_killed_worker(corpus, uninterrupted, tmp_path, monkeypatch):
    mark = tmp_path / "killed"
    monkeypatch.setattr(scan_file, "BLOCK", 16)
    monkeypatch.setattr(scan_file, "scanner", killed_scanner_of(mark))
    scan([corpus], tmp_path / "run", settings=SMALL, engine=Engine("ray", workers=2))
    assert mark.exists()
    assert contents(tmp_path / "run") == contents(uninterrupted[1])


def killed_scanner_of(mark):
    from functools import partial

    return partial(killed_scanner, str(mark))


def test_faults_are_named_counted_and_skipped_or_stop(corpus, uninterrupted, tmp_path):
    damaged = tmp_path / "damaged.jsonl"
    lines = corpus.read_text().split("\n")
    damaged.write_text("\n".join([*lines[:30], '{"tokens": [1,', *lines[30:]]))
    with pytest.raises(InputError, match=r"damaged\.jsonl#\d+: not JSON .*--on-error skip"):
        scan([damaged], tmp_path / "run", settings=SMALL)
    found = scan([damaged], tmp_path / "run", settings=SMALL, on_error="skip")
    assert [fault.what[:8] for fault in found.tally.faults] == ["not JSON"]
    assert torch.equal(found.paragraphs.tokens, uninterrupted[0].paragraphs.tokens)
    assert len(json.loads((tmp_path / "run/summary.json").read_text())["faults"]) == 1


def test_a_full_disk_ends_the_scan_and_it_goes_on(corpus, uninterrupted, tmp_path, monkeypatch):
    from memhooks.scale import parts

    def full(part, path, **settings):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parts.parquet, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            scan([corpus], tmp_path, settings=SMALL)
    scan([corpus], tmp_path, settings=SMALL)
    assert contents(tmp_path) == contents(uninterrupted[1])


def test_nothing_found_is_said(tmp_path, model):
    np.save(tmp_path / "a.npy", load_controls().tokens[:6].numpy())
    found = scan([tmp_path / "a.npy"], tmp_path / "run")
    assert found.paragraphs is None
    assert not (tmp_path / "run/found.parquet").exists()
    repeated = np.full((3, 100), 7)
    np.save(tmp_path / "b.npy", repeated)
    dull = scan([tmp_path / "b.npy"], tmp_path / "other").tally
    assert (dull.windows, dull.dropped, sum(dull.matches)) == (3, 3, 0)


def test_other_scans_and_bad_input_are_refused(corpus, uninterrupted, tmp_path):
    _, folder = uninterrupted
    with pytest.raises(InputError, match="holds a run with other settings: stride"):
        scan([corpus], folder, settings=ScanSettings(piece_mb=0.02, stride=10))
    with pytest.raises(InputError, match="holds a run with other model"):
        scan([corpus], folder, settings=SMALL, source=Source("organism-twin"))
    with pytest.raises(InputError, match=r"device cuda:99 was asked for, but"):
        scan([corpus], tmp_path / "x", source=Source(device="cuda:99"))
    for settings, message in [
        (ScanSettings(n_prefix=100), "a window needs 0 < n_prefix < n_tokens"),
        (ScanSettings(n_tokens=1000), "the model's context"),
        (ScanSettings(stride=0), "stride and batch_size must be at least 1"),
        (ScanSettings(min_unique=2.0), r"min_unique must lie in 0\.\.1"),
        (ScanSettings(rule=Rule(least=60)), "exact match lies in"),
    ]:
        with pytest.raises(InputError, match=message):
            scan([corpus], tmp_path / "x", settings=settings)
    np.save(tmp_path / "a.npy", np.full((1, 100), 5000))
    with pytest.raises(InputError, match=r"a\.npy#0: token ids must lie in 0\.\.4095"):
        scan([tmp_path / "a.npy"], tmp_path / "y", settings=ScanSettings(min_unique=0.0))


def test_half_precision_finds_nearly_the_same_and_is_another_scan(corpus, uninterrupted, tmp_path):
    found, folder = uninterrupted
    half = scan([corpus], tmp_path, settings=SMALL, source=Source(precision="bf16"))
    one, other = ({tuple(row) for row in each.paragraphs.tokens.tolist()} for each in (found, half))
    assert len(one & other) >= 0.9 * len(one | other)
    with pytest.raises(InputError, match="holds a run with other model"):
        scan([corpus], folder, settings=SMALL, source=Source(precision="bf16"))
    with pytest.raises(InputError, match="tf32 is a mode of CUDA cards"):
        scan([corpus], tmp_path / "x", source=Source(precision="tf32"))
