"""The trials' rows as two labelled tables: what was found (INJ), what was lost (DEL)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.membership import membership_p
from memhooks.model.labelled import Variable, labelled
from memhooks.truth.injection.bench import NATURAL
from memhooks.truth.injection.regions import REGIONS
from memhooks.truth.injection.trial import INJECTION, REFERENCE

Row = Mapping[str, Any]
Line = dict[str, float]

_RECALL = {
    "recall": "share of the written weights that are named, 0 = none",
    "random_recall": "the same of a matched random mask, 0 = none",
    "difference": "recall minus that of the matched random mask, 0 = no better",
    "chance": "share of all weights that were written",
    "decoy_recall": "weights named that hold the decoy, over those written with it; 0 = none, NaN = there is no decoy",
    "p": "two-sided sign-flip p of the difference in standard errors, against the largest of all asked alike",
    "n": "injections",
    "k": "weights written, mean",
    "seconds": "of one thread, mean",
}
_DELETION = {
    "selectivity": "NLL rise of the target minus that of other recited text, nats per token, 0 = none",
    "random_selectivity": "the same of a matched random mask",
    "difference": "selectivity minus that of the matched random mask, nats per token, 0 = none",
    "p": "two-sided sign-flip p of the difference in standard errors, against the largest of all asked alike",
    "n": "paragraphs",
}
_SETS = {"target": "the target", "others": "other recited text", "language": "never-read text"}
_SETS_UNITS = {f"{name}_nll_rise": f"{about}: NLL rise, nats per token, 0 = none" for name, about in _SETS.items()} | {
    f"{name}_em_drop": f"{about}: exact match lost, tokens, 0 = none" for name, about in _SETS.items()
}


def recall_table(rows: Sequence[Row], *, seed: int) -> xr.Dataset:
    """Recall of every localizer by region and moment; failed injections are left out.

    Args:
        rows: of `Scoring.run`.
        seed: of bootstrap and sign flips.

    Returns:
        Dataset over `row`, labelled "region, moment, localizer": `recall` (NaN = not applicable: none of the written
        weights is ranked by the localizer), `random_recall`, `difference`, each with `_low` and `_high`, 95 %
        intervals over injections; `decoy_recall`, `chance`, `p`, `n`, `k`, `seconds`; `region`, `moment`, `localizer`.
        The attribute `failed` counts injections that did not succeed, by region.

    Raises:
        InputError: no injection succeeded.
    """
    groups = _grouped(rows, lambda line: "recall" in line)
    if not groups:
        raise InputError("no injection succeeded, so there is nothing to score; allow more steps")
    lines: dict[tuple[str, str, str], Line] = {}
    for key, found in groups.items():
        recalls = _column(found, "recall")
        blind = _column(found, "random_recall")
        applies = any(line["applies"] for _, line in found)
        line: Line = {}
        for name, values in (("recall", recalls), ("random_recall", blind), ("difference", recalls - blind)):
            line |= _ends(name, values if applies else np.full(len(values), np.nan), seed)
        decoy = [line["decoy_recall"] for _, line in found if line["decoy_recall"] is not None]
        line["decoy_recall"] = float(np.mean(decoy)) if decoy else np.nan
        line |= {"n": float(len(found)), "seconds": float(_column(found, "seconds").mean()), "p": np.nan}
        line |= {name: float(np.mean([row[name] for row, _ in found])) for name in ("chance", "k")}
        lines[key] = line
    _add_p(lines, groups, lambda line: float(line["recall"]), lambda line: float(line["random_recall"]), seed)
    failed = {str(name): sum(row["failed"] for row in rows if row["region"] == name) for name in _regions(rows)}
    return _table(lines, _RECALL, {"failed": failed})


def deletion_table(rows: Sequence[Row], *, seed: int) -> xr.Dataset:
    """What target, other recited text and language lose without what each localizer names, at the solved moment.

    Args:
        rows: of `Scoring.run`.
        seed: of bootstrap and sign flips.

    Returns:
        Dataset over `row`, labelled "region, moment, localizer": `target_nll_rise`, `target_em_drop`, and the same of
        `others` and `language`; `selectivity`, `random_selectivity` and `difference`; each with `_low` and
        `_high`; `p`, `n`, `region`, `moment`, `localizer`. Rises are against the model just before deletion. Three
        rows of each region are no localizers: the written weights to zero, the same put back to what they
        were, and the injection itself with nothing deleted. These and `random_selectivity` of them have no control.

    Raises:
        InputError: no row holds a deletion.
    """
    groups = _grouped(rows, lambda line: "lost" in line)
    if not groups:
        raise InputError("no trial succeeded, so nothing was deleted; allow more steps")
    lines: dict[tuple[str, str, str], Line] = {}
    for key, found in groups.items():
        own, blind = (np.array([_selectivity(line[name]) for _, line in found]) for name in ("lost", "random_lost"))
        line = _losses([line["lost"] for _, line in found], seed)
        line |= _ends("random_selectivity", blind, seed) | _ends("difference", own - blind, seed)
        lines[key] = line | {"n": float(len(found)), "p": np.nan}
    _add_p(lines, groups, lambda line: _selectivity(line["lost"]), lambda line: _selectivity(line["random_lost"]), seed)
    for region in _regions(rows):
        golds = [row["gold"] for row in rows if row["region"] == region and row["gold"]]
        for name in golds[0] if golds else ():
            line = _losses([gold[name] for gold in golds], seed)
            nothing = np.full(len(golds), np.nan)
            line |= _ends("random_selectivity", nothing, seed) | _ends("difference", nothing, seed)
            lines[region, "solved", name] = line | {"n": float(len(golds)), "p": np.nan}
    return _table(lines, _DELETION | _SETS_UNITS, {"not localizers": [INJECTION, REFERENCE]})


def _grouped(
    rows: Sequence[Row], wanted: Callable[[Mapping[str, Any]], bool]
) -> dict[tuple[str, str, str], list[tuple[Row, Mapping[str, Any]]]]:
    """The lines of successful trials by region, moment and localizer, in the order of their first appearance."""
    groups: dict[tuple[str, str, str], list[tuple[Row, Mapping[str, Any]]]] = {}
    for row in rows:
        for line in row["lines"]:
            if wanted(line):
                key = (str(row["region"]), str(line["moment"]), str(line["localizer"]))
                groups.setdefault(key, []).append((row, line))
    regions = _regions(rows)
    return dict(sorted(groups.items(), key=lambda one: (regions.index(one[0][0]), one[0][1])))


def _add_p(
    lines: dict[tuple[str, str, str], Line],
    groups: Mapping[tuple[str, str, str], list[tuple[Row, Mapping[str, Any]]]],
    own: Callable[[Mapping[str, Any]], float],
    blind: Callable[[Mapping[str, Any]], float],
    seed: int,
) -> None:
    """Put in the p of every localizer against the best of those that were asked on the same injections."""
    families: dict[tuple[str, str, tuple[int, ...]], list[tuple[str, str, str]]] = {}
    for key, found in groups.items():
        if key[2] != REFERENCE and all(line["applies"] or "recall" not in line for _, line in found):
            numbers = tuple(int(row["number"]) for row, _ in found)
            families.setdefault((key[0], key[1], numbers), []).append(key)
    for family, keys in families.items():
        one, other = (np.array([[of(line) for _, line in groups[key]] for key in keys]).T for of in (own, blind))
        places = np.arange(len(family[2]))
        found_p = membership_p(one, other, clusters=(places, places), seed=seed, paired=True)
        for key, p in zip(keys, found_p, strict=True):
            lines[key]["p"] = float(p)


def _losses(found: Sequence[Mapping[str, Sequence[float]]], seed: int) -> Line:
    line: Line = {}
    for name in _SETS:
        for place, kind in enumerate(("nll_rise", "em_drop")):
            line |= _ends(f"{name}_{kind}", np.array([one[name][place] for one in found], float), seed)
    return line | _ends("selectivity", np.array([_selectivity(one) for one in found]), seed)


def _selectivity(one: Mapping[str, Sequence[float]]) -> float:
    return float(one["target"][0] - one["others"][0])


def _column(found: Sequence[tuple[Row, Mapping[str, Any]]], name: str) -> Float[np.ndarray, " injection"]:
    return np.array([line[name] for _, line in found], dtype=float)


def _regions(rows: Sequence[Row]) -> list[str]:
    there = {str(row["region"]) for row in rows}
    return [name for name in (*REGIONS, NATURAL) if name in there]


def _ends(name: str, values: Float[np.ndarray, " injection"], seed: int) -> Line:
    mean, low, high = bootstrap_mean(values, seed=seed)
    return {name: float(mean), f"{name}_low": float(low), f"{name}_high": float(high)}


def _table(lines: Mapping[tuple[str, str, str], Line], units: Mapping[str, str], about: dict) -> xr.Dataset:
    first = next(iter(lines.values()))
    variables = {}
    for name in first:
        unit = units[name.removesuffix("_low").removesuffix("_high")]
        variables[name] = Variable(np.array([line[name] for line in lines.values()]), ("row",), unit)
    for place, name in enumerate(("region", "moment", "localizer")):
        labels = {"row": [", ".join(key) for key in lines]}
        variables[name] = Variable(np.array([key[place] for key in lines]), ("row",), "", labels)
    return labelled(about, **variables)
