"""Counts equal those of a dictionary of tuples, whatever the pieces, ranges and order."""

import json
from collections import Counter

import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.paragraphs.counts import load_counts
from memhooks.paragraphs.ngrams import ngram_hashes
from memhooks.scale.corpus import pieces
from memhooks.scale.count import count, load_window_counts
from memhooks.scale.counting import CountSettings, count_piece, merge
from memhooks.scale.engine import Engine
from memhooks.scale.rolling import window_hashes

N = 5


@pytest.mark.parametrize("n", [1, 3, 100])
@pytest.mark.parametrize("length", [0, 2, 100, 70_000])
@pytest.mark.parametrize("d_vocab", [60, 200_000])
def test_rolling_hashes_equal_plain_ones(n, length, d_vocab):
    tokens = np.random.default_rng(0).integers(0, d_vocab, length)
    assert np.array_equal(window_hashes(tokens, n), ngram_hashes(tokens, n))
    with pytest.raises(ValueError, match="n must be at least 1"):
        window_hashes(tokens, 0)


def corpus(folder):
    """Documents of few different tokens, so that windows recur, in two files."""
    rng = np.random.default_rng(1)
    documents = [rng.integers(1, 4, rng.integers(0, 60)).tolist() for _ in range(40)]
    np.save(folder / "a.npy", np.array([token for one in documents[:20] for token in (*one, 0)], np.uint16))
    lines = [json.dumps({"tokens": one}) for one in documents[20:]]
    (folder / "b.jsonl").write_text("\n".join(lines))
    return documents


def brute(documents, stride=1):
    windows = Counter(
        tuple(one[start : start + N]) for one in documents for start in range(0, len(one) - N + 1, stride)
    )
    tokens = np.bincount([token for one in documents for token in one], minlength=7)
    return tokens, windows


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("in_memory", [16, 10**6])
def test_counts_equal_a_dictionary(stride, in_memory, tmp_path):
    tokens, windows = brute(corpus(tmp_path), stride)
    settings = CountSettings(7, N, stride, end_of_text=0)
    parts = []
    for number, piece in enumerate(pieces([tmp_path / "a.npy", tmp_path / "b.jsonl"], piece_mb=1e-4)):
        parts.append(tmp_path / str(number))
        count_piece(piece, parts[-1], settings)
    assert len(parts) > 5
    for order, threads in ((parts, 1), (parts[::-1], 3)):
        found = merge(order, in_memory=in_memory, threads=threads)
        assert found.tokens.tolist() == tokens.tolist()
        again = {window: times for window, times in windows.items() if times > 1}
        hashes = {int(ngram_hashes(np.array(window), N)[0]): times for window, times in again.items()}
        assert dict(zip(found.hashes.tolist(), found.copies.tolist(), strict=True)) == hashes
        assert found.hashes.tolist() == sorted(hashes)
        assert found.by_copies == Counter(windows.values())
        assert found.counted.windows == windows.total()
        assert found.counted.tokens == tokens.sum()


@pytest.mark.parametrize("engine", [Engine(), Engine(workers=2)])
def test_a_count_is_written_and_read_and_goes_on(engine, tmp_path, monkeypatch):
    documents = corpus(tmp_path)
    tokens, windows = brute(documents)
    paths, settings = [tmp_path / "a.npy", tmp_path / "b.jsonl"], CountSettings(7, N, end_of_text=0, piece_mb=1e-4)
    out = tmp_path / "out"
    count(paths, out, settings, engine=engine)
    assert load_counts(out / "unigrams.npy", d_vocab=7).tolist() == tokens.tolist()
    known = load_window_counts(out / "windows.parquet")
    rows = np.array(list(windows))
    assert known.of(rows).tolist() == [times if times > 1 else 0 for times in windows.values()]
    with pytest.raises(InputError, match="windows of 5 tokens were counted, got rows of 4"):
        known.of(rows[:, :4])
    before = {path: path.read_bytes() for path in out.glob("*.*") if path.is_file()}
    for lost in ("000002.json", "000003.windows.npy", "000003.json"):
        (out / "parts" / lost).unlink()
    count(paths, out, settings, engine=engine)
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(InputError, match="holds a run with other settings: d_vocab"):
        count(paths, out, CountSettings(8, N, end_of_text=0, piece_mb=1e-4))
    count(paths, out, CountSettings(8, 0, end_of_text=0, piece_mb=1e-4), restart=True)
    assert len(np.load(out / "unigrams.npy")) == 8


def test_what_cannot_be_counted_is_refused(tmp_path):
    for settings, message in [
        ({"d_vocab": 0}, "d_vocab must be at least 1"),
        ({"d_vocab": 5, "n_tokens": -1}, "n_tokens must be at least 0"),
        ({"d_vocab": 5, "stride": 0}, "stride at least 1"),
    ]:
        with pytest.raises(InputError, match=message):
            CountSettings(**settings)
    with pytest.raises(InputError, match="nothing to merge"):
        merge([])
    with pytest.raises(InputError, match="cannot be read"):
        merge([tmp_path / "0"])
    np.save(tmp_path / "a.npy", np.array([1, 9]))
    with pytest.raises(InputError, match=r"a\.npy#0: token ids must lie in 0\.\.4, got 1\.\.9"):
        count([tmp_path / "a.npy"], tmp_path / "out", CountSettings(5))
    for number, d_vocab in enumerate((10, 11)):
        count_piece(pieces([tmp_path / "a.npy"])[0], tmp_path / str(number), CountSettings(d_vocab))
    with pytest.raises(InputError, match="counts of 11 ids, the others of 10"):
        merge([tmp_path / "0", tmp_path / "1"])
    (tmp_path / "w.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="no window counts"):
        load_window_counts(tmp_path / "w.parquet")
