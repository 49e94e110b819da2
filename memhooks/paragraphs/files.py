"""Loads paragraphs from the formats people have, and saves them to parquet.

Nothing is unpickled: `.pt` files are read with `weights_only=True`, `.npy` without
`allow_pickle`. Token files are taken as they are; text needs a tokenizer.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from memhooks.errors import InputError, in_short
from memhooks.paragraphs.paragraphs import Paragraphs

_TEXT_COLUMNS = ("text", "paragraph")


@dataclass
class _Records:
    """What a file says, before it is checked: tokens or text, and labels."""

    tokens: list | Tensor | None = None
    text: list[str] | None = None
    labels: dict[str, list] = field(default_factory=dict)
    n_prefix: int | None = None


def load_paragraphs(
    source: str | Path | Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    n_prefix: int | None = None,
    n_tokens: int = 100,
) -> Paragraphs:
    """Read paragraphs from a file, or from strings.

    Args:
        source: `.pt` (one integer tensor), `.npy` (one array, or `x_prefix.npy` with
            `x_suffix.npy` beside it), `.jsonl`, `.csv`, `.parquet`, or a list of strings.
            Tables have a column `tokens`, `text` or `paragraph`, and may have `id`, `count`, `source`.
        tokenizer: needed for text; no special token is added.
        n_prefix: tokens given to the model; by default the file's own, else 50.
        n_tokens: text is cut to this many tokens; shorter text is an error. Token files keep their length.

    Raises:
        InputError: the file is missing, empty, damaged, of another format, or its rows differ in length.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"no paragraph file at {path}")
        if path.suffix not in _READERS:
            raise InputError(
                f"{path}: cannot read {path.suffix or 'files without an ending'}; "
                f"supported: {', '.join(_READERS)}, or a list of strings"
            )
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty")
        records, name = _READERS[path.suffix](path), str(path)
    else:
        records, name = _Records(text=list(source)), "the strings"
    return _checked(records, name, tokenizer, n_prefix, n_tokens)


def save_paragraphs(paragraphs: Paragraphs, path: str | Path) -> None:
    """Write parquet that `load_paragraphs` reads back identically; whole or not at all.

    Raises:
        InputError: the file name does not end in `.parquet`.
    """
    path = Path(path)
    if path.suffix != ".parquet":
        raise InputError(f"paragraphs are saved as .parquet, got {path.name}")
    columns: dict[str, list] = {"tokens": paragraphs.tokens.tolist(), "id": list(paragraphs.ids)}
    for column, labels in (("count", paragraphs.counts), ("source", paragraphs.sources), ("text", paragraphs.text)):
        if labels is not None:
            columns[column] = list(labels)
    table = pa.table(columns).replace_schema_metadata({"n_prefix": str(paragraphs.n_prefix)})
    partial = path.with_name(path.name + ".partial")
    parquet.write_table(table, partial)
    partial.replace(path)


def _read_pt(path: Path) -> _Records:
    try:
        tensor = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises a dozen kinds on random bytes
        raise InputError(f"{path}: not a plain tensor file ({in_short(error)}); nothing else is unpickled") from error
    if not isinstance(tensor, Tensor):
        raise InputError(f"{path}: expected one tensor, got {type(tensor).__name__}")
    return _Records(tokens=_integer_rows(tensor, path))


def _read_npy(path: Path) -> _Records:
    rows = _integer_rows(torch.from_numpy(read_array(path)), path)
    if not path.stem.endswith("prefix") or path.stem.endswith("preprefix"):
        return _Records(tokens=rows)
    suffix = path.with_name(path.name[: -len("prefix.npy")] + "suffix.npy")
    if not suffix.is_file():
        raise InputError(f"{path.name} holds prefixes, but {suffix.name} is not beside it")
    continuation = _integer_rows(torch.from_numpy(read_array(suffix)), suffix)
    if len(continuation) != len(rows):
        raise InputError(f"{path.name} has {len(rows)} rows, {suffix.name} {len(continuation)}")
    return _Records(tokens=torch.cat([rows, continuation], dim=1), n_prefix=rows.shape[1])


def read_array(path: Path) -> np.ndarray:
    """The integers of a `.npy` file as int64, without unpickling.

    Raises:
        InputError: the file is damaged or holds something else.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy's reader of damaged headers raises many kinds
        raise InputError(f"{path}: damaged, or not a plain array ({in_short(error)})") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: an archive of arrays; save one array as .npy")
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{path}: tokens must be integers, got {array.dtype}")
    return array.astype(np.int64)


def _read_jsonl(path: Path) -> _Records:
    rows = []
    lines = _text(path).split("\n")  # not splitlines: U+2028 may stand inside JSON strings
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: not JSON ({in_short(error)})") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
            rows.append(row)
    return _from_rows(rows, path)


def _read_csv(path: Path) -> _Records:
    try:
        rows = list(csv.DictReader(io.StringIO(_text(path), newline="")))
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({in_short(error)})") from error
    for number, row in enumerate(rows, start=1):
        if "tokens" in row:
            try:
                row["tokens"] = [int(token) for token in (row["tokens"] or "").strip("[]").replace(",", " ").split()]
            except ValueError as error:
                raise InputError(f"{path}, row {number}: tokens must be integers ({in_short(error)})") from error
    return _from_rows(rows, path)


def _read_parquet(path: Path) -> _Records:
    try:
        table = parquet.read_table(path)
        stored = (table.schema.metadata or {}).get(b"n_prefix")
        records = _from_rows(table.to_pylist(), path)
        records.n_prefix = None if stored is None else int(stored)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged, or not parquet ({in_short(error)})") from error
    return records


_READERS: dict[str, Callable[[Path], _Records]] = {
    ".pt": _read_pt,
    ".npy": _read_npy,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _from_rows(rows: list[dict], path: Path) -> _Records:
    if not rows:
        raise InputError(f"{path} holds no paragraphs")
    columns = set.intersection(*(set(row) for row in rows))
    labels = {column: [row[column] for row in rows] for column in ("id", "count", "source") if column in columns}
    records = _Records(labels=labels)
    text = next((column for column in _TEXT_COLUMNS if column in columns), None)
    if text is not None:
        records.text = [str(row[text]) for row in rows]
    if "tokens" in columns:
        records.tokens = [row["tokens"] for row in rows]
    if records.tokens is None and records.text is None:
        raise InputError(
            f"{path}: every row needs tokens, text or paragraph; "
            f"common columns are {', '.join(sorted(columns)) or 'none'}"
        )
    return records


def _checked(
    records: _Records, name: str, tokenizer: PreTrainedTokenizerBase | None, n_prefix: int | None, n_tokens: int
) -> Paragraphs:
    tokens = records.tokens if records.tokens is not None else _tokenized(records.text or [], name, tokenizer, n_tokens)
    labels = records.labels
    try:
        counts = tuple(int(float(count)) for count in labels["count"]) if "count" in labels else None
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name}: count must be a number ({in_short(error)})") from error
    try:
        return Paragraphs(
            tokens=tokens if isinstance(tokens, Tensor) else _tensor(tokens, name),
            n_prefix=next(n for n in (n_prefix, records.n_prefix, 50) if n is not None),
            ids=tuple(map(str, labels.get("id", ()))),
            counts=counts,
            sources=tuple(map(str, labels["source"])) if "source" in labels else None,
            text=tuple(records.text) if records.tokens is not None and records.text is not None else None,
        ).with_text(tokenizer)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _tokenized(text: list[str], name: str, tokenizer: PreTrainedTokenizerBase | None, n_tokens: int) -> list[list[int]]:
    if tokenizer is None:
        raise InputError(
            f"{name}: text needs a tokenizer; put its files beside the weights, pass tokenizer=, or give token ids"
        )
    if not text:
        raise InputError(f"{name}: no paragraphs")
    rows = [tokenizer.encode(one, add_special_tokens=False) for one in text]
    short = [(row, len(ids)) for row, ids in enumerate(rows) if len(ids) < n_tokens]
    if short:
        raise InputError(
            f"{name}: row {short[0][0]} has {short[0][1]} tokens, {n_tokens} are needed; "
            "give longer text or fewer with n_tokens (--n-tokens)"
        )
    return [ids[:n_tokens] for ids in rows]


def _tensor(rows: list, name: str) -> Tensor:
    for number, row in enumerate(rows):
        if not isinstance(row, list) or not all(
            isinstance(token, int) and not isinstance(token, bool) for token in row
        ):
            raise InputError(f"{name}: row {number}: tokens must be a list of integers")
        if len(row) != len(rows[0]):
            raise InputError(
                f"{name}: all paragraphs must have the same length; "
                f"row 0 has {len(rows[0])} tokens, row {number} {len(row)}"
            )
    try:
        return torch.tensor(rows, dtype=torch.int64)
    except (RuntimeError, OverflowError, ValueError) as error:
        raise InputError(f"{name}: token ids are too large ({in_short(error)})") from error


def _integer_rows(tensor: Tensor, path: Path) -> Tensor:
    if tensor.layout != torch.strided:
        raise InputError(f"{path}: expected a dense tensor, got {tensor.layout}")
    if tensor.ndim != 2 or tensor.numel() == 0:
        raise InputError(f"{path}: expected a non-empty [paragraph, pos] array, got shape {tuple(tensor.shape)}")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"{path}: tokens must be integers, got {tensor.dtype}")
    return tensor.long()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({in_short(error)})") from error
