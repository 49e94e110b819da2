"""What `memhooks extract` found, as tables with intervals, and the verdict in words."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memhooks.cli.tables import Row, intervals, shown, stacked

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from memhooks.cli.extract_found import Found
    from memhooks.paragraphs.paragraphs import Paragraphs

QUERIES = (1, 100, 10_000, 1_000_000)
IN_PLACE = "_in_place"


def as_tables(found: "Found", *, seed: int) -> dict[str, Any]:
    """Everything as JSON has it, and the verdict."""
    tables: dict[str, Any] = {
        "queries": [row for name, one in found.curves.items() for row in _queries(name, one)],
        "by_level": _by_level(found),
        "prefix": [row for name, one in found.lengths.items() for row in _prefix(name, one)],
        "near_verbatim": [_near(name, one, found, seed) for name, one in found.near.items()],
        "recalled": [_recalled(name, found) for name in found.logs],
        "least_gap": found.least,
        "n_least_gap": found.n_least,
        "prior": found.prior,
    }
    return tables | {"verdict": _verdict(tables)}


def _queries(name: str, one: "xr.Dataset") -> list[Row]:
    return [
        Row(set=name, sampler=sampler, p=p, n=n)
        | {
            "share": stacked(
                *(one[f"share{end}"].sel(sampler=sampler, p=p, queries=n) for end in ("", "_low", "_high"))
            )
        }
        for sampler in one["sampler"].values.tolist()
        for p in one["p"].values.tolist()
        for n in one["queries"].values.tolist()
    ]


def _by_level(found: "Found") -> list[Row]:
    """Temperature 1, p = 0.5, by how often the memorized paragraphs were planted."""
    import numpy as np

    from memhooks.measure.extractability import queries_needed

    counts = found.rows["memorized"].counts
    if counts is None:
        return []
    logs = found.curves["memorized"]["log_probability"].sel(sampler="temperature 1").values
    needed, rows = queries_needed(logs, p=0.5), []
    for k in sorted(set(counts)):
        at = np.array(counts) == k
        some = found.rows["memorized"].select(at)
        shares = {f"n={n:,}": _share(needed[at] <= n, some) for n in QUERIES}
        rows.append(Row(k=k, paragraphs=len(some)) | shares | {"queries, median": float(np.median(needed[at]))})
    return rows


def _prefix(name: str, one: "xr.Dataset") -> list[Row]:
    columns = [f"{key}{how}" for key in ("full_match", "exact_match", "nll", "extractable") for how in ("", IN_PLACE)]
    return [
        Row(set=name, m=m)
        | {
            key: stacked(*(one[f"{key}{end}"].sel(row=m) for end in ("", "_low", "_high")))
            for key in columns
            if key in one
        }
        for m in one["row"].values.tolist()
    ]


def _near(name: str, one: "xr.Dataset", found: "Found", seed: int) -> Row:
    rows = found.rows[name]
    means = {
        "similarity": one["similarity"].values,
        "chance": one["similarity_shuffled"].values,
        "common run": one["common_run"].values,
        "common run, chance": one["common_run_shuffled"].values,
    }
    shares = {
        "recited in full": one["exact_match"].values == one.attrs["n_continuation"],
        "above 0.8": one["similarity"].values > 0.8,
        "above 0.8, chance": one["similarity_shuffled"].values > 0.8,
        "shifted 0.9": one["shifted_9"].values,
        "shifted 0.8": one["shifted_8"].values,
    }
    taken = {key: intervals(value.astype(float), rows, seed) for key, value in means.items()}
    return Row(set=name) | taken | {key: _share(value, rows) for key, value in shares.items()}


def _recalled(name: str, found: "Found") -> Row:
    from memhooks.truth.extraction.recalled import CLASSES

    logs, kind, rows = found.logs[name], found.kinds[name], found.judged[name]
    means = {key: float(logs[key].mean()) for key in ("model", "twin", "prior") if key in logs}
    shares = {text: _share(kind["kind"].values == number, rows) for number, text in enumerate(CLASSES)}
    above = _share(kind["above_threshold"].values, rows)
    about = {"n": int(logs.sizes["paragraph"]), "least_gap": float(kind.attrs["least_gap"])}
    return Row(set=name) | about | means | shares | {"above threshold": above}


def _share(hits: "np.ndarray", rows: "Paragraphs") -> list:
    """[share, low, high], exact; near-duplicates count once."""
    from memhooks.measure.shares import share_interval
    from memhooks.paragraphs.splits import clusters

    return stacked(*share_interval(hits, clusters=clusters(rows).numpy()))


def _verdict(tables: Mapping[str, Any]) -> str:
    def share(name: str, n: int) -> str:
        found = [
            row["share"]
            for row in tables["queries"]
            if (row["set"], row["sampler"], row["p"], row["n"]) == (name, "temperature 1", 0.5, n)
        ]
        return shown(found[0], ".0%")

    sets = list(dict.fromkeys(row["set"] for row in tables["queries"]))
    words = [
        "Extractable at temperature 1, p = 0.5, with 1 and with a million queries: "
        + "; ".join(f"{name} {share(name, 1)} and {share(name, 1_000_000)}" for name in sets)
        + "."
    ]
    shifted = {row["set"]: row["shifted 0.8"] for row in tables["near_verbatim"]}
    listed = ", ".join(f"{name} {shown(part, '.0%')}" for name, part in shifted.items())
    words.append(f"Similar by more than 0.8 though not recited in full: {listed}.")
    return " ".join([*words, *_told(tables)])


def _told(tables: Mapping[str, Any]) -> list[str]:
    """What is recalled and not predictable, with its false positives."""
    recalled = {row["set"]: row for row in tables["recalled"]}
    if not recalled:
        return [
            "Nobody to compare with: without a twin and without reference text what is recalled cannot be told from "
            "what is predictable; give --twin or --reference."
        ]
    listed = ", ".join(f"{name} {shown(row['recalled'], '.0%')}" for name, row in recalled.items())
    words = [f"Recalled: {listed}."]
    if "control" in recalled:
        false, n = shown(recalled["control"]["above threshold"], ".0%"), tables["n_least_gap"]
        words.append(
            f"Threshold: the 99 % quantile of {n} control paragraphs"
            + (", so about the largest of them" if n < 100 else "")
            + f"; above it in the other half (false positives): {false}."
        )
    else:
        words.append("No control: any surplus counts, and false positives are not known.")
    if not any("prior" in row for row in recalled.values()):
        words.append(f"Trigram: {tables['prior']}; give --reference.")
    return words
