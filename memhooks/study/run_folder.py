"""A run's folder: one run at a time, settings and manifest beside the results, never results of two kinds."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from memhooks.model.labelled import AXES, versions
from memhooks.one_run import MANIFEST, code_hash, manifest_of, refuse_others, write_manifest
from memhooks.study.settings import Settings
from memhooks.study.settings_file import save_settings
from memhooks.study.subject import Subject

SETTINGS = "study.toml"


def settled(folder: Path, settings: Settings, *, anew: bool = False) -> Settings:
    """The settings of a run, threads as a number: those of the run that the folder holds, if it is the same.

    Args:
        folder: of the run; nothing is written to it.
        settings: what is asked for.
        anew: whatever the folder holds does not count.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    there = None if anew else manifest_of(folder)
    if there is None:
        return replace(settings, threads=settings.threads or torch.get_num_threads())
    began = Settings(**there["settings"])
    wanted = replace(settings, threads=settings.threads or began.threads)
    refuse_others(folder, "settings", asdict(began), asdict(wanted))
    return began


def begin(folder: Path, settings: Settings, subject: Subject) -> None:
    """Write settings and manifest, or compare them with what the run in the folder began with.

    Raises:
        InputError: it began with other models, texts, packages or code of memhooks.
    """
    now = {"versions": versions() | {"memhooks code": code_hash()}, **subject.about()}
    there = manifest_of(folder)
    if there is not None:
        for group, own in now.items():
            refuse_others(folder, group, there[group], own)
        return
    save_settings(settings, folder / SETTINGS)
    write_manifest(folder, {"settings": asdict(settings), **now, "axes": AXES})


def clear(folder: Path) -> None:
    """Delete the study that the folder holds, if it holds one, and nothing else; its manifest goes last."""
    if manifest_of(folder) is None:
        return
    for record in folder.glob("stages/*.json"):
        for name in json.loads(record.read_text())["results"]:
            for ending in (".nc", ".nc.partial"):
                (folder / "results" / f"{name}{ending}").unlink(missing_ok=True)
        record.unlink()
    for path in [*folder.glob("results/*"), folder / "results", folder / "stages"]:
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    for name in ("report.html", SETTINGS, MANIFEST):
        (folder / name).unlink(missing_ok=True)
