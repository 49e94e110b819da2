"""Every token in one segment, every window in one segment, and every kind of damage named."""

import gzip
import json
import tracemalloc
from collections import Counter
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.errors import InputError
from memhooks.model.loading import asset
from memhooks.model.sources import read_tokenizer
from memhooks.scale.corpus import Piece, pieces
from memhooks.scale.segments import segments
from memhooks.scale.streams import runs
from memhooks.scale.windows import windows
from tests.conftest import examples

TOKENIZER = read_tokenizer(asset("organism"))
TEXTS = ["It was the best\nof times.\n", "", "ab", "Whale!\n\n  Ünïcode \u2028 line " * 30, "the end " * 50]
TOKENS = [TOKENIZER.encode(text) for text in TEXTS]
N = 7


def written(folder, kind):
    """A corpus of the five texts."""
    path = folder / f"corpus.{kind}"
    lines = "\n".join(json.dumps({"text": text}) for text in TEXTS).encode()
    match kind:
        case "jsonl":
            path.write_bytes(lines + b"\n\n")
        case "jsonl.zst":
            half = len(lines) // 2  # two frames, cut inside a line
            pack = zstandard.ZstdCompressor().compress
            path.write_bytes(pack(lines[:half]) + pack(lines[half:]))
        case "jsonl.gz":
            path.write_bytes(gzip.compress(lines))
        case "parquet":
            parquet.write_table(pa.table({"text": TEXTS}), path, row_group_size=2)
        case "dataset":
            from datasets import Dataset

            Dataset.from_dict({"text": TEXTS}).save_to_disk(str(path))
        case "npy":
            joined = [token for tokens in TOKENS for token in (*tokens, 0)]
            np.save(path, np.array(joined[:-1], np.uint16))
    return path


def read(path, *, piece_mb=8, overlap=0, **options):
    options = {"end_of_text": 0, "tokenizer": TOKENIZER} | options
    for piece in pieces([path], piece_mb=piece_mb):
        yield from segments(piece, overlap=overlap, **options)


@pytest.mark.parametrize("piece_mb", [1e-6, 3e-5, 8])
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.zst", "jsonl.gz", "parquet", "dataset", "npy"])
def test_every_token_and_every_window_is_there_once(kind, piece_mb, tmp_path):
    path = written(tmp_path, kind)
    own = [one.tokens[slice(*one.own)].tolist() for one in read(path, piece_mb=piece_mb)]
    assert list(chain(*own)) == list(chain(*TOKENS))
    for stride in (1, 3):
        found = windows(read(path, piece_mb=piece_mb, overlap=N - 1), n_tokens=N, stride=stride)
        wanted = Counter(
            (start, tuple(tokens[start : start + N]))
            for tokens in TOKENS
            for start in range(0, len(tokens) - N + 1, stride)
        )
        assert Counter((one.offset, tuple(one.tokens.tolist())) for one in found) == wanted
        own = [one.tokens[slice(*one.own)].tolist() for one in read(path, piece_mb=piece_mb, overlap=N - 1)]
        assert list(chain(*own)) == list(chain(*TOKENS))


def test_pieces_are_small_and_the_same_every_time(tmp_path):
    path = written(tmp_path, "jsonl")
    many = pieces([path], piece_mb=1e-5)
    assert len(many) == -(-path.stat().st_size // 10)
    assert many == pieces([tmp_path], piece_mb=1e-5)
    assert len({one.name for one in many}) == len(many)


@given(st.lists(st.sampled_from(["\n", " ", "\t", "a", "B7", "é", "'s", "\u00a0", "\r\n", "."]), min_size=1))
@settings(max_examples=examples(60), deadline=None)
def test_a_text_cut_into_runs_has_the_tokens_of_the_whole(tmp_path_factory, parts):
    text = "".join(parts)
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memhooks.scale.streams._RUN", 1)
        patch.setattr("memhooks.scale.streams._CHUNK", 3)
        cut = list(runs(path))
        found = list(windows(read(path, overlap=N - 1), n_tokens=N, stride=2))
    whole = TOKENIZER.encode(text.replace("\r\n", "\n"))
    assert list(chain(*map(TOKENIZER.encode, cut))) == whole
    wanted = [whole[start : start + N] for start in range(0, len(whole) - N + 1, 2)]
    assert [one.tokens.tolist() for one in found] == wanted


def test_arrays_of_rows_are_documents(tmp_path):
    rows = np.arange(30, dtype=np.int32).reshape(5, 6)
    np.save(tmp_path / "a.npy", rows)
    found = list(read(tmp_path / "a.npy", piece_mb=5e-5))
    assert [one.tokens.tolist() for one in found] == rows.tolist()
    assert found[3].source.endswith("a.npy#3")


BAD = {
    "not JSON": ("a.jsonl", b'{"text": "one"}\n{"text": \n{"text": "two"}\n', "a.jsonl#16: not JSON"),
    "no object": ("a.jsonl", b'{"text": "one"}\n[1]\n{"text": "two"}\n', "expected an object, got list"),
    "no column": ("a.jsonl", b'{"text": "one"}\n{"t": 1}\n{"text": "two"}\n', "no column tokens, text, content"),
    "no text": ("a.jsonl", b'{"text": "one"}\n{"text": 1}\n{"text": "two"}\n', "must be a text or a list of integers"),
    "no ids": ("a.jsonl", b'{"text": "one"}\n{"tokens": [-1]}\n{"text": "two"}\n', "must be token ids"),
    "not UTF-8": ("a.jsonl", b'{"text": "one"}\n{"text": "\xff"}\n{"text": "two"}\n', "#16: not JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named_and_stops_or_is_skipped(name, tmp_path):
    file, content, message = BAD[name]
    (tmp_path / file).write_bytes(content)
    got = []
    with pytest.raises(InputError, match=message.replace("[", r"\[")) as error:
        got.extend(read(tmp_path / file))
    assert "--on-error skip" in str(error.value)
    assert len(got) == 1  # what came before is not lost
    faults = []
    texts = [TOKENIZER.decode(one.tokens) for one in read(tmp_path / file, on_error="skip", faults=faults)]
    assert texts == ["one", "two"]
    assert len(faults) == 1
    assert message.split(": ")[-1] in faults[0].what


@pytest.mark.parametrize("ending", ["zst", "gz"])
def test_a_file_that_is_cut_off_gives_what_it_holds(ending, tmp_path):
    rng = np.random.default_rng(0)
    lines = b"".join(json.dumps({"tokens": rng.integers(0, 4096, 50).tolist()}).encode() + b"\n" for _ in range(2000))
    pack = zstandard.ZstdCompressor().compress if ending == "zst" else gzip.compress
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(pack(lines)[:-2000])
    faults = []
    assert 1000 < len(list(read(path, on_error="skip", faults=faults))) < 2000
    assert [fault.source for fault in faults] == [path.as_posix()]
    with pytest.raises(InputError, match=r"a\.jsonl\.\w+: (cut off|cannot be read on)"):
        list(read(path))


def test_files_that_cannot_be_read_are_faults(tmp_path):
    for name in ("a.parquet", "a.npy"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(InputError, match=r"cannot be read: .*--on-error skip"):
            list(read(tmp_path / name))
        faults = []
        assert list(read(tmp_path / name, on_error="skip", faults=faults)) == []
        assert len(faults) == 1
    gone = Piece((tmp_path / "gone.jsonl").as_posix(), "jsonl")
    with pytest.raises(InputError, match="No such file"):
        list(segments(gone))
    np.save(tmp_path / "f.npy", np.zeros(3))
    with pytest.raises(InputError, match="one array of integers"):
        list(read(tmp_path / "f.npy"))


def test_what_is_no_corpus_is_refused(tmp_path):
    (tmp_path / "a.doc").touch()
    (tmp_path / "empty.jsonl").touch()
    for paths, message in [
        ([], "at least one file"),
        ([tmp_path / "no.jsonl"], "no corpus file or folder at"),
        ([tmp_path / "a.doc"], r"cannot read \.doc; supported: \.jsonl"),
        ([tmp_path / "empty.jsonl"], "the corpus is empty"),
    ]:
        with pytest.raises(InputError, match=message):
            pieces(paths)
    (tmp_path / "empty.jsonl").unlink()
    with pytest.raises(InputError, match="no corpus file in this folder"):
        pieces([tmp_path])
    with pytest.raises(InputError, match="piece_mb must be a positive number"):
        pieces([tmp_path], piece_mb=0)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    with pytest.raises(InputError, match="text needs a tokenizer"):
        list(read(tmp_path / "a.jsonl", tokenizer=None))


def test_memory_does_not_grow_with_the_file(tmp_path):
    rng = np.random.default_rng(0)
    peaks = []
    for n_lines in (500, 5000):
        path = tmp_path / f"{n_lines}.jsonl.zst"
        lines = (json.dumps({"tokens": rng.integers(0, 4096, 200).tolist()}).encode() + b"\n" for _ in range(n_lines))
        path.write_bytes(zstandard.ZstdCompressor().compress(b"".join(lines)))
        tracemalloc.start()
        assert sum(1 for _ in read(path)) == n_lines
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
