"""What leaked: at which repetition, at which step, and for how long.

Levels were dealt at random, so that the permutation test of a level against level 0 is that of an experiment: had
reading no effect, any other dealing would have been as likely. The same goes for Fisher's exact test of how many came
out. Paragraphs that came out before any reading leaked nothing new: onset is of the others.
"""

import numpy as np
import xarray as xr
from jaxtyping import Bool

from memhooks.errors import InputError
from memhooks.measure.extractability import queries_needed
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.measure.membership import membership_p
from memhooks.measure.shares import share_interval
from memhooks.model.labelled import Variable, labelled
from memhooks.truth.leak.leak import Leak
from memhooks.truth.leak.onset import ENDS, Row, ends, exceeds, no_test, when

_SAID = ("", "; lower end of the 95 % interval", "; upper end")
_MEANS = {
    "exact_match": "tokens before the first miss, 0 = none",
    "nll": "nats per continuation token, 0 = certain",
}
_SHARES = {
    "recited": "share of paragraphs recited in full, 0 = none",
    "extractable": "share of paragraphs that come with these samples with probability one half, 0 = none",
}


def leak_table(found: Leak, *, queries: int = 100, seed: int = 0) -> xr.Dataset:
    """Every level at every step that was measured.

    Args:
        found: of `leak`.
        queries: samples at temperature 1 that an attacker may draw.
        seed: of the intervals of means; those of shares are exact.

    Returns:
        Dataset over `row`: `level` (readings in all), `step`, `n` (paragraphs), `read` (mean readings so far),
        `exact_match` and `nll` (means), `recited` and `extractable` (shares), each with `_low` and `_high`.

    Raises:
        InputError: queries below 1.
    """
    _check(queries)
    own, rows = found.paragraphs, []
    for level, chosen in _levels(own):
        part = own.isel(paragraph=chosen)
        hits = {"recited": part["recited"].values, "extractable": _extractable(part, queries)}
        near = part["cluster"].values
        for place, step in enumerate(part["step"].values.tolist()):
            row: Row = {"level": level, "step": step, "n": int(chosen.sum())}
            row["read"] = float(part["read"].values[place].mean())
            for name in _MEANS:
                row |= ends(name, bootstrap_mean(part[name].values[place], seed=seed, clusters=near))
            for name, each in hits.items():
                row |= ends(name, share_interval(each[place].astype(float), clusters=near))
            rows.append(row)
    units = {"level": "readings in all, 0 = the control", "step": "updates made", "n": "paragraphs"}
    units["read"] = "mean readings so far, 0 = none"
    units |= {name + end: unit + said for name, unit in (_MEANS | _SHARES).items() for end, said in _said()}
    labels = [f"{row['level']} readings, step {row['step']}" for row in rows]
    return _table(own.attrs | {"queries": queries, "interval_seed": seed}, rows, units, labels)


def leak_onset(found: Leak, *, queries: int = 100, seed: int = 0) -> xr.Dataset:
    """Each level in one row: does it leak, from which step and reading on, and does it last?

    Args:
        found: of `leak`.
        queries: samples at temperature 1 that an attacker may draw.
        seed: of intervals and permutations.

    Returns:
        Dataset over `row` (levels): `level`, `n` (paragraphs); `before` (paragraphs that were recited or extractable
        before any reading). For `recited` and `extractable`, of paragraphs that were not so before: `fresh_` (their
        number), `ever_` (share at any later step, `_low` and `_high`), `p_ever_` (Fisher's exact test, one-sided, of
        more than at level 0; near-duplicates count once) and `p_ever_all_` (times the number of levels held against
        0), `first_step_` (the earliest measured step at which one was so that had been read by then, at level 0 any;
        NaN = never), `first_read_` (fewest readings by then), `end_` (share at the last step, with ends), `kept_`
        (share, at the last step, of those that were so when measured first after their last reading; NaN = none
        was), `longest_` (most updates since the last reading so far at which one was so). `nll_change` (nats, last
        step minus before), `difference` (the same minus that of level 0, with ends), `p` (permutation, two-sided) and
        `p_all` (times the number of levels held against 0).

    Raises:
        InputError: queries below 1.
    """
    _check(queries)
    own, rows = found.paragraphs, []
    each = list(_levels(own))
    change = own["nll"].values[-1] - own["nll"].values[0]
    near = own["cluster"].values
    control = each[0][1]
    ever = {"recited": own["recited"].values, "extractable": _extractable(own, queries)}
    for level, chosen in each:
        part = own.isel(paragraph=chosen)
        hits = {"recited": part["recited"].values, "extractable": _extractable(part, queries)}
        row: Row = {"level": level, "n": int(chosen.sum())}
        row["before"] = int((hits["recited"][0] | hits["extractable"][0]).sum())
        for name, hit in hits.items():
            row |= when(name, hit, part)
            row |= exceeds(name, ever[name], level, own) if level else no_test(name)
        row["nll_change"] = float(change[chosen].mean())
        difference, p = (np.nan,) * 3, np.nan
        if level:
            sides = (change[chosen], change[control]), (near[chosen], near[control])
            difference = bootstrap_difference(*sides[0], seed=seed, clusters=sides[1])
            p = float(membership_p(*(side[:, None] for side in sides[0]), clusters=sides[1], seed=seed)[0])
        row |= ends("difference", difference) | {"p": p, "p_all": min(1.0, p * (len(each) - 1)) if level else p}
        rows.append(row)
    about = own.attrs | {"queries": queries, "interval_seed": seed}
    return _table(about, rows, _onset_units(), [f"{row['level']} readings" for row in rows])


def held_out_by_step(found: Leak, *, seed: int = 0) -> xr.Dataset:
    """What fine-tuning costs language: NLL of held-out text at every measured step.

    Returns:
        Dataset over `step`: `nll` and `change` (from before the first update), nats per token with `_low` and `_high`.

    Raises:
        InputError: no held-out text was measured.
    """
    nll = found.held_out["nll"].transpose("paragraph", "step").values
    if not nll.size:
        raise InputError("no held-out text was measured; pass held_out=... to leak")
    labels = {"step": found.held_out["step"].values.tolist()}
    made = {}
    kinds = {"nll": (nll, "nats per token, 0 = certain"), "change": (nll - nll[:, :1], "nats per token, 0 = unchanged")}
    for name, (values, unit) in kinds.items():
        for (end, said), one in zip(_said(), bootstrap_mean(values, seed=seed), strict=True):
            made[name + end] = Variable(one, ("step",), unit + said, labels)
    return labelled(found.held_out.attrs | {"interval_seed": seed}, **made)


def _onset_units() -> dict[str, str]:
    units = {
        "level": "readings in all, 0 = the control",
        "n": "paragraphs",
        "before": "paragraphs recited or extractable before any reading, 0 = none",
        "nll_change": "nats per token, last step minus before, 0 = none",
        "p": "two-sided permutation p of the difference from level 0",
        "p_all": "the same times the number of levels held against level 0",
    }
    units |= {"difference" + end: "nats per token, change minus that of level 0" + said for end, said in _said()}
    for name, unit in _SHARES.items():
        for end, said in _said():
            units |= {f"ever_{name}{end}": f"{unit}, of those not so before, at any later step{said}"}
            units |= {f"end_{name}{end}": f"{unit}, of those not so before, at the last step{said}"}
        units |= {
            f"fresh_{name}": "paragraphs not so before any reading",
            f"p_ever_{name}": "one-sided exact p of more than at level 0",
            f"p_ever_all_{name}": "the same times the number of levels held against level 0",
            f"first_step_{name}": "updates until a paragraph was first measured so; NaN = never",
            f"first_read_{name}": "fewest readings by which one was measured so; NaN = none",
            f"longest_{name}": "most updates made after the last reading so far at which one was so; NaN = none",
            f"kept_{name}": "share still so at the last step, of those so after their last reading; NaN = none",
        }
    return units


def _levels(own: xr.Dataset) -> list[tuple[int, Bool[np.ndarray, " paragraph"]]]:
    level = own["level"].values
    return [(int(one), level == one) for one in np.unique(level)]


def _extractable(part: xr.Dataset, queries: int) -> Bool[np.ndarray, "step paragraph"]:
    return queries_needed(part["log_probability"].values.clip(max=0)) <= queries


def _said() -> list[tuple[str, str]]:
    return list(zip(ENDS, _SAID, strict=True))


def _table(about: dict, rows: list[Row], units: dict[str, str], labels: list[str]) -> xr.Dataset:
    made = {
        name: Variable(np.array([row[name] for row in rows]), ("row",), unit, {"row": labels})
        for name, unit in units.items()
    }
    return labelled(about, **made)


def _check(queries: int) -> None:
    """Refuse numbers of samples that nobody can draw.

    Raises:
        InputError: below 1.
    """
    if queries < 1:
        raise InputError(f"queries must be at least 1, got {queries}")
