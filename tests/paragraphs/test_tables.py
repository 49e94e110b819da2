import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from datasets import Dataset, DatasetDict, load_from_disk
from transformers import AutoTokenizer

from memhooks.errors import InputError
from memhooks.model.loading import asset
from memhooks.paragraphs.files import load_paragraphs

ROWS = torch.randint(4096, (5, 100), generator=torch.Generator().manual_seed(0))
COLUMNS = {
    "tokens": ROWS.tolist(),
    "id": list("abcde"),
    "count": [1, 2, 3, 4, 5],
    "source": ["web"] * 5,
    "other": [0] * 5,
}


def test_a_dataset_in_memory_and_its_folder_give_the_same_paragraphs(tmp_path):
    dataset = Dataset.from_dict(COLUMNS)
    dataset.save_to_disk(str(tmp_path / "saved"))
    for loaded in (load_paragraphs(dataset), load_paragraphs(tmp_path / "saved")):
        assert torch.equal(loaded.tokens, ROWS)
        assert (loaded.ids, loaded.counts, loaded.sources) == (tuple("abcde"), (1, 2, 3, 4, 5), ("web",) * 5)


def test_selected_shuffled_and_sharded_rows_are_read_as_datasets_reads_them(tmp_path):
    dataset = Dataset.from_dict(COLUMNS).shuffle(seed=1).select([3, 0, 4]).with_format("torch")
    dataset.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    expected = torch.tensor(load_from_disk(str(tmp_path / "saved")).with_format(None)["tokens"][:])
    assert torch.equal(load_paragraphs(tmp_path / "saved").tokens, expected)
    assert torch.equal(load_paragraphs(dataset).tokens, expected)


def test_text_in_datasets_needs_a_tokenizer_and_is_cut(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(asset("organism"))
    text = "We the people of the United States. " * 20
    dataset = Dataset.from_dict({"paragraph": [text] * 2})
    loaded = load_paragraphs(dataset, tokenizer=tokenizer, n_tokens=30, n_prefix=10)
    assert loaded.tokens[1].tolist() == tokenizer.encode(text, add_special_tokens=False)[:30]
    with pytest.raises(InputError, match="the dataset: text needs a tokenizer"):
        load_paragraphs(dataset)


def test_several_splits_are_refused_by_name(tmp_path):
    both = DatasetDict(train=Dataset.from_dict(COLUMNS), test=Dataset.from_dict(COLUMNS))
    with pytest.raises(InputError, match=r"source holds several datasets \(train, test\); give one of them"):
        load_paragraphs(both)
    both.save_to_disk(str(tmp_path / "both"))
    with pytest.raises(InputError, match=r"both holds several datasets \(train, test\); give the folder of one"):
        load_paragraphs(tmp_path / "both")
    assert len(load_paragraphs(tmp_path / "both" / "test")) == 5


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "is a folder, but not one that Dataset.save_to_disk wrote"),
        ("[", "state.json: not JSON"),
        ("[]", "state.json: expected an object, got list"),
        ("{}", "names no data files of this folder"),
        ({"_data_files": [{"filename": "../x.arrow"}]}, "names no data files of this folder"),
        ({"_data_files": [{"filename": "x.arrow"}]}, "no data file at"),
        ({"_data_files": [{"filename": "x.arrow"}], "_indices_data_files": [{}]}, "call flatten_indices"),
    ],
)
def test_folders_that_are_no_saved_dataset_are_refused(tmp_path, state, message):
    folder = tmp_path / "x.pt"
    folder.mkdir()
    if state is not None:
        (folder / "state.json").write_text(state if isinstance(state, str) else json.dumps(state))
    with pytest.raises(InputError, match=message) as caught:
        load_paragraphs(folder)
    assert "x.pt" in str(caught.value)


def test_damaged_data_files_of_a_dataset_are_refused(tmp_path):
    folder = tmp_path / "saved"
    Dataset.from_dict(COLUMNS).save_to_disk(str(folder))
    (data,) = folder.glob("*.arrow")
    data.write_bytes(data.read_bytes()[:-600])
    with pytest.raises(InputError, match=r"data-00000-of-00001\.arrow: damaged, or not an Arrow file"):
        load_paragraphs(folder)
    one, other = pa.table({"tokens": [[1, 2]]}), pa.table({"text": ["a"]})
    for name, table in (("one", one), ("other", other)):
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table)
    files = [{"filename": "one"}, {"filename": "other"}]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    with pytest.raises(InputError, match=r"saved: damaged \(Schema"):
        load_paragraphs(folder)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tokens": [[1.0, 2.0]]}, "column tokens holds list<.*double>; expected text, numbers or lists of integers"),
        ({"tokens": [[[1]]]}, "column tokens holds list<"),
        ({"tokens": [[1, None]]}, "row 0: tokens must be a list of integers"),
        ({"other": [1]}, "every row needs tokens, text or paragraph; common columns are other"),
        ({"tokens": pa.array([], pa.list_(pa.int64()))}, "holds no paragraphs"),
    ],
)
def test_tables_of_other_columns_are_refused(tmp_path, columns, message):
    table = pa.table(columns)
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match=message):
        load_paragraphs(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=message):
        load_paragraphs(Dataset(table))


def test_other_sources_are_refused():
    with pytest.raises(InputError, match=r"a folder, strings or a datasets\.Dataset, got Table"):
        load_paragraphs(pa.table({"text": ["a"]}))


def test_a_folder_in_the_path_is_no_column(tmp_path):
    (tmp_path / "count=7").mkdir()
    parquet.write_table(pa.table({"tokens": ROWS.tolist()}), tmp_path / "count=7" / "x.parquet")
    assert load_paragraphs(tmp_path / "count=7" / "x.parquet").counts is None
