"""What `memhooks score-localizers` says at the end: per region who finds the written weights, with its control."""

from collections.abc import Mapping, Sequence

from memhooks.cli.tables import Row, shown

REFERENCES = {
    "weight_outlier": "stands out, knows no text",
    "random_scores": "drawn blindly",
    "weight_change": "knows the model before",
}
"""As `memhooks.truth.injection.lines.REFERENCES`, which would load torch."""

FEWEST = 6
"""As `memhooks.truth.injection.lines.FEWEST`."""

_LEVEL = 0.05
_GOLD = ("written, to zero", "written, put back", "the injection itself")


def verdict(plain: Mapping[str, Sequence[Row]]) -> list[str]:
    """Per region: who finds the written weights, at which moment, and whether deletion agrees; with its control.

    Args:
        plain: the rows of both tables; without `recall` where nothing was written.
    """
    lines = []
    for region in regions_of(plain["deletion"]):
        words = []
        for moment in ("early", "solved"):
            rows = [row for row in plain.get("recall", []) if (row["region"], row["moment"]) == (region, moment)]
            if rows:
                with_decoy = mean(rows[0], "over_decoy") is not None
                words.append(f"{moment}: {_against_decoy(rows) if with_decoy else _recall(rows)}")
        dropped = [row for row in plain["deletion"] if row["region"] == region]
        words.append(f"deletion: {_best(dropped, 'selectivity', 'random_selectivity', '+.2f')}")
        lines.append(f"{region}: " + "; ".join(words))
    return lines


def _recall(rows: Sequence[Row]) -> str:
    chance = f"chance {rows[0]['chance']:.4f}"
    return f"{_best(rows, 'recall', 'random_recall', '.3f')} ({chance}{_reference(rows, 'recall', '.3f')})"


def _against_decoy(rows: Sequence[Row]) -> str:
    """Whether what finds written weights finds those of this text, or of any."""
    usable = _localizers(rows, "recall")
    if not usable:
        return "no localizer applies"
    own = [row for row in usable if _beats(row, "over_decoy", "over_decoy_p")]
    best = max(own or usable, key=lambda row: mean(row, "recall") or 0.0)
    p = p_of(best, "over_decoy_p")
    size = (
        f"recall {mean(best, 'recall'):.3f}, decoy {best['decoy_recall']:.3f}, difference "
        f"{shown(ends(best, 'over_decoy'), '+.3f')}, {_too_few(best) if p is None else f'p {p:.2g}'}"
        f"{_reference(rows, 'over_decoy', '+.3f')}"
    )
    if own:
        return f"{best['localizer']} finds which text was written: {size}; {len(own)} of {len(usable)} do"
    if p is None:
        return f"first is {best['localizer']}, {size}"
    found = (
        f"{best['localizer']} finds what was written, not which text"
        if _beats(best, "difference", "p")
        else (f"none beats a random mask; first is {best['localizer']}")
    )
    return f"none finds the target more than the decoy at p {_LEVEL}; {found}: {size}"


def _best(rows: Sequence[Row], name: str, control: str, form: str) -> str:
    """The first of those that beat a random mask, or the first of all; what had too few pairs is named apart."""
    usable = _localizers(rows, name)
    tested = [row for row in usable if p_of(row, "p") is not None]
    if not usable:
        return "no localizer applies"
    found = [row for row in tested if _beats(row, "difference", "p") and (mean(row, name) or 0.0) > 0]
    best = max(found or tested or usable, key=lambda row: mean(row, name) or 0.0)
    size = f"{shown(ends(best, name), form)}, random mask {mean(best, control):{form}}"
    if not tested:
        return f"first is {best['localizer']}, {size}, {_too_few(best)}"
    untested = [f"{row['localizer']} {mean(row, name):{form}}, {_too_few(row)}" for row in usable if few(row)]
    rest = "".join(f"; {one}" for one in untested)
    size += f", p {p_of(best, 'p'):.2g}"
    if not found:
        return f"none beats a random mask at p {_LEVEL}; first is {best['localizer']}, {size}, n {best['n']:.0f}{rest}"
    return f"{best['localizer']} first, {size}; {len(found)} of {len(tested)} beat theirs{rest}"


def _reference(rows: Sequence[Row], name: str, form: str) -> str:
    """What comes of standing out alone."""
    found = [row for row in rows if row["localizer"] == "weight_outlier" and mean(row, name) is not None]
    return "".join(f", reference weight_outlier, which knows no text, {mean(row, name):{form}}" for row in found)


def _localizers(rows: Sequence[Row], name: str) -> list[Row]:
    """Those to which `name` applies and that are no references."""
    return [row for row in rows if row["localizer"] not in (*REFERENCES, *_GOLD) and mean(row, name) is not None]


def _beats(row: Row, difference: str, p_name: str) -> bool:
    p = p_of(row, p_name)
    return p is not None and p <= _LEVEL and (mean(row, difference) or 0.0) > 0


def _too_few(row: Row) -> str:
    return f"too few for p (n {row['n']:.0f})"


def few(row: Row) -> bool:
    """Whether there are too few pairs for any p below 0.05."""
    return float(str(row["n"])) < FEWEST


def mean(row: Row, name: str) -> float | None:
    """The mean of what has an interval; None where there is none."""
    return ends(row, name)[0]


def ends(row: Row, name: str) -> list[float | None]:
    """[mean, low, high]."""
    return row[name]  # pyright: ignore[reportReturnType]


def p_of(row: Row, name: str) -> float | None:
    """A p; None where there is none."""
    return None if row[name] is None else float(str(row[name]))


def regions_of(rows: Sequence[Row]) -> list[str]:
    """The regions of a table, in its order."""
    return list(dict.fromkeys(str(row["region"]) for row in rows))
