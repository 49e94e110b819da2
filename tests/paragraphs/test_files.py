import csv
import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from memhooks.errors import InputError
from memhooks.model.loading import asset
from memhooks.paragraphs.files import load_paragraphs, save_paragraphs
from memhooks.paragraphs.paragraphs import Paragraphs

ROWS = torch.randint(4096, (5, 100), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(asset("organism"))


def write(path, rows=ROWS):
    match path.suffix:
        case ".pt":
            torch.save(rows, path)
        case ".npy":
            np.save(path, rows.numpy().astype(np.uint16))
        case ".jsonl":
            path.write_text("\n".join(json.dumps({"tokens": row}) for row in rows.tolist()))
        case ".csv":
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([["tokens"], *([" ".join(map(str, row))] for row in rows.tolist())])
        case ".parquet":
            save_paragraphs(Paragraphs(rows), path)


@pytest.mark.parametrize("ending", [".pt", ".npy", ".jsonl", ".csv", ".parquet"])
def test_every_format_gives_the_same_tokens(tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    write(path)
    loaded = load_paragraphs(path)
    assert torch.equal(loaded.tokens, ROWS)
    assert loaded.n_prefix == 50


def test_prefix_and_suffix_files_are_joined(tmp_path):
    np.save(tmp_path / "train_prefix.npy", ROWS[:, :30].numpy())
    np.save(tmp_path / "train_suffix.npy", ROWS[:, 30:].numpy())
    loaded = load_paragraphs(tmp_path / "train_prefix.npy")
    assert torch.equal(loaded.tokens, ROWS)
    assert loaded.n_prefix == 30


def test_parquet_round_trip_is_identical_with_all_labels(tmp_path):
    saved = Paragraphs(
        ROWS,
        30,
        ids=tuple("abcde"),
        counts=(1, 2, 3, 4, 5),
        sources=("s",) * 5,
        text=('<script>"\u202e', "\n", "ü", "", "x"),
    )
    save_paragraphs(saved, tmp_path / "p.parquet")
    loaded = load_paragraphs(tmp_path / "p.parquet")
    assert torch.equal(loaded.tokens, saved.tokens)
    for name in ("n_prefix", "ids", "counts", "sources", "text"):
        assert getattr(loaded, name) == getattr(saved, name)


def test_text_is_tokenized_without_special_tokens_and_cut(tokenizer):
    text = "We the people of the United States, in order to form a more perfect union. " * 10
    loaded = load_paragraphs([text], tokenizer=tokenizer, n_tokens=40, n_prefix=20)
    assert loaded.tokens[0].tolist() == tokenizer.encode(text, add_special_tokens=False)[:40]
    assert tokenizer.bos_token_id not in loaded.tokens
    assert loaded.text is not None
    assert text.startswith(loaded.text[0])


def test_running_text_is_cut_into_consecutive_windows(tmp_path, tokenizer):
    text = "We the people of the United States, in order to form a more perfect union: \u00fc\n" * 10
    (tmp_path / "long.txt").write_text(text, encoding="utf8")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) % 30
    loaded = load_paragraphs(tmp_path / "long.txt", tokenizer=tokenizer, n_tokens=30, n_prefix=10)
    assert loaded.tokens.flatten().tolist() == ids[: len(ids) // 30 * 30]
    assert loaded.ids == tuple(str(offset) for offset in range(0, len(ids) - 29, 30))
    assert set(loaded.sources or ()) == {"long.txt"}
    assert "".join(loaded.text or ()) == tokenizer.decode(ids[: len(ids) // 30 * 30])
    with pytest.raises(InputError, match=rf"long\.txt: the text has {len(ids)} tokens, 1000 are needed; give longer"):
        load_paragraphs(tmp_path / "long.txt", tokenizer=tokenizer, n_tokens=1000)
    with pytest.raises(InputError, match="n_tokens must be at least 2, a prefix and something to recite, got -3"):
        load_paragraphs(tmp_path / "long.txt", tokenizer=tokenizer, n_tokens=-3)


def test_tables_of_text_keep_their_labels(tmp_path, tokenizer):
    path = tmp_path / "p.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["paragraph", "id", "count"], ["one, two\nthree " * 50, "7", "12.0"]])
    loaded = load_paragraphs(path, tokenizer=tokenizer, n_tokens=30, n_prefix=10)
    assert (loaded.ids, loaded.counts) == (("7",), (12,))


class Trap:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.md", b"x", "cannot read .md; supported: .pt"),
        ("p.txt", b"x", "text needs a tokenizer"),
        ("p.jsonl", b"", "is empty"),
        ("p.jsonl", b"{", "line 1: not JSON"),
        ("p.jsonl", b"[1]", "line 1: expected an object"),
        ("p.jsonl", b'{"a": 1}', "needs tokens, text or paragraph"),
        ("p.jsonl", b'{"tokens": [1, 2]}\n{"tokens": [1]}', "all paragraphs must have the same length"),
        ("p.jsonl", b'{"tokens": [1.5, 2]}', "tokens must be a list of integers"),
        ("p.jsonl", b'{"tokens": [99999999999999999999, 2]}', "token ids are too large"),
        ("p.jsonl", b'{"tokens": [1, 2]}', "n_prefix must lie in 1..1"),
        ("p.jsonl", b'{"text": "hello"}', "text needs a tokenizer"),
        ("p.jsonl", b'{"tokens": [1], "count": "many"}', "count must be a number"),
        ("p.jsonl", b"\xff\xfe\xfa", "not UTF-8"),
        ("p.csv", b"a,b\n1,2\n", "needs tokens, text or paragraph"),
        ("p.csv", b"tokens\n1 x 2\n", "row 1: tokens must be integers"),
        ("p.csv", b"tokens\n", "holds no paragraphs"),
        ("p.npy", b"\x93NUMPY broken", "damaged, or not a plain array"),
        ("p.pt", b"not a zip", "not a plain tensor file"),
        ("p.parquet", b"PAR1 broken", "damaged, or not parquet"),
    ],
)
def test_damaged_files_are_refused_with_name_and_reason(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_paragraphs(path)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda p: torch.save({"a": Trap()}, p / "x.pt"), "not a plain tensor file"),
        (lambda p: torch.save([1, 2], p / "x.pt"), "expected one tensor, got list"),
        (lambda p: torch.save(torch.rand(3, 100), p / "x.pt"), "tokens must be integers, got torch.float32"),
        (lambda p: torch.save(torch.zeros(100, dtype=torch.long), p / "x.pt"), "expected a non-empty"),
        (lambda p: np.save(p / "x.npy", np.array([Trap()], dtype=object), allow_pickle=True), "not a plain array"),
        (lambda p: np.save(p / "x.npy", np.zeros((2, 100))), "tokens must be integers, got float64"),
        (lambda p: np.save(p / "x.npy", np.zeros((0, 100), np.int32)), "expected a non-empty"),
        (lambda p: np.save(p / "x_prefix.npy", np.zeros((2, 50), np.int32)), "x_suffix.npy is not beside it"),
    ],
)
def test_wrong_tensors_and_pickles_are_refused(tmp_path, capsys, save, message):
    save(tmp_path)
    (path,) = tmp_path.iterdir()
    with pytest.raises(InputError, match=message):
        load_paragraphs(path)
    assert "unpickled" not in capsys.readouterr().out


def test_a_missing_file_and_short_text_are_refused(tmp_path, tokenizer):
    with pytest.raises(InputError, match="no paragraph file at"):
        load_paragraphs(tmp_path / "none.pt")
    with pytest.raises(InputError, match=r"row 0 has \d tokens, 100 are needed"):
        load_paragraphs(["short"], tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"saved as \.parquet"):
        save_paragraphs(Paragraphs(ROWS), tmp_path / "p.csv")


def test_unequal_prefix_and_suffix_files_are_refused(tmp_path):
    np.save(tmp_path / "x_prefix.npy", np.zeros((2, 50), np.int32))
    np.save(tmp_path / "x_suffix.npy", np.zeros((3, 50), np.int32))
    with pytest.raises(InputError, match=r"has 2 rows, x_suffix\.npy 3"):
        load_paragraphs(tmp_path / "x_prefix.npy")


def test_published_and_extraction_paragraphs_load_as_they_are(shared_data, tokenizer):
    published = shared_data / "gpt-neo-125m"
    shapes = {
        name: len(load_paragraphs(published / f"{name}.pt"))
        for name in ("50_50_preds", "30_49_preds", "11_29_preds", "mem_toks")
    }
    assert shapes == {"50_50_preds": 442, "30_49_preds": 141, "11_29_preds": 436, "mem_toks": 90}
    extraction = load_paragraphs(shared_data / "lm-extraction" / "train_prefix.npy")
    assert (len(extraction), extraction.n_prefix, extraction.n_continuation) == (15000, 50, 50)
    strings = load_paragraphs(published / "mem_strings.csv", tokenizer=tokenizer, n_tokens=60)
    assert strings.counts is not None
    assert (len(strings), max(strings.counts), min(strings.counts)) == (442, 40382, 8)
