"""A run in the middle: enough to go on after a kill as if nothing had happened."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.tensor_files import load_tensors, save_tensors

Entries = Float[Tensor, " chosen"]


class Checkpoint(NamedTuple):
    """The state before a step.

    Attributes:
        step: the step to go on with.
        least: shortfall of the best step so far.
        best_record: that step's record, as plain numbers; None without a budget, or before any.
        values: the chosen entries.
        best: those of the best step so far.
        before: those before the last update.
        state: the optimizer's tensors.
    """

    step: int
    least: float
    best_record: dict[str, float] | None
    values: Entries
    best: Entries
    before: Entries
    state: dict[str, Tensor]


def save_checkpoint(path: Path, checkpoint: Checkpoint, config: str) -> None:
    """Write it with the configuration that it belongs to, whole or not at all.

    Raises:
        InputError: the file's name does not end in .safetensors.
    """
    tensors = {"values": checkpoint.values, "best": checkpoint.best, "before": checkpoint.before}
    tensors |= {f"state.{name}": one for name, one in checkpoint.state.items()}
    about = {"step": checkpoint.step, "least": checkpoint.least.hex(), "best_record": checkpoint.best_record}
    about["config"] = json.loads(config)
    save_tensors(path, "checkpoint", about, tensors)


def load_checkpoint(path: Path, config: str) -> Checkpoint | None:
    """What was saved for this configuration; None where there is no file yet.

    Raises:
        InputError: the file is damaged, or of a run with another configuration.
    """
    if not Path(path).exists():
        return None
    about, tensors = load_tensors(path, "checkpoint")
    _check_config(path, about.get("config"), json.loads(config))
    try:
        own = [tensors.pop(name) for name in ("values", "best", "before")]
        state = {name.removeprefix("state."): one for name, one in tensors.items()}
        _check_numbers(int(about["step"]), own)
        return Checkpoint(int(about["step"]), float.fromhex(about["least"]), about["best_record"], *own, state=state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a checkpoint file, or damaged; delete it to start anew") from error


def _check_numbers(step: int, entries: list[Tensor]) -> None:
    """Refuse what no run has saved.

    Raises:
        ValueError: a step below 0, or values that are no numbers.
    """
    if step < 0 or not all(one.ndim == 1 and bool(torch.isfinite(one).all()) for one in entries):
        raise ValueError("a step below 0, or values that are no numbers")


def _check_config(path: Path, saved: object, here: dict[str, object]) -> None:
    if saved == here:
        return
    theirs = saved if isinstance(saved, dict) else {}
    differ = []
    for name, value in here.items():
        other = theirs.get(name)
        if isinstance(value, dict) and isinstance(other, dict) and name != "mask":
            keys = [key for key in value if value[key] != other.get(key)]
            differ += [f"{name}.{key} was {other.get(key)!r}, is {value[key]!r}" for key in keys]
        elif value != other:
            differ.append(name if name == "mask" else f"{name} was {other!r}, is {value!r}")
    raise InputError(
        f"{path} belongs to a run with another configuration ({'; '.join(differ)[:300]}); "
        "give the same settings, or another file to start anew"
    )
