"""A recitation result in a few rows: all paragraphs, then those of each duplicate count."""

import numpy as np
import xarray as xr

from memhooks.measure.recitation import em_bins

MOST_GROUPS = 40


def by_count(result: xr.Dataset, counts: tuple[int, ...] | None) -> list[dict[str, float | int | str]]:
    """Means over all paragraphs and, where there are few different counts, over those of each.

    EM, matches and longest run are in tokens, NLL in nats per scored token.
    """
    groups = {"all": np.ones(result.sizes["paragraph"], dtype=bool)}
    if counts is not None and 1 < len(set(counts)) <= MOST_GROUPS:
        groups |= {str(count): np.array(counts) == count for count in sorted(set(counts))}
    return [{"count": name} | means(result.isel(paragraph=np.nonzero(rows)[0])) for name, rows in groups.items()]


def means(result: xr.Dataset) -> dict[str, float | int]:
    """What one line says about a set of paragraphs."""
    em = result["exact_match"].values
    (_, low), *_ = em_bins(int(result.attrs["n_continuation"])).values()
    return {
        "paragraphs": len(em),
        "recited in full": int(result["full_match"].sum()),
        "EM": round(float(em.mean()), 2),
        f"EM <= {low}": round(float((em <= low).mean()), 4),
        "matches": round(float(result["matches"].mean()), 2),
        "longest run": round(float(result["longest_run"].mean()), 2),
        "NLL": round(float(result["nll"].mean()), 3),
        "near ties": int(result["near_ties"].sum()),
    }
