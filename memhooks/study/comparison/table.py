"""The judged trials as one labelled table, every mean with its interval over paragraphs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from memhooks.measure.intervals import bootstrap_mean
from memhooks.model.labelled import Variable, labelled
from memhooks.study.comparison.trials import GOALS

Row = Mapping[str, Any]

_FORGOTTEN = {
    "exact_match": "forget: exact match, tokens, 0 = none",
    "longest_run": "forget: longest verbatim run, tokens, 0 = none",
    "nll": "forget: nats per token, 0 = certain",
    "twin_nll": "the same under the twin, nats per token",
}
_KEPT = {
    "others_lost": "tokens of exact match that other memorized paragraphs lose, 0 = none",
    "perplexity": "held-out perplexity after over before, 1 = unchanged",
    "kl": "held out: nats per token, 0 = unchanged",
    "own_em": "held out: exact match with the untouched model's own continuation, tokens",
}
_COSTS = {
    "seconds": "of one thread, for localizing and unlearning",
    "n_steps": "updates",
    "share": "share of the grid's weights that moved",
    "norm": "Euclidean length of the change",
}
_SUMMARY = {
    "perplexity": "held out: perplexity ratio",
    "kl": "held out: KL",
    "own_em": "held out: exact match of its own continuation",
}


def comparison_table(rows: Sequence[Row], *, seed: int) -> xr.Dataset:
    """One row per method and size of the forget set.

    Args:
        rows: of judged trials, one or several paragraphs each.
        seed: of the bootstrap.

    Returns:
        Dataset over `row`, labelled "method, size": means with `_low` and `_high`, 95 % intervals over the forgotten
        paragraphs (a paragraph that was drawn several times counts once), or over runs for what is kept; `method`,
        `size`, `n_runs`, `setting`, `reached` (share of runs that reached the three goals of forgetting) and `met`
        (how many of the five goals the means meet). Runs share the paragraphs that should stay, so that intervals of
        what is kept speak of other texts to forget, not of other texts to keep.
    """
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row["method"]), int(row["size"])), []).append(row)
    order = sorted(groups, key=lambda group: group[1])  # stable: methods stay in the order of their trials
    lines = [_line(groups[group], seed) for group in order]
    values = {name: np.array([line[name] for line in lines]) for name in lines[0]}
    units = _FORGOTTEN | _KEPT | _COSTS
    variables = {
        name: Variable(own, ("row",), units.get(name.removesuffix("_low").removesuffix("_high"), ""))
        for name, own in values.items()
    }
    labels = {"row": [f"{method}, {size}" for method, size in order]}
    variables["method"] = Variable(np.array([method for method, _ in order]), ("row",), "", labels)
    variables["size"] = Variable(np.array([size for _, size in order]), ("row",), "paragraphs unlearned at once")
    return labelled({"goals": GOALS}, **variables)


def _line(rows: Sequence[Row], seed: int) -> dict[str, object]:
    names = np.concatenate([np.asarray(row["ids"]) for row in rows])
    cluster = np.unique(names, return_inverse=True)[1]
    line: dict[str, object] = {"n_runs": len(rows), "setting": int(rows[0]["setting"])}
    for name in _FORGOTTEN:
        values = np.concatenate([np.asarray(row[name], float) for row in rows])
        line |= _ends(name, values, cluster, seed)
    line |= _ends("others_lost", np.array([np.mean(row["others_lost"]) for row in rows]), None, seed)
    for name, label in _SUMMARY.items():
        line |= _ends(name, np.array([row["summary"][label] for row in rows], float), None, seed)
    line |= {name: float(np.mean([float(row[name]) for row in rows])) for name in _COSTS}
    line["reached"] = float(np.mean([_forgot(row) for row in rows]))
    return line | {"met": sum(one(line) for one in _REACHED.values())}


def _forgot(row: Row) -> bool:
    """Whether a run reached all three goals of forgetting."""
    em, run, nll, twin = (float(np.mean(row[name])) for name in _FORGOTTEN)
    line = {"exact_match": em, "longest_run": run, "nll": nll, "twin_nll": twin}
    return all(_REACHED[goal](line) for goal in ("exact match", "longest run", "NLL"))


_REACHED: dict[str, Callable[[Mapping], bool]] = {
    "exact match": lambda line: line["exact_match"] <= GOALS["forget_em"],
    "longest run": lambda line: line["longest_run"] <= GOALS["longest_run"],
    "NLL": lambda line: line["nll"] >= GOALS["nll_share"] * line["twin_nll"],
    "other paragraphs": lambda line: line["others_lost"] <= GOALS["others_lost"],
    "perplexity": lambda line: line["perplexity"] <= GOALS["perplexity"],
}


def missed_goals(table: xr.Dataset, row: int) -> list[str]:
    """Names of the goals that a row's means miss."""
    line = {str(name): table[name].values[row] for name in table}
    return [name for name, reached in _REACHED.items() if not reached(line)]


def _ends(name: str, values: np.ndarray, cluster: np.ndarray | None, seed: int) -> dict[str, float]:
    mean, low, high = bootstrap_mean(values, seed=seed, clusters=cluster)
    return {name: float(mean), f"{name}_low": float(low), f"{name}_high": float(high)}
