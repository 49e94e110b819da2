"""The trials of the unlearning stage as a table."""

from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from memhooks.model.labelled import Variable, labelled


def unlearning_table(rows: list[dict[str, object]]) -> xr.Dataset:
    """The rows of the unlearning stage as one Dataset."""
    units = {
        "nll": "nats per continuation token, 0 = certain",
        "steps": "gradient steps",
        "lr": "Adam's step size",
        "reached": "whether the target surprises as it does the twin",
        "mask": "",
        "target": "",
        "set": "",
    }
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return labelled({}, **{name: Variable(own, ("row",), units.get(name, "tokens")) for name, own in columns.items()})


def trial_rows(trial: Mapping[str, object], sets: Mapping[str, Mapping[str, float]]) -> Iterator[dict[str, object]]:
    """One row per set that was measured after a trial."""
    for name, measures in sets.items():
        yield {**trial, "set": name, **measures}
