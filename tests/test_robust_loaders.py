"""Whatever happened to a file, loading it works or ends in an InputError that names it."""

import json
import random
import shutil
import sys

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from memhooks.errors import InputError
from memhooks.model.labelled import Variable, labelled, load_result, save_result
from memhooks.model.loading import asset
from memhooks.model.sources import read_model, read_tokenizer
from memhooks.paragraphs.counts import load_counts, unigram_counts
from memhooks.paragraphs.files import load_paragraphs, save_paragraphs
from memhooks.paragraphs.paragraphs import Paragraphs
from tests.conftest import tiny_neo

ROWS = torch.randint(4096, (3, 60), generator=torch.Generator().manual_seed(0))
TEXT = "We the people of the United States, in order to form a more perfect union: \u00fc. " * 4
TOKENIZER = AutoTokenizer.from_pretrained(asset("organism"))
UNPICKLED: list[object] = []
sys.addaudithook(lambda event, args: UNPICKLED.append(args) if event == "pickle.find_class" else None)


def read_rows(path):
    return load_paragraphs(path, tokenizer=TOKENIZER, n_tokens=20, n_prefix=10)


def read_and_use_tokenizer(folder):
    tokenizer = read_tokenizer(folder)
    return None if tokenizer is None else tokenizer.decode(tokenizer.encode(TEXT))


LOADERS = {
    "rows.pt": read_rows,
    "old.pt": read_rows,
    "rows.npy": read_rows,
    "rows.jsonl": read_rows,
    "text.jsonl": read_rows,
    "rows.csv": read_rows,
    "rows.parquet": read_rows,
    "unchecked.parquet": read_rows,
    "rows.txt": read_rows,
    "saved/state.json": read_rows,
    "saved/data-00000-of-00001.arrow": read_rows,
    "counts.npy": lambda path: load_counts(path, d_vocab=4096),
    "tokens.npy": lambda path: unigram_counts([path], d_vocab=4096),
    "tokens.txt": lambda path: unigram_counts([path], d_vocab=4096, tokenizer=TOKENIZER),
    "result.nc": load_result,
    "safe/config.json": read_model,
    "safe/model.safetensors": read_model,
    "bin/config.json": read_model,
    "bin/pytorch_model.bin": read_model,
    "words/tokenizer.json": read_and_use_tokenizer,
    "words/tokenizer_config.json": read_and_use_tokenizer,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with one undamaged file or folder for each loader."""
    import pyarrow.parquet as parquet

    folder = tmp_path_factory.mktemp("whole")
    torch.save(ROWS, folder / "rows.pt")
    torch.save(ROWS, folder / "old.pt", _use_new_zipfile_serialization=False)
    for name, array in (("rows", ROWS), ("tokens", ROWS), ("counts", torch.arange(4096))):
        np.save(folder / f"{name}.npy", array.numpy().astype(np.uint16))
    rows = [{"tokens": row, "id": n, "count": 3, "source": "web"} for n, row in enumerate(ROWS.tolist())]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": TEXT, "id": n}) for n in range(3)))
    lines = [f'{" ".join(map(str, row["tokens"]))},{row["id"]},7,"a,b"' for row in rows]
    (folder / "rows.csv").write_text("\n".join(["tokens,id,count,source", *lines]))
    save_paragraphs(Paragraphs(ROWS, 10, sources=("web",) * 3), folder / "rows.parquet")
    parquet.write_table(parquet.read_table(folder / "rows.parquet"), folder / "unchecked.parquet")
    for name in ("rows.txt", "tokens.txt"):
        (folder / name).write_text(TEXT, encoding="utf8")
    Dataset.from_dict({"tokens": ROWS.tolist(), "id": list("abc")}).save_to_disk(str(folder / "saved"))
    values = Variable(ROWS.float(), ("paragraph", "pos"), "nats", {"paragraph": list("abc")})
    save_result(labelled({"seed": 1}, a=values), folder / "result.nc")
    _save_models(folder)
    return folder


def _save_models(folder):
    neo = tiny_neo(layers=2, d_model=8, heads=2, d_mlp=16, vocab=11)
    neo.save_pretrained(folder / "safe")
    (folder / "bin").mkdir()
    shutil.copy(folder / "safe" / "config.json", folder / "bin")
    torch.save(neo.state_dict(), folder / "bin" / "pytorch_model.bin")
    (folder / "words").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(asset("organism") / name, folder / "words")


def damaged(content, *, keep, n_flips, seed):
    """The first `keep` bytes (all for None) with some bits flipped, as often near the ends as anywhere."""
    draw, damage = random.Random(seed), bytearray(content if keep is None else content[: int(keep * len(content))])
    for _ in range(n_flips if damage else 0):
        place = draw.choice([draw.randrange(min(500, len(damage))), draw.randrange(len(damage)), -1])
        place = len(damage) - 1 - draw.randrange(min(500, len(damage))) if place < 0 else place
        damage[place] ^= 1 << draw.randrange(8)
    return bytes(damage)


@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_file_loads_or_is_refused_by_name(whole, tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("damaged")
    top = name.split("/")[0]
    if (whole / top).is_dir():
        shutil.copytree(whole / top, folder / top)
    content = (whole / name).read_bytes()

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(st.none() | st.floats(0, 1, exclude_max=True), st.integers(1, 4), st.integers(0, 2**32))
    def check(keep, n_flips, seed):
        (folder / name).write_bytes(damaged(content, keep=keep, n_flips=0 if keep is not None else n_flips, seed=seed))
        refusal = None
        try:
            LOADERS[name](folder / top)
        except InputError as error:
            refusal = str(error)
        assert refusal is None or top in refusal

    (folder / name).write_bytes(content)
    LOADERS[name](folder / top)
    UNPICKLED.clear()
    check()
    assert not UNPICKLED


@pytest.mark.parametrize("load", [read_rows, load_result, lambda path: load_counts(path, d_vocab=9)])
def test_names_that_are_too_long_and_files_that_may_not_be_read_are_refused(tmp_path, monkeypatch, load):
    with pytest.raises(InputError, match=r"aaaa.*(cannot be opened|cannot be read)"):
        load("a" * 5000)

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "x.npy").write_bytes(b"0")
    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(InputError, match=r"x\.npy: cannot be read .*Permission denied"):
        load(tmp_path / "x.npy")


def test_a_model_name_that_is_too_long_is_refused():
    with pytest.raises(InputError, match="no model folder at aaaa"):
        read_model("a" * 5000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_types": [[["global", "local"], 10**9]]}, "models have at most 1000 layers, got 2000000000"),
        ({"num_layers": 10**9}, "models have at most 1000 layers, got 1000000000"),
        ({"num_layers": None}, "layers and attention_types cannot be read"),
        ([], "not valid JSON for a model, which is an object, got list"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_configurations_that_would_take_all_memory_are_refused(whole, tmp_path, change, message):
    shutil.copytree(whole / "safe", tmp_path / "safe")
    path = tmp_path / "safe" / "config.json"
    config = json.loads(path.read_text()) | change if isinstance(change, dict) else change
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(InputError, match=message):
        read_model(tmp_path / "safe")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n\0\0", b"CDF\1 and more"])
def test_files_that_are_no_whole_hdf5_are_refused(tmp_path, content):
    (tmp_path / "x.nc").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.nc: damaged, cut short, or not a saved result; compute it again"):
        load_result(tmp_path / "x.nc")


def test_hdf5_files_that_hold_no_result_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.nc", "w") as file:
        file["a"] = np.arange(3)
    with pytest.raises(InputError, match=r"x\.nc: not a saved result \("):
        load_result(tmp_path / "x.nc")


def test_a_result_with_any_bit_flipped_is_refused(tmp_path):
    path = tmp_path / "x.nc"
    save_result(labelled({}, a=Variable(np.arange(3.0), ("pos",), "nats")), path)
    content = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(content)), 300):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(InputError, match=r"x\.nc: damaged, cut short, or not a saved result"):
            load_result(path)


def test_results_of_other_tools_are_read_and_ours_open_in_other_tools(tmp_path):
    result = labelled({"seed": 1}, a=Variable(np.arange(3.0), ("pos",), "nats"))
    result.to_netcdf(tmp_path / "theirs.nc", engine="h5netcdf")
    assert load_result(tmp_path / "theirs.nc").identical(result)
    save_result(result, tmp_path / "ours.nc")
    with xr.open_dataset(tmp_path / "ours.nc", engine="h5netcdf") as opened:
        assert opened.load().identical(result)
