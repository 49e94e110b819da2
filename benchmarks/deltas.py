"""What it takes to have a model unlearned and whole again: a delta, or loading it anew."""

from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.edited import LR, editing, megabytes, timed, top_mask
from benchmarks.floor import Cost, measured
from benchmarks.outcome import Outcome, Peer
from benchmarks.setting import Setting
from memhooks.model.export import export_model
from memhooks.model.loading import load_model
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.unlearn.delta import Delta, delta_of, save_delta
from memhooks.unlearn.optimizer import MaskedOptimizer
from memhooks.unlearn.recipe import Recipe


def delta(at: Setting) -> Outcome:
    """A delta applied and reverted in turns, against two ways to load the model."""
    times, untouched = 3 if at.quick else 10, _hashes(at)
    change = _one_step_away(at)
    in_turns = (change.revert_, change.apply_) * times
    found, ours = measured(lambda: [timed(one, at.model) for one in in_turns], at.device)
    change.revert_(at.model)
    exact = "bit-exact" if _hashes(at) == untouched else "NOT EXACT"
    with TemporaryDirectory() as folder:
        file, state, whole = (Path(folder) / name for name in ("delta.safetensors", "state.pt", "model"))
        save_delta(change, file)
        torch.save(at.model.state_dict(), state)
        export_model(at.model, whole)
        ways = {
            "torch.load and load_state_dict": lambda: at.model.load_state_dict(torch.load(state)),
            "load_model of a folder": lambda: load_model(whole, tokenizer=None, device=at.device),
        }
        peers = [Peer(name, measured(way, at.device)[1], "1 time", None) for name, way in ways.items()]
        size = megabytes(file.stat().st_size)
    return Outcome(
        f"apply or revert a delta of {len(change):,} weights, hash known",
        at.name,
        Cost(median(found), ours.peak),
        f"{times} times each",
        at.rate(),
        None,
        peers,
        f"{exact}; file of {size}{'; aims 0.05 s and 1.25 MB' if at.shape == '125M' else ''}",
    )


def _one_step_away(at: Setting) -> Delta:
    before, mask = model_hash(at.model), top_mask(at)
    with editing(at) as parameters:
        old = {name: weight.detach().clone() for name, weight in parameters.items()}
        entries = MaskedOptimizer(parameters, mask, Recipe(lr=LR))
        entries.step_(torch.ones_like(entries.values))
        return delta_of(at.model, mask, old, before=before)


def _hashes(at: Setting) -> dict[str, str]:
    return {name: tensor_hash(weight) for name, weight in at.model.named_parameters()}
