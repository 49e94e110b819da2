"""The table of all attacks: each row's numbers under every model, with intervals over clusters of near-duplicates."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from memhooks.measure.intervals import bootstrap_mean
from memhooks.model.labelled import Variable, labelled
from memhooks.unlearn.attacks.measured import UNITS
from memhooks.unlearn.attacks.speed import relearn_ratio, relearning_speed, tested_part
from memhooks.unlearn.rows import Ends, drawn_weights, interval

MODELS = ("untouched", "unlearned", "twin")
"""Models that are attacked."""

Cells = dict[str, object]
_NOTHING: Ends = (np.nan, np.nan, np.nan)
_ENDS = ("", "_low", "_high")
_COLUMNS = {
    "recovered": "share of the exact match lost by unlearning that the attack brings back, 0 = none, 1 = all",
    "steps_unlearned": "updates to half of the old exact match, 0 = it was there at once, inf = not within the steps",
    "steps_twin": "updates to half of the old exact match, 0 = it was there at once, inf = not within the steps",
    "ratio": "steps of the unlearned model over the twin's, 1 = as if never seen, 0 = it was there at once",
    "area_unlearned": "mean exact match over the steps, tokens, 0 = nothing came back",
    "area_twin": "mean exact match over the steps, tokens, 0 = nothing was learned",
}
_PLAIN = {
    "attack": "kind of attack",
    "tested": "which text is tested: what was trained on, the rest, or all where no continuation was trained on",
    "came_back": "whether the exact match of the unlearned model is at least half of the untouched model's",
    "ratio_is": "exact, or a bound as a model did not come back within the steps",
    "surviving": "share of the moved weights that rounding leaves moved, 0 = none; NaN = no rounding",
}


def static_row(
    label: str,
    kind: str,
    found: Mapping[str, Mapping[str, np.ndarray]],
    calm: Mapping[str, Mapping[str, np.ndarray]],
    *,
    cluster: Int[np.ndarray, " paragraph"],
    seed: int,
) -> Cells:
    """The row of an attack without training.

    Args:
        label: of the row.
        kind: of the attack.
        found: measures of each paragraph under the attack, by model.
        calm: the same without an attack.
        cluster: of near-duplicates.
        seed: of the intervals.
    """
    old, unlearned = (calm[name]["exact_match"] for name in ("untouched", "unlearned"))
    attacked = found["unlearned"]["exact_match"]
    return {
        "row": label,
        "attack": kind,
        "tested": "all",
        **_means(found, cluster, seed),
        "recovered": _NOTHING if kind == "none" else _recovered(attacked, unlearned, old, cluster=cluster, seed=seed),
        "came_back": bool(attacked.mean() >= old.mean() / 2),
        "ratio_is": "",
    }


def trained_rows(on: str, found: Mapping[str, xr.Dataset], *, seed: int) -> list[Cells]:
    """The rows of a relearning attack: one for each tested set.

    Args:
        on: what the attacker trained on.
        found: results of `relearn`, by model.
        seed: of the intervals.
    """
    rows = []
    for tested in dict.fromkeys(found["unlearned"]["tested"].values.tolist()):
        parts = {name: tested_part(result, tested) for name, result in found.items()}
        cluster = parts["unlearned"]["cluster"].values
        last = {name: {key: one[key].isel(step=-1).values for key in UNITS} for name, one in parts.items()}
        em = {name: one["exact_match"].transpose("paragraph", "step").values for name, one in parts.items()}
        speeds = {name: relearning_speed(found[name], tested, seed=seed) for name in found if name != "untouched"}
        row: Cells = {
            "row": f"relearning on {on}" if tested == "all" else f"relearning on {on}: {tested}",
            "attack": "relearning",
            "tested": tested,
            **_means(last, cluster, seed),
            "recovered": _recovered(
                em["unlearned"][:, -1], em["unlearned"][:, 0], em["untouched"][:, 0], cluster=cluster, seed=seed
            ),
            "came_back": bool(np.isfinite(speeds["unlearned"].steps[0])),
            "ratio_is": "",
        }
        for name, speed in speeds.items():
            row |= {f"steps_{name}": speed.steps, f"area_{name}": speed.area}
        if "twin" in found:
            ratio = relearn_ratio(found["unlearned"], found["twin"], tested, seed=seed)
            row |= {"ratio": ratio.ends, "ratio_is": ratio.bound}
        rows.append(row)
    return rows


def summary_table(rows: Sequence[Cells], about: Mapping[str, object]) -> xr.Dataset:
    """Dataset over `row` of all rows' cells, as `attack` says."""
    columns = {f"{measure}_{name}": unit for measure, unit in UNITS.items() for name in MODELS} | _COLUMNS
    ends = (", mean", ", lower end of the 95 % interval", ", upper end of the 95 % interval")
    variables = {
        column + _ENDS[i]: Variable(_column(rows, column)[:, i], ("row",), unit + ends[i])
        for column, unit in columns.items()
        for i in range(3)
    }
    for column, unit in _PLAIN.items():
        variables[column] = Variable(np.array([row.get(column, np.nan) for row in rows]), ("row",), unit)
    variables["attack"] = Variable(
        variables["attack"].values, ("row",), _PLAIN["attack"], {"row": [row["row"] for row in rows]}
    )
    return labelled(about, **variables)


def curves(learned: Mapping[str, Mapping[str, xr.Dataset]], about: Mapping[str, object], *, seed: int) -> xr.Dataset:
    """Dataset over `row` (attack and tested set) and `step`: each measure's mean and interval, by model."""
    names, columns, halves = [], {}, []
    for on, found in learned.items():
        for tested in dict.fromkeys(found["unlearned"]["tested"].values.tolist()):
            names.append(on if tested == "all" else f"{on}: {tested}")
            parts = {name: tested_part(result, tested) for name, result in found.items()}
            halves.append(float(parts["unlearned"]["half"].values[0]))
            for name, one in parts.items():
                for measure in UNITS:
                    values = one[measure].transpose("paragraph", "step").values
                    each = bootstrap_mean(values, seed=seed, clusters=one["cluster"].values)
                    for end, mean in zip(_ENDS, each, strict=True):
                        columns.setdefault(f"{measure}_{name}{end}", (measure, []))[1].append(mean)
    steps = next(iter(next(iter(learned.values())).values()))["step"].values.tolist()
    labels = {"row": names, "step": steps}
    made = {
        name: Variable(np.stack(rows), ("row", "step"), UNITS[measure], labels)
        for name, (measure, rows) in columns.items()
    }
    return labelled(about, **made, half=Variable(np.array(halves), ("row",), "half of the old exact match, tokens"))


def _column(rows: Sequence[Cells], column: str) -> Float[np.ndarray, "row 3"]:
    return np.array([row.get(column, _NOTHING) for row in rows], dtype=float)


def _means(found: Mapping[str, Mapping[str, np.ndarray]], cluster: np.ndarray, seed: int) -> Cells:
    cells: Cells = {}
    for name, measures in found.items():
        each = bootstrap_mean(np.stack([measures[key] for key in UNITS], -1), seed=seed, clusters=cluster)
        cells |= {f"{key}_{name}": tuple(float(end[i]) for end in each) for i, key in enumerate(UNITS)}
    return cells


def _recovered(attacked: np.ndarray, unlearned: np.ndarray, old: np.ndarray, *, cluster: np.ndarray, seed: int) -> Ends:
    """(attacked - unlearned) / (old - unlearned), of means; NaN where unlearning took nothing."""
    weights = drawn_weights(cluster, seed=seed).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (weights @ (attacked - unlearned)) / (weights @ (old - unlearned))
    if not np.isfinite(drawn[0]):
        return _NOTHING
    # A draw of paragraphs from which nothing was taken has no share; it counts as the whole set's.
    return interval(np.where(np.isfinite(drawn), drawn, drawn[0]), cluster)
