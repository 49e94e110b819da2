"""A fine-tuning run in the middle: weights, optimizer and what was measured so far, so that a killed run goes on."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from memhooks.errors import InputError
from memhooks.tensor_files import load_tensors, save_tensors

_KIND = "leak checkpoint"


def save_state(
    path: Path, step: int, config: Mapping[str, object], state: Mapping[str, Tensor], measured: Mapping[str, Tensor]
) -> None:
    """Write the state before a step with the configuration that it belongs to, whole or not at all."""
    tensors = {f"state.{name}": one for name, one in state.items()}
    tensors |= {f"measured.{name}": one for name, one in measured.items()}
    save_tensors(path, _KIND, {"step": step, "config": dict(config)}, tensors)


def load_state(path: Path, config: Mapping[str, object]) -> tuple[int, dict[str, Tensor], dict[str, Tensor]] | None:
    """The step to go on with, the state, and what was measured so far; None where there is no file yet.

    Raises:
        InputError: the file is damaged, or of a run with another configuration.
    """
    if not Path(path).exists():
        return None
    about, tensors = load_tensors(path, _KIND)
    here = json.loads(json.dumps(dict(config)))
    saved = about.get("config")
    if saved != here:
        theirs = saved if isinstance(saved, dict) else {}
        differ = [
            f"{name} was {theirs.get(name)!r}, is {here[name]!r}" for name in here if here[name] != theirs.get(name)
        ]
        raise InputError(
            f"{path} belongs to a run with another configuration ({'; '.join(differ)[:300]}); "
            "give the same settings, or another file to start anew"
        )
    parts = {
        kind: {name.removeprefix(kind): one for name, one in tensors.items() if name.startswith(kind)}
        for kind in ("state.", "measured.")
    }
    if not isinstance(about.get("step"), int) or not parts["state."]:
        raise InputError(f"{path}: not a checkpoint file, or damaged; delete it to start anew")
    return about["step"], parts["state."], parts["measured."]


def check_checkpoint(path: Path | None) -> None:
    """Refuse a file name that no checkpoint has, before any work.

    Raises:
        InputError: it does not end in .safetensors.
    """
    if path is not None and Path(path).suffix != ".safetensors":
        raise InputError(f"a checkpoint is saved as .safetensors, got {Path(path).name}")
