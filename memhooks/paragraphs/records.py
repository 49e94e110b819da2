"""From what a file says to paragraphs: every row is checked, and text is tokenized."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from memhooks.errors import InputError, in_short
from memhooks.paragraphs.paragraphs import Paragraphs

COLUMNS = ("tokens", "text", "paragraph", "id", "count", "source")
_LARGEST = 2**63 - 1


@dataclass
class Records:
    """What a file says, before it is checked.

    Attributes:
        tokens: one row of token ids per paragraph.
        text: one text per paragraph.
        running: one text that is cut into paragraphs, and the name of where it comes from.
        labels: the columns `id`, `count` and `source`, where there are any.
        n_prefix: as stored with the paragraphs.
    """

    tokens: list | Tensor | None = None
    text: list | None = None
    running: tuple[str, str] | None = None
    labels: dict[str, list] = field(default_factory=dict)
    n_prefix: int | None = None


def from_rows(rows: list[dict], name: str) -> Records:
    """Records from rows that may have different columns; those which all have count.

    Raises:
        InputError: there are no rows, or they lack both tokens and text.
    """
    common = [column for column in (rows[0] if rows else ()) if all(column in row for row in rows)]
    columns = {column: [row[column] for row in rows] for column in common if column in COLUMNS}
    return from_columns(columns, name, seen=common, n_rows=len(rows))


def from_columns(columns: Mapping[str, list], name: str, *, seen: Iterable[str], n_rows: int) -> Records:
    """Records from columns of equal length.

    Args:
        columns: those of `COLUMNS` that there are.
        name: of the file, for messages.
        seen: the names of all columns, for messages.
        n_rows: paragraphs in the file.

    Raises:
        InputError: there are no rows, or neither tokens nor text.
    """
    if not n_rows:
        raise InputError(f"{name} holds no paragraphs")
    text = columns.get("text", columns.get("paragraph"))
    if "tokens" not in columns and text is None:
        raise InputError(
            f"{name}: every row needs tokens, text or paragraph; common columns are {', '.join(sorted(seen)) or 'none'}"
        )
    labels = {column: columns[column] for column in ("id", "count", "source") if column in columns}
    return Records(tokens=columns.get("tokens"), text=text, labels=labels)


def to_paragraphs(
    records: Records, name: str, *, tokenizer: PreTrainedTokenizerBase | None, n_prefix: int | None, n_tokens: int
) -> Paragraphs:
    """Check records and make paragraphs of them.

    Raises:
        InputError: rows of different length, text without a tokenizer or too short, or a label of the wrong kind.
    """
    labels, text, tokens = records.labels, records.text, records.tokens
    if text is not None:
        text = [_text(value, f"{name}: row {row}: text") for row, value in enumerate(text)]
    if records.running is not None:
        tokens, labels = _cut(records.running, name, tokenizer, n_tokens)
    elif tokens is None:
        tokens, text = _tokenized(text or [], name, tokenizer, n_tokens), None
    ids, sources = (_names(labels, column, name) for column in ("id", "source"))
    counts = tuple(_count(value, name, row) for row, value in enumerate(labels.get("count", ())))
    rows = tokens if isinstance(tokens, Tensor) else _tensor(tokens, name)
    try:
        return Paragraphs(
            tokens=rows,
            n_prefix=next(n for n in (n_prefix, records.n_prefix, 50) if n is not None),
            ids=ids or (),
            counts=counts if "count" in labels else None,
            sources=sources,
            text=None if text is None else tuple(text),
        ).with_text(tokenizer)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _names(labels: dict[str, list], column: str, name: str) -> tuple[str, ...] | None:
    if column not in labels:
        return None
    for row, value in enumerate(labels[column]):
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InputError(f"{name}: row {row}: {column} must be text or a number, got {value!r:.80}")
    return tuple(_text(str(value), f"{name}: row {row}: {column}") for row, value in enumerate(labels[column]))


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{place} must be a string, got {value!r:.80}")
    try:
        value.encode("utf8")
    except UnicodeEncodeError as error:
        raise InputError(f"{place} holds half a character (a lone surrogate); mend the file's escapes") from error
    return value


def _count(value: object, name: str, row: int) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise TypeError(f"got {value!r:.80}")
        number = value if isinstance(value, int) else int(float(value))
        if abs(number) > _LARGEST:
            raise OverflowError("it does not fit 64 bits")
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name}: row {row}: count must be a number ({in_short(error)})") from error
    return number


def _encoded(text: Iterable[str], name: str, tokenizer: PreTrainedTokenizerBase | None, n_tokens: int) -> list:
    if tokenizer is None:
        raise InputError(
            f"{name}: text needs a tokenizer; put its files beside the weights, "
            "give token ids, or (in Python) pass tokenizer="
        )
    if n_tokens < 2:
        raise InputError(f"n_tokens must be at least 2, a prefix and something to recite, got {n_tokens}")
    return [tokenizer.encode(one, add_special_tokens=False, verbose=False) for one in text]


def _tokenized(text: list[str], name: str, tokenizer: PreTrainedTokenizerBase | None, n_tokens: int) -> list[list[int]]:
    rows = _encoded(text, name, tokenizer, n_tokens)
    short = [(row, len(ids)) for row, ids in enumerate(rows) if len(ids) < n_tokens]
    if short:
        raise InputError(
            f"{name}: row {short[0][0]} has {short[0][1]} tokens, {n_tokens} are needed; "
            "give longer text or fewer with n_tokens (--n-tokens)"
        )
    return [ids[:n_tokens] for ids in rows]


def _cut(
    running: tuple[str, str], name: str, tokenizer: PreTrainedTokenizerBase | None, n_tokens: int
) -> tuple[Int64[Tensor, "paragraph pos"], dict[str, list]]:
    """Consecutive windows of running text, each named by the offset of its first token.

    Raises:
        InputError: there is no tokenizer, or the text is shorter than one window.
    """
    text, source = running
    (ids,) = _encoded([text], name, tokenizer, n_tokens)
    n_windows = len(ids) // n_tokens
    if not n_windows:
        raise InputError(
            f"{name}: the text has {len(ids)} tokens, {n_tokens} are needed; "
            "give longer text or fewer with n_tokens (--n-tokens)"
        )
    rows = torch.tensor(ids[: n_windows * n_tokens]).reshape(n_windows, n_tokens)
    return rows, {"id": [window * n_tokens for window in range(n_windows)], "source": [source] * n_windows}


def _tensor(rows: list | None, name: str) -> Int64[Tensor, "paragraph pos"]:
    rows = rows or []
    for number, row in enumerate(rows):
        if not isinstance(row, list) or not all(type(token) is int for token in row):  # a bool is no token
            raise InputError(f"{name}: row {number}: tokens must be a list of integers")
        if len(row) != len(rows[0]):
            raise InputError(
                f"{name}: all paragraphs must have the same length; "
                f"row 0 has {len(rows[0])} tokens, row {number} {len(row)}"
            )
    try:
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), -1)
    except (RuntimeError, OverflowError, ValueError) as error:
        raise InputError(f"{name}: token ids are too large, or rows are empty ({in_short(error)})") from error
