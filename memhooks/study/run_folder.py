"""A run's folder: one run at a time, settings and manifest beside the results, never results of two kinds."""

import hashlib
import json
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
from memhooks.study.settings_file import save_settings
from memhooks.study.subject import Subject
from memhooks.writing import whole_file

SETTINGS = "study.toml"
_MANIFEST = "manifest.json"


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


def settled(folder: Path, settings: Settings, *, anew: bool = False) -> Settings:
    """The settings of a run, threads as a number: those of the run that the folder holds, if it is the same.

    Args:
        folder: of the run; nothing is written to it.
        settings: what is asked for.
        anew: whatever the folder holds does not count.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    there = None if anew else _manifest(folder)
    if there is None:
        return replace(settings, threads=settings.threads or torch.get_num_threads())
    began = Settings(**there["settings"])
    wanted = replace(settings, threads=settings.threads or began.threads)
    _refuse_others(folder, "settings", asdict(began), asdict(wanted))
    return began


def begin(folder: Path, settings: Settings, subject: Subject) -> None:
    """Write settings and manifest, or compare them with what the run in the folder began with.

    Raises:
        InputError: it began with other models, texts, packages or code of memhooks.
    """
    now = {"versions": versions() | {"memhooks code": _code_hash()}, **subject.about()}
    there = _manifest(folder)
    if there is not None:
        for group, own in now.items():
            _refuse_others(folder, group, there[group], own)
        return
    save_settings(settings, folder / SETTINGS)
    with whole_file(folder / _MANIFEST) as partial:
        partial.write_text(json.dumps({"settings": asdict(settings), **now, "axes": AXES}, indent=2))


def clear(folder: Path) -> None:
    """Delete the study that the folder holds, if it holds one, and nothing else; its manifest goes last."""
    if _manifest(folder) is None:
        return
    for record in folder.glob("stages/*.json"):
        for name in json.loads(record.read_text())["results"]:
            for ending in (".nc", ".nc.partial"):
                (folder / "results" / f"{name}{ending}").unlink(missing_ok=True)
        record.unlink()
    for path in [*folder.glob("results/*"), folder / "results", folder / "stages"]:
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    for name in ("report.html", SETTINGS, _MANIFEST):
        (folder / name).unlink(missing_ok=True)


def _manifest(folder: Path) -> dict | None:
    """What the folder's run began with; None if there is no run: then none of its results are there either.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / _MANIFEST
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise InputError(f"{path} is damaged; choose another folder") from error


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
