"""What `memhooks attention` measures: every head under every condition, the verdict, and the ablation of candidates.

1. Attention against counts, for each set and for the memorized paragraphs under the twin.
2. The verdict on memorization heads, or on rare-token heads alone where there is no control.
3. Only the candidates are ablated: attention chose them, so few tests are left to correct for, and it is cheap.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr
from torch import Tensor

from memhooks.cli.tables import Row, plain, rows_of
from memhooks.localize.attention import rare_token_attention
from memhooks.localize.attention_probe import Asked
from memhooks.localize.attention_rows import attention_of
from memhooks.localize.each_part import ablate_each
from memhooks.localize.memorization_head import memorization_head
from memhooks.localize.published_statistic import published_statistic
from memhooks.localize.rare_token_heads import MEANS, rare_token_heads
from memhooks.localize.specificity import specificity
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters

Conditions = Mapping[str, tuple[HookedModel, Paragraphs]]


@dataclass(frozen=True)
class Found:
    """What was measured; `heads` has the verdict among its attributes."""

    probed: dict[str, xr.Dataset]
    tables: dict[str, xr.Dataset]
    published: dict[str, xr.Dataset]
    heads: xr.Dataset
    worth: xr.Dataset | None = None
    view: xr.Dataset | None = None

    @property
    def groups(self) -> dict[str, xr.Dataset]:
        """Every result by its place in the saved tree."""
        kinds = {"attention": self.probed, "heads": self.tables, "published": self.published}
        groups = {f"{name}/{kind}": one for kind, ones in kinds.items() for name, one in ones.items()}
        more = {"heads": self.heads, "specificity/heads": self.worth, "paragraph/attention": self.view}
        return groups | {name: one for name, one in more.items() if one is not None}


def measured(
    conditions: Conditions,
    counts: Tensor,
    asked: Asked,
    paragraph: Paragraphs | None,
    *,
    confirm: bool,
    seed: int,
) -> Found:
    """Ask every head under every condition, and ablate those that deserve it.

    Raises:
        InputError: a query that sees too little, or whatever else the model cannot answer.
    """
    near = {name: clusters(rows) for name, (_, rows) in conditions.items()}
    probed = {
        name: rare_token_attention(model, rows, counts, seed=seed, clusters=near[name], **asked)
        for name, (model, rows) in conditions.items()
    }
    tables = {name: rare_token_heads(one, seed=seed, clusters=near[name]) for name, one in probed.items()}
    view = None
    if paragraph is not None:
        view = attention_of(conditions["memorized"][0], paragraph, query=int(probed["memorized"]["query"][0]))
    heads, worth = _judged(conditions, probed, tables["memorized"], confirm=confirm, seed=seed)
    return Found(probed, tables, {name: published_statistic(one) for name, one in probed.items()}, heads, worth, view)


def tables(found: Found) -> dict[str, Any]:
    """The verdict, and one row for each head and each ablated one; means are [mean, low, high]."""
    rows = _rows(found)
    return {
        "verdict": found.heads.attrs["verdict"],
        "query": int(found.heads.attrs["query"]),
        "n_rarest": int(found.heads.attrs["n_rarest"]),
        "candidates": [row["head"] for row in rows if row.get("is_candidate")],
        "confirmed": [row["head"] for row in rows if row.get("is_confirmed")],
        "heads": rows,
        "ablation": [] if found.worth is None else rows_of(found.worth, name="head"),
    }


def _judged(
    conditions: Conditions,
    probed: Mapping[str, xr.Dataset],
    rare: xr.Dataset,
    *,
    confirm: bool,
    seed: int,
) -> tuple[xr.Dataset, xr.Dataset | None]:
    """The table of heads with the verdict, and what the candidates' ablation costs either set."""
    sets = {name: rows for name, (_, rows) in conditions.items() if name != "twin"}
    if "control" not in sets:
        named = ", ".join(rare["row"].values[rare["is_rare_token_head"].values]) or "none"
        return rare.assign_attrs(
            verdict=f"Rare-token heads: {named}. Without a control it is open whether memorized text is special."
        ), None
    found, worth = memorization_head(probed, seed=seed, sets=sets), None
    if found.candidates and confirm:
        chosen = found.table.sel(row=list(found.candidates))
        heads = list(zip(chosen["layer"].values.tolist(), chosen["head"].values.tolist(), strict=True))
        model = conditions["memorized"][0]
        # What the model says itself is at a loss between those of the other two.
        ablated = sets | {"control_own": with_own_continuation(model, sets["control"])}
        worth = specificity(
            {name: ablate_each(model, rows, heads=heads) for name, rows in ablated.items()}, sets=ablated, seed=seed
        )
        found = memorization_head(probed, worth=worth, seed=seed, sets=sets)
    return found.table.assign_attrs(verdict=found.verdict), worth


def _rows(found: Found) -> list[Row]:
    """All heads, the most negative on memorized text first, each statistic for each condition."""
    by_name = {name: rows_of(table, name="part") for name, table in found.tables.items()}
    published = {name: _published(one) for name, one in found.published.items()}
    rows: list[Row] = []
    for place, row in enumerate(rows_of(found.heads, name="part")):
        compared = {key: row[key] for key in row if key.startswith(("is_", "less_than_", "p_less_than_"))}
        rows.append(
            {"head": row["part"]}
            | {key: row[key] for key in ("layer", "local", "reach", "uniform_share", "uniform_entropy")}
            | {
                f"{key} {name}": by_name[name][place][key]
                for key in (*MEANS, "type_spearman", "p_value", "p_within")
                for name in by_name
            }
            | {f"{key} {name}": values[place] for name, one in published.items() for key, values in one.items()}
            | compared
        )
    order = found.heads["spearman"].values.argsort(kind="stable")
    return [rows[place] for place in order.tolist()]


def _published(one: xr.Dataset) -> dict[str, list]:
    """The published statistic of each head in the order of tables, and what uniform attention has by it."""
    first = one.isel(query=0)
    heads = first["summed_spearman"].transpose("layer", "head")
    return {
        f"published_{name}": plain(first[variable].broadcast_like(heads).transpose("layer", "head").values.ravel())
        for kind, what in (("summed", ""), ("uniform", "uniform_"))
        for name, variable in ((f"{what}{one}", f"{kind}_{one}") for one in ("spearman", "pearson", "kendall"))
    }
