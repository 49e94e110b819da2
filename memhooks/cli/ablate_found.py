"""What `memhooks ablate` measures: each part alone, compared between sets, and the best heads together."""

# Heavy imports stay inside the functions, as in the commands.
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from memhooks.cli.tables import Row, plain, stacked
from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.model.loading import HookedModel
    from memhooks.model.means import ActivationMeans
    from memhooks.paragraphs.paragraphs import Paragraphs

What = Literal["heads", "layers", "both"]
How = Literal["zero", "mean", "resample"]
Sets = Mapping[str, "Paragraphs"]
Results = Mapping[str, "xr.Dataset"]
_N_SOURCE = 64  # rows that means or other activations are taken from


@dataclass(frozen=True)
class Filling:
    """What comes in place of a part, as `ablate_each` takes it."""

    how: How
    seed: int
    means: "ActivationMeans | None" = None
    source: "Paragraphs | None" = None
    about: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """As keywords."""
        return {"how": self.how, "seed": self.seed, "means": self.means, "source": self.source}


@dataclass(frozen=True)
class Found:
    """Results by kind of part and set, their comparison by kind, and the heads ablated together."""

    results: dict[str, Results] = field(default_factory=dict)
    compared: "dict[str, xr.Dataset]" = field(default_factory=dict)
    cumulative: "xr.Dataset | None" = None

    @property
    def groups(self) -> "dict[str, xr.Dataset]":
        """Every result by its place in the saved tree."""
        each = {f"{name}/{kind}": one for kind, ones in self.results.items() for name, one in ones.items()}
        groups = each | {f"specificity/{kind}": one for kind, one in self.compared.items()}
        return groups if self.cumulative is None else groups | {"cumulative": self.cumulative}


def filling_of(model: "HookedModel", how: How, seed: int, sets: Sets, pools: Sets) -> Filling:
    """What replaces the parts' outputs, from rows that are not measured.

    Raises:
        InputError: fewer than two rows are left.
    """
    if how == "zero":
        return Filling(how, seed)
    name = "held_out" if "held_out" in pools else "control"
    measured = {tuple(row) for rows in sets.values() for row in rows.tokens.tolist()}
    others = [number for number, row in enumerate(pools[name].tokens.tolist()) if tuple(row) not in measured]
    if len(others) < 2:
        raise InputError(
            f"--how {how} takes rows of --{name.replace('_', '-')} that are not measured, and {len(others)} are left; "
            "give a larger file or a smaller --n"
        )
    source = pools[name].select(others).sample(_N_SOURCE, seed=seed)
    about = f" over {len(source)} other rows of {name}"
    if how == "resample":
        return Filling(how, seed, source=source, about=about)
    from memhooks.model.means import activation_means

    return Filling(how, seed, means=activation_means(model, source), about=about)


def measured(
    model: "HookedModel",
    sets: Sets,
    what: What,
    filling: Filling,
    halves: "tuple[Paragraphs, Paragraphs] | None",
    n_heads: int,
) -> Found:
    """Ablate heads, layers or both in every set, compare the sets, and ablate the best heads together."""
    from memhooks.localize.cumulative import ablate_cumulatively
    from memhooks.localize.each_part import ablate_each, every_layer, silence_heads
    from memhooks.localize.specificity import specificity

    results: dict[str, Results] = {}
    if what != "layers":
        results["heads"] = {name: silence_heads(model, rows, **filling.arguments) for name, rows in sets.items()}
    if what != "heads":
        layers = every_layer(model)
        results["layers"] = {
            name: ablate_each(model, rows, **filling.arguments, **layers) for name, rows in sets.items()
        }
    compared = {kind: specificity(ones, sets=sets, seed=filling.seed) for kind, ones in results.items()}
    if halves is None or filling.how == "resample":
        return Found(results, compared)
    chosen_on, judged_on = halves
    order = _best_heads(results["heads"]["memorized"], chosen_on, n_heads)
    judged = dict(sets) | {"memorized": judged_on}
    together = ablate_cumulatively(model, judged, order, how=filling.how, means=filling.means, seed=filling.seed)
    return Found(results, compared, together)


def _best_heads(result: "xr.Dataset", rows: "Paragraphs", n: int) -> list[tuple[int, int]]:
    """The heads that these paragraphs need most, the largest mean worth first."""
    import numpy as np

    chosen = np.isin(result["paragraph"].values, rows.ids)
    worth = result["nll_rise"].isel(paragraph=chosen).mean("paragraph").transpose("layer", "head").values
    best = np.argsort(-worth, axis=None, kind="stable")[:n]
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(best, worth.shape), strict=True)]


def parts_of(table: "xr.Dataset") -> list[Row]:
    """All parts, those that memorized text needs most first."""
    names = [str(name) for name in table if f"{name}_low" in table]
    columns: dict[str, list] = {
        name: stacked(*(table[f"{name}{end}"].values for end in ("", "_low", "_high"))) for name in names
    }
    columns |= {str(name): plain(table[name].values) for name in table if str(name).startswith("p_more_than")}
    parts = table["row"].values.tolist()
    rows = [Row(part=part) | {name: one[i] for name, one in columns.items()} for i, part in enumerate(parts)]
    order = (-table["memorized"].values).argsort(kind="stable").tolist()
    return [rows[number] for number in order]


def together_of(table: "xr.Dataset") -> list[Row]:
    """One row for each number of heads that are ablated together, and which came last."""
    heads = json.loads(table.attrs["heads"])
    columns = {str(name): plain(table[name].values) for name in table}
    added = ["none", *(f"L{layer}H{head}" for layer, head in heads)]
    return [
        Row(heads=number, added=name) | {column: one[number] for column, one in columns.items()}
        for number, name in enumerate(added)
    ]
