"""Documents of a piece as tokens, in stretches that hold every window exactly once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Integer
from transformers import PreTrainedTokenizerBase

from memhooks.errors import InputError
from memhooks.scale.corpus import Piece
from memhooks.scale.records import Fault, Record, records

OnError = Literal["stop", "skip"]
_TOGETHER = 1 << 20


@dataclass(frozen=True)
class Segment:
    """A stretch of one document.

    Attributes:
        source: file, and `#` with the document's byte (jsonl), row, or first token (npy).
        first: place of `tokens[0]` in the document.
        tokens: of the stretch, with `overlap` tokens that another stretch holds, too, where it has neighbours.
        own: range of the tokens that no other segment counts as its own.
    """

    source: str
    first: int
    tokens: Integer[np.ndarray, " _"]
    own: tuple[int, int]


def segments(
    piece: Piece,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overlap: int = 0,
    column: str | None = None,
    end_of_text: int | None = None,
    on_error: OnError = "stop",
    faults: list[Fault] | None = None,
) -> Iterator[Segment]:
    """Read a piece.

    Args:
        piece: what to read.
        tokenizer: needed for texts; no special token is added.
        overlap: tokens that segments of one document share: a window's length less one, so that each window of a
            document lies in exactly one segment.
        column: of records; by default the first there is of tokens, text, content.
        end_of_text: id that ends documents in one-dimensional token files, and belongs to none.
        on_error: `stop` at what cannot be read, or `skip` it.
        faults: to which what was skipped is added.

    Raises:
        InputError: what cannot be read, if it is not skipped; a text without a tokenizer.
    """
    tail = np.zeros(0, np.int64)
    place = 0
    for record, tokens in _tokenized(_sound(piece, column, overlap, end_of_text, on_error, faults), tokenizer):
        if record.first is None:  # goes on
            whole = np.concatenate([tail, tokens])
            yield Segment(record.source, place - len(tail), whole, (len(tail), len(whole)))
        else:
            place, whole = record.first, tokens
            yield Segment(record.source, place, tokens, (0, len(tokens) if record.own is None else record.own))
        place += len(tokens)
        tail = whole[max(0, len(whole) - overlap) :]


def _sound(
    piece: Piece,
    column: str | None,
    overlap: int,
    end_of_text: int | None,
    on_error: OnError,
    faults: list[Fault] | None,
) -> Iterator[Record]:
    """The records that can be read.

    Raises:
        InputError: one cannot, and is not to be skipped.
    """
    for one in records(piece, column=column, overlap=overlap, end_of_text=end_of_text):
        if isinstance(one, Record):
            yield one
        elif on_error == "stop":
            raise InputError(f"{one.source}: {one.what}; mend it, or skip such places with --on-error skip")
        elif faults is not None:
            faults.append(one)


def _tokenized(
    found: Iterable[Record], tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[tuple[Record, Integer[np.ndarray, " _"]]]:
    """Texts are encoded many at a time, which uses all cores; a fault waits until what came before it is out.

    Raises:
        InputError: the fault that waited.
    """
    waiting: list[Record] = []
    n_characters = 0
    stream = iter(found)
    while True:
        try:
            record = next(stream, None)
        except InputError:
            yield from _encoded(waiting, tokenizer)
            raise
        if record is not None and isinstance(record.content, str):
            waiting.append(record)
            n_characters += len(record.content)
            if n_characters < _TOGETHER:
                continue
        yield from _encoded(waiting, tokenizer)
        waiting, n_characters = [], 0
        if record is None:
            return
        if isinstance(record.content, np.ndarray):
            yield record, record.content


def _encoded(
    waiting: list[Record], tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[tuple[Record, Integer[np.ndarray, " _"]]]:
    if not waiting:
        return
    if tokenizer is None:
        raise InputError(f"{waiting[0].source}: text needs a tokenizer; give a model that has one, or token files")
    fast = getattr(tokenizer, "backend_tokenizer", None)
    texts = [str(record.content) for record in waiting]
    if fast is not None:
        every = [encoding.ids for encoding in fast.encode_batch_fast(texts, add_special_tokens=False)]
    else:
        every = [tokenizer.encode(text, add_special_tokens=False, verbose=False) for text in texts]
    for record, ids in zip(waiting, every, strict=True):
        yield record, np.array(ids, np.int64)
