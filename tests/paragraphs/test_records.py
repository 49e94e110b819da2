import zipfile

import pytest
import torch
from transformers import AutoTokenizer

from memhooks.errors import InputError
from memhooks.model.loading import asset
from memhooks.paragraphs.files import load_paragraphs

TOKENIZER = AutoTokenizer.from_pretrained(asset("organism"))


def npy_header(shape, descr="<i8", version=b"\x01\x00"):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + b"\0" * 80


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", npy_header((10**9, 10**9)), r"its header promises shape \(1000000000, 1000000000\)"),
        ("x.npy", npy_header((-2, -5)), "its header promises shape"),
        ("x.npy", npy_header((1, 10), "<m8"), "must be integers, got timedelta64"),
        ("x.npy", npy_header((1, 10), "|O"), "pickled objects, which are never loaded"),
        ("x.npy", npy_header((1, 10), "<u8")[:-1] + b"\xff", "tokens are too large, got 1837"),
        ("x.npy", b"PK\x03\x04", "an archive of arrays"),
        ("x.jsonl", b'{"tokens": ' + b"[" * 100_000, "line 1: not JSON"),
        ("x.jsonl", b'{"text": "\\ud800 half"}', "row 0: text holds half a character"),
        ("x.jsonl", b'{"tokens": [1, 2], "id": "\\udc00"}', "row 0: id holds half a character"),
        ("x.jsonl", b'{"tokens": [1, ' + b"9" * 5000 + b"]}", "line 1: not JSON"),
        ("x.jsonl", b'{"tokens": [1, true]}', "row 0: tokens must be a list of integers"),
        ("x.jsonl", b'{"tokens": [1, null]}', "row 0: tokens must be a list of integers"),
        ("x.jsonl", b'{"tokens": [1, -2]}', "must not be negative, got -2"),
        ("x.jsonl", b'{"tokens": null}', "row 0: tokens must be a list of integers"),
        ("x.jsonl", b'{"tokens": []}', "non-empty"),
        ("x.jsonl", b'{"text": null}', "row 0: text must be a string, got None"),
        ("x.jsonl", b'{"tokens": [1, 2], "id": null}', "row 0: id must be text or a number, got None"),
        ("x.jsonl", b'{"tokens": [1, 2], "source": true}', "row 0: source must be text or a number, got True"),
        ("x.jsonl", b'{"tokens": [1, 2], "count": NaN}', "row 0: count must be a number"),
        ("x.jsonl", b'{"tokens": [1, 2], "count": false}', "row 0: count must be a number .got False"),
        ("x.jsonl", b'{"tokens": [1, 2], "count": 1e300}', "row 0: count must be a number .it does not fit 64 bits"),
        ("x.csv", b"text\n\0", "x.csv: row 0 has"),
        ("x.csv", b"text\n" + b"a" * 200_000, "not a CSV file"),
        ("x.csv", b"text\na,b\n", "row 1: more fields than the header; quote fields"),
        ("x.csv", b"id,text\na\n", "row 0: text must be a string, got None"),
        ("x.txt", b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_files_that_promise_too_much_or_hold_nonsense_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_paragraphs(tmp_path / name, tokenizer=TOKENIZER)
    assert name in str(caught.value)


def test_tensors_and_archives_larger_than_their_file_are_refused(tmp_path):
    torch.save(torch.zeros(1, dtype=torch.int64).expand(10**6, 10**6), tmp_path / "x.pt")
    with pytest.raises(
        InputError, match=r"x\.pt: promises shape \(1000000, 1000000\), more than its .* contiguous copy"
    ):
        load_paragraphs(tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(
        InputError, match=r"bomb\.pt: not a plain tensor file .promises 10000000 bytes in an archive of"
    ):
        load_paragraphs(tmp_path / "bomb.pt")
