"""The trials' rows as two labelled tables: what was found (INJ), what was lost (DEL).

Nothing holds the model while a paragraph is written, so writing itself costs other recited text. Deleting what was
written gives that back, which is no selectivity: others count as harmed from where they were before the writing on,
and as unharmed where they are better than then.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from memhooks.errors import InputError
from memhooks.truth.injection.lines import (
    REFERENCES,
    Key,
    Line,
    Row,
    add_p,
    as_table,
    column,
    ends,
    grouped,
    pair_of,
    regions_of,
)
from memhooks.truth.injection.trial import INJECTION

_P = "two-sided sign-flip p of {} in standard errors, against the largest of all localizers asked alike"

_RECALL = {
    "recall": "share of the written weights that are named, 0 = none",
    "random_recall": "the same of a matched random mask, 0 = none",
    "difference": "recall minus that of the matched random mask, 0 = no better",
    "chance": "share of all weights that were written",
    "decoy_recall": "weights named that hold the decoy, over those written with it; 0 = none, NaN = there is no decoy",
    "p": _P.format("the difference"),
    "over_decoy": "recall minus decoy_recall, 0 = the decoy is found as well, NaN = there is no decoy",
    "over_decoy_p": _P.format("over_decoy"),
    "n": "injections",
    "k": "weights written, mean",
    "seconds": "of one thread, mean",
}
_DELETION = {
    "selectivity": "NLL rise of the target minus others_net_nll_rise where that is positive, nats per token, 0 = none",
    "random_selectivity": "the same of a matched random mask",
    "difference": "selectivity minus that of the matched random mask, nats per token, 0 = none",
    "p": _P.format("the difference"),
    "n": "paragraphs",
    "others_net_nll_rise": "other recited text: NLL rise against before the writing, nats per token, 0 = none",
    "others_before_nll_rise": "other recited text: NLL rise by the writing, nothing deleted, nats per token, 0 = none",
    "others_before_em_drop": "other recited text: exact match lost by the writing, nothing deleted, tokens, 0 = none",
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
        intervals over injections; the same of `over_decoy`; `p`, `over_decoy_p`: NaN for references and for fewer
        pairs than `FEWEST`; `decoy_recall`, `chance`, `n`, `k`, `seconds`; `region`, `moment`, `localizer`.
        The attribute `failed` counts injections that did not succeed, by region; `not localizers` names references.

    Raises:
        InputError: no injection succeeded.
    """
    groups = grouped(rows, lambda line: "recall" in line)
    if not groups:
        raise InputError("no injection succeeded, so there is nothing to score; allow more steps")
    lines: dict[Key, Line] = {}
    for key, found in groups.items():
        recalls = column(found, "recall")
        blind = column(found, "random_recall")
        applies = any(line["applies"] for _, line in found)
        line: Line = {}
        for name, values in (("recall", recalls), ("random_recall", blind), ("difference", recalls - blind)):
            line |= ends(name, values if applies else np.full(len(values), np.nan), seed)
        decoy = column(found, "decoy_recall")  # NaN where there is none
        line |= {"decoy_recall": float(decoy.mean())} | ends("over_decoy", recalls - decoy, seed)
        line |= {"n": float(len(found)), "seconds": float(column(found, "seconds").mean())}
        line |= {name: float(np.mean([row[name] for row, _ in found])) for name in ("chance", "k")}
        lines[key] = line
    add_p(lines, groups, ("difference", "p"), seed, pair_of("recall", "random_recall"))
    add_p(lines, groups, ("over_decoy", "over_decoy_p"), seed, pair_of("recall", "decoy_recall"))
    failed = {str(name): sum(row["failed"] for row in rows if row["region"] == name) for name in regions_of(rows)}
    return as_table(lines, _RECALL, {"failed": failed, "not localizers": [*REFERENCES]})


def deletion_table(rows: Sequence[Row], *, seed: int) -> xr.Dataset:
    """What target, other recited text and language lose without what each localizer names, at the solved moment.

    Args:
        rows: of `Scoring.run`.
        seed: of bootstrap and sign flips.

    Returns:
        Dataset over `row`, labelled "region, moment, localizer": `target_nll_rise`, `target_em_drop`, and the same of
        `others` and `language`, against the model just before deletion; `others_before_nll_rise` and
        `others_before_em_drop`: what writing had cost by then (0 for natural paragraphs), and `others_net_nll_rise`,
        both together; `selectivity`, `random_selectivity` and `difference`; each with `_low` and `_high`; `p` (NaN for
        references and for fewer pairs than `FEWEST`), `n`, `region`, `moment`, `localizer`. Three rows of each region
        are no localizers and have no control: the written weights to zero, the same put back to what they were, and
        the injection itself, without a selectivity, as nothing is deleted.

    Raises:
        InputError: no row holds a deletion.
    """
    groups = grouped(rows, lambda line: "lost" in line)
    if not groups:
        raise InputError("no trial succeeded, so nothing was deleted; allow more steps")
    lines: dict[Key, Line] = {}
    for key, found in groups.items():
        own, blind = (
            np.array([selectivity(row, line[name]) for row, line in found]) for name in ("lost", "random_lost")
        )
        line = _losses([(row, line["lost"]) for row, line in found], seed) | ends("selectivity", own, seed)
        line |= ends("random_selectivity", blind, seed) | ends("difference", own - blind, seed)
        lines[key] = line | {"n": float(len(found))}
    add_p(
        lines,
        groups,
        ("difference", "p"),
        seed,
        lambda row, line: (selectivity(row, line["lost"]), selectivity(row, line["random_lost"])),
    )
    for region in regions_of(rows):
        some = [row for row in rows if row["region"] == region and row["gold"]]
        for name in some[0]["gold"] if some else ():
            lines[region, "solved", name] = _gold(name, some, seed)
    return as_table(lines, _DELETION | _SETS_UNITS, {"not localizers": [INJECTION, *REFERENCES]})


def selectivity(row: Row, lost: Mapping[str, Sequence[float]]) -> float:
    """NLL rise of the target minus that of others since before the writing, if they are worse off; nats per token.

    Args:
        row: of a trial, for what writing had cost others already.
        lost: what its deletion cost, against the model just before.
    """
    return lost["target"][0] - max(0.0, lost["others"][0] + _paid(row)[0])


def _paid(row: Row) -> Sequence[float]:
    """What others had lost before anything was deleted: NLL rise and EM drop; nothing where nothing was written."""
    return row["gold"].get(INJECTION, {"others": (0.0, 0.0)})["others"]


def _gold(name: str, rows: Sequence[Row], seed: int) -> Line:
    """The line of one gold standard, which has no control."""
    line = _losses([(row, row["gold"][name]) for row in rows], seed)
    nothing = np.full(len(rows), np.nan)
    own = np.array([selectivity(row, row["gold"][name]) for row in rows])
    if name == INJECTION:  # its losses are against before the writing, and nothing was deleted
        own = nothing
        line |= {f"others_net_nll_rise{end}": line[f"others_nll_rise{end}"] for end in ("", "_low", "_high")}
    line |= ends("selectivity", own, seed)
    line |= ends("random_selectivity", nothing, seed) | ends("difference", nothing, seed)
    return line | {"n": float(len(rows)), "p": np.nan}


def _losses(found: Sequence[tuple[Row, Mapping[str, Sequence[float]]]], seed: int) -> Line:
    line: Line = {}
    for name in _SETS:
        for place, kind in enumerate(("nll_rise", "em_drop")):
            line |= ends(f"{name}_{kind}", np.array([lost[name][place] for _, lost in found], float), seed)
    paid = np.array([_paid(row) for row, _ in found], float)
    line |= ends("others_before_nll_rise", paid[:, 0], seed) | ends("others_before_em_drop", paid[:, 1], seed)
    net = paid[:, 0] + np.array([lost["others"][0] for _, lost in found])
    return line | ends("others_net_nll_rise", net, seed)
