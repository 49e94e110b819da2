"""What `memhooks unlearn` refuses at once, before torch is loaded."""

import math
from collections.abc import Mapping
from pathlib import Path

from memhooks.cli.options import check_ending
from memhooks.cli.sets import check_set, twin_name
from memhooks.cli.tables import check_outputs
from memhooks.errors import InputError


def check_numbers(
    fraction: float, lr: float, least: Mapping[str, float | None], *, ids: list[str] | None, n: int | None
) -> None:
    """Refuse numbers out of range before torch is loaded.

    Raises:
        InputError: one is.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"--fraction must lie in (0, 1], got {fraction}")
    if not 0 < lr < math.inf:
        raise InputError(f"--lr must be positive, got {lr}")
    for name, value in least.items():
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"{name} must be at least 0, got {value}")
    if ids and n is not None:
        raise InputError(f"give --ids to choose the paragraphs or --n to draw them, not both (--ids {ids[0]}, --n {n})")


def check_texts(model: str, paragraphs: str, control: str, twin: str | None) -> str | None:
    """Which model is the twin; refuses sets and twins that cannot be, before torch is loaded.

    Raises:
        InputError: no such set or file, another model's, no control, or a model that is its own twin.
    """
    if "none" in (paragraphs, control):
        option = "--paragraphs" if paragraphs == "none" else "--control"
        raise InputError(
            f"{option} cannot be none: unlearning needs text to forget and never-seen text to be judged on"
        )
    if paragraphs == control:
        raise InputError(f"--paragraphs and --control must be different texts, got {control} for both")
    for name in (paragraphs, control):
        check_set(name, model)
    return twin_name(twin, model, paragraphs)


def check_files(files: Mapping[str | tuple[str, ...], list[Path | None]]) -> None:
    """Refuse files that cannot be written; by their names alone, before torch is loaded.

    Raises:
        InputError: another ending, one name for two files, or a place that cannot be written to.
    """
    for ending, paths in files.items():
        for path in paths:
            check_ending(path, ending)
    named = [path for paths in files.values() for path in paths if path is not None]
    if len(set(named)) < len(named):
        raise InputError(f"--delta and --checkpoint must be different files, got {named[0]} for both")
    check_outputs(files)
