"""Bytes, lines and texts of files of any size, compressed or not, with memory for a small part of them."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

_CHUNK = 1 << 18
_COMPRESSED = 1 << 13  # a frame may hold a thousand times as much
_RUN = 1 << 20
"""Characters of a text that are tokenized together."""
_LONGEST = 1 << 26


class StreamError(Exception):
    """A file cannot be read on from here; what came before it is good."""


def chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes, decompressed.

    Raises:
        StreamError: the file is damaged or cut off, or may not be read.
    """
    try:
        if path.suffix == ".zst":
            yield from _decompressed(path)
            return
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise StreamError(f"cannot be read on: {getattr(error, 'strerror', None) or error}") from error


def _decompressed(path: Path) -> Iterator[bytes]:
    """Frame by frame, because zstandard's own reader takes a file that is cut off for a whole one.

    Raises:
        StreamError: it is cut off.
    """
    frame = zstandard.ZstdDecompressor().decompressobj()
    begun = False
    with path.open("rb") as file:
        while chunk := file.read(_COMPRESSED):
            while chunk:
                begun = True
                if plain := frame.decompress(chunk):
                    yield plain
                chunk = b""
                if frame.eof:
                    chunk, begun = frame.unused_data, False
                    frame = zstandard.ZstdDecompressor().decompressobj()
    if begun:
        raise StreamError("cut off: its last part is missing")


def lines(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines whose first byte lies in a range, each with the place of that byte.

    Raises:
        StreamError: as `chunks`.
    """
    if start == 0 and stop is None:
        place, rest = 0, []
        for chunk in chunks(path):
            first, *more = chunk.split(b"\n")
            rest.append(first)
            for line in more:
                whole = b"".join(rest)
                yield place, whole
                place, rest = place + len(whole) + 1, [line]
        if whole := b"".join(rest):
            yield place, whole
        return
    try:
        with path.open("rb") as file:
            if start:
                file.seek(start - 1)
                file.readline()  # the line that another piece began
            while (place := file.tell()) < (stop or place + 1) and (line := file.readline()):
                yield place, line
    except OSError as error:
        raise StreamError(f"cannot be read on: {error.strerror or error}") from error


def runs(path: Path) -> Iterator[str]:
    """One text in runs, cut after a line feed that stands alone between two characters that are no space.

    A byte-level BPE never joins such a line feed with what follows, so the runs have the tokens of the whole text.

    Raises:
        StreamError: as `chunks`; it is not UTF-8, or offers no place to be cut in 64 MB.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    text, failure = "", None
    try:
        for chunk in chunks(path):
            text += decoder.decode(chunk)
            if len(text) >= _RUN and (cut := _last_cut(text)):
                yield text[:cut]
                text = text[cut:]
            if len(text) > _LONGEST:
                raise StreamError(f"no line break in {len(text)} characters; is this a text?")
        text += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        failure = StreamError(f"not UTF-8 text ({error})")
    except StreamError as error:
        failure = error
    if text:
        yield text
    if failure is not None:
        raise failure


def _last_cut(text: str) -> int:
    """Where the text may be cut, as late as possible; 0 if nowhere."""
    at = text.rfind("\n", 1, len(text) - 1)
    while at > 0:
        if not text[at - 1].isspace() and not text[at + 1].isspace():
            return at + 1
        at = text.rfind("\n", 1, at)
    return 0
