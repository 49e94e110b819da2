"""`memhooks scan` and `memhooks count`."""

import json

import numpy as np
import pytest

from memhooks import load_paragraphs, load_planted
from memhooks.paragraphs.counts import load_counts
from tests.command_line import assert_refused, invoke


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = load_planted("A", at_least=128).tokens[:4].tolist()
    path.write_text("\n".join([*(json.dumps({"tokens": row}) for row in rows), "{"]))
    return path


def test_scan_finds_writes_and_draws(corpus, tmp_path):
    out = tmp_path / "run"
    given = ("scan", corpus, "--out", out, "--on-error", "skip", "--figure", tmp_path / "a.html")
    shown = invoke(*given).stdout
    assert "skipped" in shown
    assert "not JSON" in shown
    assert "found.parquet" in shown
    found = json.loads(invoke(*given, "--json").stdout)
    assert (found["windows"], found["kept"], len(found["faults"])) == (4, 4, 1)
    assert len(load_paragraphs(out / "found.parquet")) == 4
    assert "How far are the 4 windows" in (tmp_path / "a.html").read_text()


def test_count_writes_what_other_commands_read(corpus, tmp_path):
    out = tmp_path / "run"
    given = ("count", corpus, "--out", out, "--d-vocab", 4096, "--on-error", "skip")
    assert "unigrams.npy" in invoke(*given).stdout
    found = json.loads(invoke(*given, "--json").stdout)
    assert (found["tokens"], found["windows"], found["documents"]) == (400, 4, 4)
    assert int(load_counts(out / "unigrams.npy", d_vocab=4096).sum()) == 400


def test_unusable_options_are_refused(corpus, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "a.npy", np.array([1, 2]))
    for arguments, message in [
        (["scan", str(tmp_path / "no.jsonl")], "no corpus file or folder at"),
        (["scan", str(corpus), "--figure", "a.txt"], "must end in .html"),
        (["scan", str(corpus), "--out", str(tmp_path / "x")], "--on-error skip"),
        (["scan", str(corpus), "--engine", "local", "--address", "auto"], "an address belongs to --engine ray"),
        (["count", str(corpus)], "give --tokenizer for text, or --d-vocab"),
    ]:
        assert_refused(monkeypatch, capsys, arguments, message)
