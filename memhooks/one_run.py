"""A folder that belongs to one run: nobody else writes to it, and it goes on only with what it began with."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from memhooks.errors import InputError
from memhooks.model.export import check_writable
from memhooks.writing import whole_file

MANIFEST = "manifest.json"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of the folder; the system lets go of it even if this one is killed.

    Raises:
        InputError: the folder cannot be written to, or another run is at work in it.
    """
    check_writable(folder)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"another run is at work in {folder}; wait for it, or choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """What the folder's run began with; None if there is no run: then none of its results are there either.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / MANIFEST
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise InputError(f"{path} is damaged; choose another folder") from error


def begin(folder: Path, now: Mapping[str, Mapping[str, object]]) -> None:
    """Write what the run begins with, group by group, or compare it with what the folder's run began with.

    Raises:
        InputError: it began with something else.
    """
    there = manifest_of(folder)
    if there is None:
        write_manifest(folder, now)
        return
    for group, own in json.loads(json.dumps(now)).items():  # tuples are lists in the file
        refuse_others(folder, group, there.get(group, {}), own)


def write_manifest(folder: Path, about: Mapping[str, Any]) -> None:
    """Write what the run begins with, whole or not at all."""
    with whole_file(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(about, indent=2))


def refuse_others(folder: Path, group: str, there: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Refuse to go on with other settings, models or texts than the folder's run began with.

    Raises:
        InputError: they differ.
    """
    differ = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    if differ:
        told = ", ".join(f"{name} ({there.get(name)!r} there, {now.get(name)!r} now)" for name in differ[:3])
        raise InputError(
            f"{folder} holds a run with other {group}: {told}; choose another folder, or --restart to begin anew in "
            "this one"
        )


def code_hash() -> str:
    """A fingerprint of the package's own files: a run goes on with the code that it began with."""
    digest = hashlib.blake2b(digest_size=8)
    root = Path(str(files("memhooks")))
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
