"""Paragraphs out of Arrow tables: parquet, folders of `Dataset.save_to_disk`, and datasets in memory.

Saved datasets are read as the Arrow files they consist of, because these can be validated
before use; a damaged offset in one that is not may crash the interpreter.
"""

import json
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as parquet

from memhooks.errors import InputError, in_short
from memhooks.paragraphs.contents import check_file, read_bytes, read_text
from memhooks.paragraphs.records import COLUMNS, Records, from_columns


@runtime_checkable
class Table(Protocol):
    """A table in memory: a `datasets.Dataset`."""

    @property
    def column_names(self) -> object:
        """The columns; a DatasetDict has them per split."""
        ...


def read_parquet(path: Path) -> Records:
    """A parquet table; `save_paragraphs` also stores the length of the prefix.

    Raises:
        InputError: the file is damaged or lacks tokens and text.
    """
    try:
        file = parquet.ParquetFile(pa.BufferReader(read_bytes(path)), page_checksum_verification=True)
        stored = (file.schema_arrow.metadata or {}).get(b"n_prefix")
        records = _from_table(file.read(), str(path))
        records.n_prefix = None if stored is None else int(stored)
    except InputError:
        raise
    except Exception as error:  # pyarrow raises its own kinds and OSError, ValueError, MemoryError
        raise InputError(f"{path}: damaged, or not parquet ({in_short(error)})") from error
    return records


def read_saved_dataset(folder: Path) -> Records:
    """A folder written by `Dataset.save_to_disk`.

    Raises:
        InputError: it is not such a folder, holds several splits, or is damaged.
    """
    if (folder / "dataset_dict.json").exists():
        splits = _json(folder / "dataset_dict.json").get("splits")
        names = ", ".join(map(str, splits)) if isinstance(splits, list) else "unknown splits"
        raise InputError(f"{folder} holds several datasets ({names}); give the folder of one of them")
    if not (folder / "state.json").exists():
        raise InputError(
            f"{folder} is a folder, but not one that Dataset.save_to_disk wrote (it lacks state.json); "
            "give a file or such a folder"
        )
    state = _json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise InputError(f"{folder}: saved with an index apart; call flatten_indices() and save it again")
    tables = [_arrow(path) for path in _data_files(state, folder)]
    try:
        return _from_table(pa.concat_tables(tables), str(folder))
    except InputError:
        raise
    except Exception as error:  # names of columns that are not UTF-8, and pyarrow's own kinds
        raise InputError(f"{folder}: damaged ({in_short(error)})") from error


def from_dataset(dataset: Table) -> Records:
    """A `datasets.Dataset` in memory.

    Raises:
        InputError: it is something else, such as a DatasetDict.
    """
    from datasets import Dataset

    if isinstance(dataset.column_names, dict):
        names = ", ".join(dataset.column_names)
        raise InputError(f"source holds several datasets ({names}); give one of them, such as source[{names!r:.80}]")
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"source must be a file, a folder, strings or a datasets.Dataset, got {type(dataset).__name__}"
        )
    known = [column for column in dataset.column_names if column in COLUMNS] or dataset.column_names
    return _from_table(dataset.select_columns(known).with_format("arrow")[:], "the dataset")


def _from_table(table: pa.Table, name: str) -> Records:
    known = table.select([column for column in table.column_names if column in COLUMNS])
    for column in known.schema:
        if not _is_plain(column.type):
            raise InputError(
                f"{name}: column {column.name} holds {column.type}; expected text, numbers or lists of integers"
            )
    known.validate(full=True)
    columns = {column: known[column].to_pylist() for column in known.column_names}
    return from_columns(columns, name, seen=table.column_names, n_rows=table.num_rows)


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
        return pa.types.is_integer(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return text or pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _data_files(state: dict, folder: Path) -> list[Path]:
    files = state.get("_data_files")
    names = [file.get("filename") if isinstance(file, dict) else None for file in files or ()] if files else []
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise InputError(f"{folder / 'state.json'}: damaged, it names no data files of this folder")
    return [folder / str(name) for name in names]


def _arrow(path: Path) -> pa.Table:
    check_file(path, "data file")
    try:
        with pa.ipc.open_stream(pa.BufferReader(read_bytes(path))) as stream:
            return stream.read_all()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: damaged, or not an Arrow file ({in_short(error)})") from error


def _json(path: Path) -> dict:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not JSON ({in_short(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object, got {type(content).__name__}")
    return content
