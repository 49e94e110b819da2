"""What `memhooks perturb` finds, as tables: what drops go with, where they are, the worst, what is said."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memhooks.cli.tables import Row, intervals, plain, stacked

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

Results = Mapping[str, "xr.Dataset"]
Sets = Mapping[str, "Paragraphs"]
OWN = "control_own"
_N_POSITIONS, _N_WORST = 10, 5


def analysed(
    model: "HookedModel", sets: Sets, effects: Results, counts: "Tensor | None", seed: int
) -> tuple[dict[str, Any], Results, dict[str, Results]]:
    """The tables, the profile of each set over positions, and all results by what they are."""
    if effects["memorized"].attrs["cumulative"]:
        profiles: Results = {name: _cumulative(one, sets[name], seed) for name, one in effects.items()}
        return {"cumulative": _by_number(profiles)}, profiles, {"effect": effects, "by_position": profiles}
    tables, profiles = _statistics(effects, sets, counts, seed), _profiles(effects, sets, seed)
    results = {"effect": effects, "by_position": profiles, "statistics": tables}
    if counts is not None:
        results["by_rarity"] = _rarity(effects, sets, counts, seed)
    found = {"statistics": _rows(tables), "positions": _positions(profiles), "worst": _worst(model, sets, effects)}
    return found, profiles, results


def _statistics(effects: Results, sets: Sets, counts: "Tensor | None", seed: int) -> "dict[str, xr.Dataset]":
    """What the drop goes with; without counts the rows that need none."""
    from memhooks.measure.perturbation_statistics import perturbation_statistics

    return {name: perturbation_statistics(effects[name], rows, counts, seed=seed) for name, rows in sets.items()}


def _rows(tables: Results) -> list[Row]:
    names = tables["memorized"]["row"].values.tolist()
    rows: list[Row] = [{"statistic": name} for name in names]
    for condition, table in tables.items():
        ends = stacked(*(table[end].values for end in ("estimate", "low", "high")))
        for row, one, p in zip(rows, ends, plain(table["p"].values), strict=True):
            row[condition] = one
            row[f"p {condition}"] = p
    for row, null in zip(rows, plain(tables["memorized"]["null"].values), strict=True):
        row["by chance"] = null
    return rows


def _profiles(effects: Results, sets: Sets, seed: int) -> "dict[str, xr.Dataset]":
    from memhooks.measure.perturbation_statistics import drop_by_position

    return {name: drop_by_position(effect, sets[name], seed=seed) for name, effect in effects.items()}


def _rarity(effects: Results, sets: Sets, counts: "Tensor", seed: int) -> "dict[str, xr.Dataset]":
    from memhooks.measure.perturbation_statistics import drop_by_rarity

    n_bins = min(5, sets["memorized"].n_prefix)
    if n_bins < 2:
        return {}
    return {name: drop_by_rarity(one, sets[name], counts, seed=seed, n_bins=n_bins) for name, one in effects.items()}


def _cumulative(effect: "xr.Dataset", rows: "Paragraphs", seed: int) -> "xr.Dataset":
    """The columns of `drop_by_position` for all tokens up to the position; no shuffle is meaningful here."""
    import numpy as np

    from memhooks.model.labelled import Variable, labelled

    rise = effect["nll_rise"].mean("draw").transpose("paragraph", "pos")
    ends = np.array(intervals(rise.values, rows, seed), dtype=float).T
    unit, labels = str(effect["nll_rise"].attrs["units"]), {"pos": range(rows.n_prefix)}
    columns = zip(("mean", "low", "high"), ends, strict=True)
    return labelled(
        {"seed": seed, "cumulative": 1}, **{name: Variable(one, ("pos",), unit, labels) for name, one in columns}
    )


def _by_number(profiles: Results) -> list[Row]:
    n_prefix = profiles["memorized"].sizes["pos"]
    ends = {name: stacked(*(one[end].values for end in ("mean", "low", "high"))) for name, one in profiles.items()}
    return [Row(replaced=pos + 1) | {name: one[pos] for name, one in ends.items()} for pos in range(n_prefix)]


def _positions(profiles: Results) -> list[Row]:
    """The positions whose replacement hurts memorized text most."""
    memorized = profiles["memorized"]
    ends = {name: stacked(*(one[end].values for end in ("mean", "low", "high"))) for name, one in profiles.items()}
    worst = (-memorized["mean"].values).argsort(kind="stable")[:_N_POSITIONS].tolist()
    above = plain(memorized["shuffled_high"].values)
    return [
        Row(position=pos) | {name: one[pos] for name, one in ends.items()} | {"by chance up to": above[pos]}
        for pos in worst
    ]


def _worst(model: "HookedModel", sets: Sets, effects: Results) -> list[Row]:
    """The memorized paragraphs that lose most from one replacement, and which it is."""
    import numpy as np

    from memhooks.measure.effects import worst_place

    rows, effect = sets["memorized"], effects["memorized"]
    draw, pos = (one.numpy() for one in worst_place(effect))
    each = np.arange(len(rows))
    rise, em_drop, other = (effect[name].values[each, draw, pos] for name in ("nll_rise", "em_drop", "replacement"))
    em = effect["exact_match"].values

    def token(number: int) -> str:
        return str(number) if model.tokenizer is None else str(model.tokenizer.decode([number]))

    return [
        {
            "paragraph": rows.ids[row],
            "position": int(pos[row]),
            "token": token(int(rows.tokens[row, pos[row]])),
            "replaced by": token(int(other[row])),
            "NLL rise": float(rise[row]),
            "EM before": int(em[row]),
            "EM after": int(em[row] - em_drop[row]),
        }
        for row in np.argsort(-rise, kind="stable")[:_N_WORST].tolist()
    ]


def decoded_texts(model: "HookedModel", sets: Sets, effects: Results, replaced: Any) -> "dict[str, xr.Dataset]":  # noqa: ANN401
    """What the model says after the worst replacement; the control is held to what the model says untouched."""
    from memhooks.measure.continuations import perturbed_continuations
    from memhooks.measure.recitation import with_own_continuation

    found = {"memorized": perturbed_continuations(model, sets["memorized"], effects["memorized"])}
    if "control" in sets:
        own = with_own_continuation(model, sets["control"])
        found[OWN] = perturbed_continuations(model, own, replaced(own))
    return found


def shares(decoded: Results, sets: Sets, seed: int) -> list[Row]:
    """How many continuations die, how many resume, and how many tokens stay, as [mean, low, high] from 0 to 1."""
    rows = {"memorized": sets["memorized"]} | ({OWN: sets["control"]} if OWN in decoded else {})
    names = {
        "dies": "share that die (under a fifth of the tokens stay)",
        "resumes": "share that resume (a fifth in a row comes again)",
        "match": "share of tokens that stay",
    }
    return [
        Row({"after the worst replacement": words})
        | {name: intervals(one[variable].values.astype(float), rows[name], seed) for name, one in decoded.items()}
        for variable, words in names.items()
    ]
