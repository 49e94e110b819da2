"""Files are written whole or not at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memhooks.errors import InputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to: it takes its place when the block ends, and goes if the block fails.

    Raises:
        OSError: the disk is full or may not be written to; the error names `path`.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # so that a power cut leaves the old file or the new one, nothing in between
        partial.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial), partial):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a failed write does not say where
    finally:
        partial.unlink(missing_ok=True)


def save_row(folder: Path, key: str, row: Mapping[str, Any]) -> None:
    """Write a trial's row as JSON, whole or not at all."""
    with whole_file(folder / f"{key}.json") as partial:
        partial.write_text(json.dumps(row))


def load_row(folder: Path, key: str) -> dict[str, Any] | None:
    """A trial's row, if it was run before.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / f"{key}.json"
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise InputError(f"{path} is damaged; delete it to run this trial again") from error
