"""What `memhooks unlearn` found, as plain values and as a labelled result."""

# Heavy imports stay inside the functions, as in the other commands.
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.tables import Row, rows_of
from memhooks.cli.unlearn_run import Run

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.localize.masks.weight_mask import WeightMask


def step_table(run: Run) -> "xr.Dataset":
    """The records over `step`."""
    import numpy as np

    from memhooks.model.labelled import Variable, labelled

    units = {
        "loss": "what is minimised",
        "forget_nll": "nats per token, 0 = certain",
        "forget_em": "tokens, 0 = none",
        "longest_run": "tokens, 0 = none",
        "retain_kl": "nats per token, 0 = unchanged; of this step's retained paragraphs",
        "best": "whether it was the best step so far",
    }
    labels = {"step": [record.step for record in run.records]}
    columns = {
        name: Variable(np.array([getattr(record, name) for record in run.records]), ("step",), unit, labels)
        for name, unit in units.items()
    }
    return labelled({"model_hash_before": run.change.before, **run.change.about}, **columns)


def to_json(run: Run, saved: Path | None) -> dict[str, Any]:
    """Everything that is printed, as plain values."""
    return {
        "model": run.wanted.model,
        "twin": run.wanted.twin,
        "forget": list(run.sets.forget.ids),
        "paragraphs": {name: len(rows) for name, rows in run.sets._asdict().items()},
        "mask": {"localizer": run.wanted.localizer, **whereabouts(run.mask)},
        "steps": [{name: _number(value) for name, value in asdict(record).items()} for record in run.records],
        "kept_step": run.kept["step"],
        "summary": rows_of(run.tree["summary"].to_dataset(), name="measure"),
        "goals": goals(run),
        "frozen_outside": True,  # `unlearn` raises otherwise
        "delta": {
            "before": run.change.before,
            "after": run.change.after,
            "moved": run.change.moved,
            "norm": run.change.norm,
            "file": None if saved is None else str(saved),
        },
    }


def goals(run: Run) -> list[Row]:
    """Each goal: its name, what was reached, the limit, and whether it is met."""
    after = run.tree["summary"].to_dataset()["after"]
    n = run.sets.forget.n_continuation
    limits = {
        "exact match": ("forget EM", run.budget.forget_em),
        "longest run": ("longest run", run.budget.longest_run),
    }
    found = []
    for measure, (name, limit) in limits.items():
        value = float(after.sel(row=f"forget: {measure}"))
        unit = f"of {n} tokens"
        found.append(Row(goal=name, value=value, unit=unit, at_most=limit, met=value <= limit))
    if (least := run.budget.forget_nll) is not None:
        value = float(after.sel(row="forget: NLL"))
        unit = "nats per token"
        found.append(Row(goal="forget NLL", value=value, unit=unit, at_least=least, why=run.whence, met=value >= least))
    return found


def whereabouts(mask: "WeightMask") -> dict[str, Any]:
    """How many weights, which share, and the shares of the layers and matrices in it, the largest first."""
    layers, matrices = Counter[str](), Counter[str]()
    for name, own in mask.indices.items():
        _, layer, _, matrix = name.split(".")
        layers[f"L{layer}"] += len(own)
        matrices[matrix] += len(own)
    shares = [{name: count / len(mask) for name, count in one.most_common() if count} for one in (layers, matrices)]
    return {"weights": len(mask), "share": mask.fraction, "layers": shares[0], "matrices": shares[1]}


def _number(value: object) -> object:
    """None for NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
