"""Which heads' attention goes to rare tokens? Every head's numbers with intervals, p values and nulls beside them."""

import numpy as np
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.attention_probe import Clusters, checked_clusters
from memhooks.measure.intervals import bootstrap_mean
from memhooks.model.labelled import Variable, labelled

MEANS = ("spearman", "kendall", "pearson", "partial_spearman", "share_on_rarest", "entropy")
"""Variables of `rare_token_attention` that have one value per paragraph."""


def rare_token_heads(
    result: xr.Dataset,
    *,
    seed: int,
    query: int | None = None,
    clusters: Clusters | None = None,
    level: float = 0.05,
) -> xr.Dataset:
    """One row per head: does its attention rank rare tokens first, more than chance and distance explain?

    A head is a rare-token head if both p values are at most `level` (they are of the most negative of all heads, so
    many heads are no excuse) and the whole interval of its partial Spearman is below 0. That is a correlation at this
    query, and may be weak. Not excluded: a sink, if the first token of paragraphs is rarer than others (unless
    `skip_first` left it out of the result); attention of the query to itself, if tokens there are rarer; and whatever
    else goes with rarity, such as long words or names. Memorized text may show no more of it than other text: see
    `memorization_head`.

    Args:
        result: of `rare_token_attention`.
        seed: of the intervals.
        query: which position's attention; the result's first by default.
        clusters: of near-duplicates, which then count as one.
        level: of the p values.

    Returns:
        Dataset over `row` (`L0H6`): `layer`, `head`, `local`, `reach`; means over paragraphs of `spearman`, `kendall`,
        `pearson`, `partial_spearman` (-1 to 1, 0 = none, negative = rare tokens), `share_on_rarest` (0 to 1, beside
        `uniform_share`) and `entropy` (nats, beside `uniform_entropy`), each with `_low` and `_high`, the ends of its
        95 % interval; `type_spearman` (over token types) with its `p_value`; `p_within`; `is_rare_token_head`.

    Raises:
        InputError: a query that the result does not have, clusters of another number, or a level outside 0 to 1.
    """
    check_level(level)
    one = of_query(result, query)
    label = checked_clusters(clusters, result.sizes["paragraph"])
    where = [(layer, head) for layer in range(one.sizes["layer"]) for head in range(one.sizes["head"])]
    layer, head = np.array(where).T
    names = [f"L{one['layer'].values[a]}H{one['head'].values[b]}" for a, b in where]
    columns = {
        "layer": Variable(one["layer"].values[layer], ("row",), "block, from 0", {"row": names}),
        "head": Variable(one["head"].values[head], ("row",), "attention head, from 0"),
        "local": Variable(one["local"].values[layer], ("row",), "whether the layer sees only a window"),
        "reach": Variable(one["reach"].values[layer], ("row",), "prefix tokens that the head can see"),
    }
    for name in MEANS:
        unit = str(one[name].attrs["units"])
        mean, low, high = bootstrap_mean(by_head(one, name), seed=seed, clusters=label)
        columns[name] = Variable(mean, ("row",), unit)
        columns[f"{name}_low"] = Variable(low, ("row",), f"{unit}; lower end of the 95 % interval")
        columns[f"{name}_high"] = Variable(high, ("row",), f"{unit}; upper end")
    for name in ("uniform_share", "uniform_entropy"):
        columns[name] = Variable(one[name].values[layer], ("row",), str(one[name].attrs["units"]))
    for name in ("type_spearman", "p_value", "p_within"):
        values = one[name].transpose("layer", "head").values.ravel()
        columns[name] = Variable(values, ("row",), str(one[name].attrs["units"]))
    found = columns["partial_spearman_high"].values < 0
    for name in ("p_value", "p_within"):
        found &= columns[name].values <= level
    columns["is_rare_token_head"] = Variable(found, ("row",), "whether rarity ranks more than chance and distance do")
    about = {str(key): value for key, value in result.attrs.items()}
    return labelled(about | {"query": int(one["query"]), "interval_seed": seed, "level": level}, **columns)


def of_query(result: xr.Dataset, query: int | None) -> xr.Dataset:
    """The result for one query, the first by default.

    Raises:
        InputError: it has no such query.
    """
    queries = result["query"].values.tolist()
    if query is not None and query not in queries:
        raise InputError(f"query must be one of the result's, {', '.join(map(str, queries))}; got {query}")
    return result.sel(query=queries[0] if query is None else query)


def by_head(one: xr.Dataset, name: str) -> np.ndarray:
    """A variable of one query as [paragraph, head of all layers]."""
    values = one[name].transpose("paragraph", "layer", "head").values
    return values.reshape(len(values), -1).astype(np.float64)


def check_level(level: float) -> None:
    """Refuse what is no level of significance.

    Raises:
        InputError: not between 0 and 1.
    """
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
