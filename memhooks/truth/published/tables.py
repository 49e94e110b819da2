"""The table as labelled results, for files, figures and JSON."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from memhooks.model.labelled import Variable, labelled
from memhooks.truth.published.claim import Claim
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.targets import BINS, LAYER_SUMS
from memhooks.truth.published.verdicts import Row

VERDICTS = ("reproduced", "not reproduced", "not compared")


def table_of(rows: Sequence[Row], setting: Setting) -> xr.Dataset:
    """The rows as a Dataset.

    Args:
        rows: of `Run.rows`.
        setting: of the run, for provenance.

    Returns:
        Dataset over `row` (the target's key): `published`, `measured` (NaN = not measured; lists as their sum), `low`
        and `high` (ends of 95 % intervals, NaN = none), in the unit named in `unit`; and `quantity`, `kind`, `source`,
        `verdict`, `reason`, `note` as text.
    """
    keys = {"row": [one.target.key for one in rows]}
    measured = [one.measured for one in rows]
    numbers = {
        "published": [sum(one.target.published) for one in rows],
        "measured": [np.nan if one is None else sum(one.values) for one in measured],
        "low": [np.nan if one is None or one.low is None else one.low for one in measured],
        "high": [np.nan if one is None or one.high is None else one.high for one in measured],
    }
    texts = {
        "quantity": [one.target.quantity for one in rows],
        "unit": [one.target.unit for one in rows],
        "kind": [one.target.kind for one in rows],
        "source": [one.target.source for one in rows],
        "verdict": [one.verdict for one in rows],
        "reason": [one.reason for one in rows],
        "note": ["" if one is None else one.note for one in measured],
    }
    return labelled(
        setting.configuration(),
        **{name: Variable(np.array(own, float), ("row",), "as in `unit`", keys) for name, own in numbers.items()},
        **{name: Variable(np.array(own, object), ("row",), "text", keys) for name, own in texts.items()},
    )


def layer_sums_of(rows: Sequence[Row], setting: Setting) -> xr.Dataset | None:
    """Published beside measured layer sums, or None where none were measured.

    Returns:
        Dataset over `row` (the EM bin) and `layer`: `measured`; and over `row` and `rank` (the paper's layer, 0 to 11):
        `published`, both in nats per unit of weight, 0 = no gradient; over `row`: `verdict`.
    """
    by_bin = {one.target.key.removeprefix("6.layers "): one for one in rows if one.target.key.startswith("6.layers")}
    there = [of for of in BINS if of in by_bin and by_bin[of].measured is not None]
    if not there:
        return None
    ours = np.array([list(measured.values) for of in there if (measured := by_bin[of].measured) is not None])
    unit = "nats per unit of weight, sum over the layer's cells, 0 = no gradient"
    labels = {"row": there, "layer": range(ours.shape[1]), "rank": range(12)}
    return labelled(
        setting.configuration(),
        measured=Variable(ours, ("row", "layer"), unit, {name: labels[name] for name in ("row", "layer")}),
        published=Variable(np.array([LAYER_SUMS[of] for of in there]), ("row", "rank"), unit, {"rank": labels["rank"]}),
        verdict=Variable(np.array([by_bin[of].verdict for of in there], object), ("row",), "text"),
    )


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Every row with all that is known of it."""
    return [
        {
            "row": one.target.key,
            "quantity": one.target.quantity,
            "kind": one.target.kind,
            "source": one.target.source,
            "unit": one.target.unit,
            "published": _one_or_all(one.target.published),
            "measured": None if one.measured is None else _one_or_all(one.measured.values),
            "interval": None
            if one.measured is None or one.measured.low is None
            else [one.measured.low, one.measured.high],
            "beside": {} if one.measured is None else _plain(one.measured.beside),
            "note": "" if one.measured is None else one.measured.note,
            "verdict": one.verdict,
            "reason": one.reason,
        }
        for one in rows
    ]


def claims_as_json(claims: Sequence[Claim]) -> list[dict[str, object]]:
    """Every claim with its number and control."""
    return [
        {"claim": one.text, "holds": one.holds, "measured": one.measured, "control": one.control,
         "published": one.published}
        for one in claims
    ]  # fmt: skip


def summary(rows: Sequence[Row], setting: Setting) -> str:
    """One line: how many rows came out how, and what the run was of."""
    counts = ", ".join(f"{sum(one.verdict == name for one in rows)} {name}" for name in VERDICTS)
    line = f"{len(rows)} rows: {counts}"
    if setting.stand_in:
        return f"{line}. The weights are random: this shows that the pipeline runs, and nothing else."
    if setting.not_comparable:
        return f"{line}. This is another model: only what the paper says in words can be asked of it."
    return line + "."


def _one_or_all(values: tuple[float, ...]) -> object:
    numbers = [None if np.isnan(one) else float(one) for one in values]
    return numbers[0] if len(numbers) == 1 else numbers


def _plain(beside: object) -> dict:
    return {name: None if np.isnan(one) else float(one) for name, one in dict(beside).items()}  # pyright: ignore
