"""A run's folder: one run at a time, settings and manifest beside the results, never results of two kinds."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from memhooks.errors import InputError
from memhooks.model.export import check_writable
from memhooks.model.labelled import AXES, versions
from memhooks.study.settings import Settings
from memhooks.study.settings_file import load_settings, save_settings
from memhooks.study.subject import Subject
from memhooks.writing import whole_file

SETTINGS = "study.toml"
_MANIFEST = "manifest.json"
_OURS = ("results", "stages", _MANIFEST, SETTINGS, "report.html")


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


def settled(folder: Path, settings: Settings) -> Settings:
    """The settings of a run, threads as a number: those that the folder has, if it holds the same run already.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    threads = settings.threads or torch.get_num_threads()
    path = folder / SETTINGS
    if not path.exists():
        settings = replace(settings, threads=threads)
        save_settings(settings, path)
        return settings
    there = Settings(**load_settings(path))  # type: ignore[arg-type] - checked by Settings itself
    wanted = replace(settings, threads=settings.threads or there.threads)
    _refuse_others(folder, "settings", asdict(there), asdict(wanted))
    return there


def check_manifest(folder: Path, subject: Subject) -> None:
    """Write what a run depends on beside its settings, or compare it with what the run began with.

    Raises:
        InputError: it began with other models, texts, packages or code of memhooks.
    """
    path = folder / _MANIFEST
    now = {"versions": versions() | {"memhooks code": _code_hash()}, **subject.about()}
    if path.exists():
        there = json.loads(path.read_text())
        for group, own in now.items():
            _refuse_others(folder, group, there[group], own)
        return
    settings = asdict(Settings(**load_settings(folder / SETTINGS)))  # type: ignore[arg-type]
    with whole_file(path) as partial:
        partial.write_text(json.dumps({"settings": settings, **now, "axes": AXES}, indent=2))


def clear(folder: Path) -> None:
    """Delete what a study wrote into the folder, and nothing else."""
    for name in _OURS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _refuse_others(folder: Path, group: str, there: Mapping[str, object], now: Mapping[str, object]) -> None:
    differ = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    if differ:
        told = ", ".join(f"{name} ({there.get(name)!r} there, {now.get(name)!r} now)" for name in differ[:3])
        raise InputError(
            f"{folder} holds a run with other {group}: {told}; choose another folder, or --restart to begin anew in "
            "this one"
        )


def _code_hash() -> str:
    """A fingerprint of the package's own files: a run goes on with the code that it began with."""
    digest = hashlib.blake2b(digest_size=8)
    root = Path(str(files("memhooks")))
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
