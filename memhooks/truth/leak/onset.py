"""When the paragraphs of one level come out, for how long, and whether more do than at level 0."""

from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool
from scipy.stats import fisher_exact

from memhooks.measure.shares import share_interval

Row = dict[str, float | int]
ENDS = ("", "_low", "_high")


class _Moment(NamedTuple):
    first_step: float
    first_read: float
    longest: float


def when(name: str, hit: Bool[np.ndarray, "step paragraph"], part: xr.Dataset) -> Row:
    """When and for how long one outcome is met, by paragraphs that did not meet it before all reading."""
    fresh = ~hit[0]
    hit, part = hit[:, fresh], part.isel(paragraph=fresh)
    if not fresh.any():
        empty = [f"{kind}_{name}{end}" for kind in ("ever", "end") for end in ENDS]
        empty += [f"{kind}_{name}" for kind in ("first_step", "first_read", "longest", "kept")]
        return {f"fresh_{name}": 0} | dict.fromkeys(empty, np.nan)
    near, read = part["cluster"].values, part["read"].values
    row: Row = {f"fresh_{name}": int(fresh.sum())}
    row |= ends(f"ever_{name}", share_interval(np.asarray(hit.any(axis=0)), clusters=near))
    row |= ends(f"end_{name}", share_interval(np.asarray(hit[-1]), clusters=near))
    moment = _Moment(np.nan, np.nan, np.nan)
    counted = hit & (read > 0) if read.any() else hit  # before a paragraph's own first reading nothing is due to it
    if counted.any():
        place = int(np.argmax(counted.any(1)))
        since = part["since"].values[counted]
        longest = float(np.nanmax(since)) if not np.isnan(since).all() else np.nan
        firsts = [read[np.argmax(counted[:, row]), row] for row in np.nonzero(counted.any(0))[0]]
        moment = _Moment(float(part["step"].values[place]), float(min(firsts)), longest)
    after = [  # the first measurement after each paragraph's last reading
        int(np.argmax(part["step"].values >= last)) if last else -1 for last in part["last_reading"].values
    ]
    was = np.array([place >= 0 and hit[place, row] for row, place in enumerate(after)])
    kept = float(hit[-1][was].mean()) if was.any() else np.nan
    return row | {
        f"first_step_{name}": moment.first_step,
        f"first_read_{name}": moment.first_read,
        f"longest_{name}": moment.longest,
        f"kept_{name}": kept,
    }


def exceeds(name: str, hit: Bool[np.ndarray, "step paragraph"], level: int, own: xr.Dataset) -> Row:
    """Whether more came out than at level 0: clusters of near-duplicates of which any paragraph newly did."""
    each, label, fresh = own["level"].values, own["cluster"].values, ~hit[0]
    counts = []
    for one in (level, 0):
        known = fresh & (each == one)
        n, out = len(np.unique(label[known])), len(np.unique(label[known & hit.any(0)]))
        counts.append((out, n - out))
    p = float(np.asarray(fisher_exact(counts, alternative="greater"))[1])
    return {f"p_ever_{name}": p, f"p_ever_all_{name}": min(1.0, p * (len(np.unique(each)) - 1))}


def no_test(name: str) -> Row:
    """Level 0 is not held against itself."""
    return {f"p_ever_{name}": np.nan, f"p_ever_all_{name}": np.nan}


def ends(name: str, interval: tuple) -> Row:
    """A number with the ends of its interval, as columns."""
    return {name + end: float(one) for end, one in zip(ENDS, interval, strict=True)}
