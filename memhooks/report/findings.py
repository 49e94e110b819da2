"""What a study says in numbers: each fingerprint of memorized text beside its controls, with intervals."""

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr
from scipy.stats import binomtest

from memhooks.localize.profile import centre_of_mass, layer_shares
from memhooks.measure.intervals import Interval, bootstrap_difference, bootstrap_mean
from memhooks.measure.summary import means
from memhooks.report.theme import NAMES

Results = Mapping[str, Mapping[str, xr.Dataset]]
SHORT = {"twin": "the twin", "control": "never seen", "control_own": "own continuation"}
Quantity = Callable[[xr.Dataset], np.ndarray]


def findings(results: Results, *, seed: int = 0) -> list[dict[str, str]]:
    """One row per fingerprint: mean and 95 % interval for each condition, and the paired difference to the twin.

    "A minus the twin" compares the same paragraphs under the model that read them and under the one that did
    not; but the twin's loss on them is high, as on never-seen text. The model's own continuation of C is what it
    says, as A is, at a loss in between. A fingerprint holds only where A differs from all three.
    """
    return [
        _row(name, results[stage], quantity, seed)
        for name, stage, quantity in _quantities(results)
        if "memorized" in results.get(stage, {})
    ]


def _quantities(results: Results) -> list[tuple[str, str, Quantity]]:
    # The head is chosen on one half of A and judged on the other: the most extreme of many is extreme by selection.
    chosen, judged = slice(0, None, 2), slice(1, None, 2)
    quantities: list[tuple[str, str, Quantity]] = [
        ("NLL rise per replaced prefix token, nats", "perturbation", lambda one: one["nll_rise"].values.mean((1, 2))),
        ("EM drop per replaced prefix token, tokens", "perturbation", lambda one: one["em_drop"].values.mean((1, 2))),
        ("share of the NLL rise held by the 5 worst prefix tokens", "perturbation", concentration),
        (
            "centre of mass over layers of the largest |gradient|",
            "gradients",
            lambda one: centre_of_mass(layer_shares(one)).values,
        ),
        (
            "share of paragraphs whose free continuation dies after the worst replaced token",
            "continuations",
            lambda one: one["dies"].values,
        ),
        (
            "share of paragraphs that come back to the text after the worst replaced token",
            "continuations",
            lambda one: one["resumes"].values,
        ),
        ("blocks after which the next token is decided", "lens", lambda one: one["decided"].mean("pos").values),
    ]
    if _enough(results, "ablation"):
        layer, head = costliest_head(results["ablation"]["memorized"].isel(paragraph=chosen))
        name = f"NLL rise without head L{layer}H{head}, nats (worst for A)"
        quantities.append((name, "ablation", _of_head("nll_rise", (layer, head), judged)))
    if _enough(results, "attention"):
        layer, head = most_negative_head(results["attention"]["memorized"].isel(paragraph=chosen))
        name = f"attention to rare tokens: Spearman of L{layer}H{head} (most negative for A)"
        quantities.append((name, "attention", _of_head("spearman", (layer, head), judged)))
    return quantities


def _enough(results: Results, stage: str) -> bool:
    """Whether one half of the memorized paragraphs can choose and the other judge."""
    return "memorized" in results.get(stage, {}) and results[stage]["memorized"].sizes["paragraph"] > 1


def recited_in_full(results: Mapping[str, xr.Dataset]) -> list[dict[str, str | float | int]]:
    """How many paragraphs of each set are recited in full, and the mean EM."""
    columns = ("paragraphs", "recited in full", "EM", "EM <= 10", "longest run", "NLL")
    rows = {name: means(one) for name, one in results.items()}
    names = NAMES | {"memorized": "set A, all planted", "twin": "set A under the twin"}
    return [
        {"set": names.get(name, name)} | {column: row[column] for column in columns if column in row}
        for name, row in rows.items()
    ]


def unlearning_rows(table: xr.Dataset) -> list[dict[str, object]]:
    """The unlearning stage's table as a list of rows."""
    columns = {str(name): table[name].values.tolist() for name in table.data_vars}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def unlearning_summary(rows: list[dict[str, object]]) -> list[dict[str, str]]:
    """Mean EM and NLL after unlearning, for each mask and paragraph set, and how many trials reached their goal."""
    masks = list(dict.fromkeys(str(row["mask"]) for row in rows))
    sets = list(dict.fromkeys(str(row["set"]) for row in rows))
    table = []
    for mask in masks:
        trials = [row for row in rows if row["mask"] == mask and row["set"] == "target"]
        reached = sum(bool(row["reached"]) for row in trials)
        line = {
            "weights that may move": mask,
            "lr": f"{float(str(trials[0]['lr'])):g}",
            "steps": _mean(trials, "steps", 1),
            "reached": f"{reached} of {len(trials)}",
        }
        for name in sets:
            own = [row for row in rows if row["mask"] == mask and row["set"] == name]
            line[f"{name}: EM"] = _mean(own, "exact_match", 1)
            line[f"{name}: NLL"] = _mean(own, "nll", 2)
        table.append(line)
    return table


def _mean(rows: list[dict[str, object]], column: str, digits: int) -> str:
    return f"{np.mean([float(str(row[column])) for row in rows]):.{digits}f}"


def most_negative_head(result: xr.Dataset) -> tuple[int, int]:
    """The (layer, head) whose attention correlates most negatively with token counts."""
    mean = result["spearman"].isel(query=0).mean("paragraph").transpose("layer", "head").values
    layer, head = np.unravel_index(int(mean.argmin()), mean.shape)
    return int(layer), int(head)


def costliest_head(result: xr.Dataset) -> tuple[int, int]:
    """The (layer, head) without which the continuation is least likely."""
    mean = result["nll_rise"].mean("paragraph").transpose("layer", "head").values
    layer, head = np.unravel_index(int(mean.argmax()), mean.shape)
    return int(layer), int(head)


def concentration(result: xr.Dataset, *, n_worst: int = 5) -> np.ndarray:
    """Share of a paragraph's NLL rise held by its worst prefix tokens; `n_worst / n_prefix` if evenly spread."""
    rise = np.clip(result["nll_rise"].mean("draw").values, 0, None)
    return np.sort(rise, axis=1)[:, -n_worst:].sum(1) / np.maximum(rise.sum(1), 1e-12)


def _of_head(variable: str, place: tuple[int, int], judged: slice) -> Quantity:
    def of(one: xr.Dataset) -> np.ndarray:
        values = one[variable].isel(query=0) if "query" in one[variable].dims else one[variable]
        return values.sel(layer=place[0], head=place[1]).values[judged if len(values) > 1 else slice(None)]

    return of


def _row(name: str, results: Mapping[str, xr.Dataset], quantity: Quantity, seed: int) -> dict[str, str]:
    values = {condition: quantity(one) for condition, one in results.items()}
    own, numbers = values["memorized"], {condition: one.astype(float) for condition, one in values.items()}
    mine = numbers["memorized"]
    differences = {
        "twin": bootstrap_mean(mine - numbers["twin"], seed=seed) if "twin" in numbers else None,
        **{
            other: bootstrap_difference(mine, numbers[other], seed=seed) if other in numbers else None
            for other in ("control", "control_own")
        },
    }
    found = {"fingerprint": f"{name} (n = {len(own)})", NAMES["memorized"]: _interval(own, seed)}
    for condition in differences:
        found[NAMES[condition]] = _interval(values[condition], seed) if condition in values else "-"
    for condition, interval in differences.items():
        found[f"A minus {SHORT[condition]}"] = "-" if interval is None else _format(*interval)
        found[f"differs from {SHORT[condition]}"] = "-" if interval is None else _excludes_zero(interval)
    return found | {"A differs from": _all(found)}


def _all(row: Mapping[str, str]) -> str:
    """The controls that A differs from, in few words."""
    return ", ".join(one for one in SHORT.values() if row[f"differs from {one}"] == "yes") or "none"


def _excludes_zero(interval: Interval) -> str:
    _, low, high = interval
    return "yes" if low * high > 0 else "no"


def _interval(values: np.ndarray, seed: int) -> str:
    if values.dtype == bool:  # resampling equal answers would give certainty
        share = binomtest(int(values.sum()), len(values)).proportion_ci(method="wilson")
        return _format(np.asarray(values.mean()), np.asarray(share.low), np.asarray(share.high))
    return _format(*bootstrap_mean(values, seed=seed))


def _format(mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"
