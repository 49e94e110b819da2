"""Is there a head that looks at rare tokens because the text was memorized?

1. It is a rare-token head on memorized text (`rare_token_heads`).
2. It is more negative there than on text that was never seen: names of the sets are dealt anew to the clusters.
3. It is more negative than under the twin, a model that never read the paragraphs: signs of the paired differences
   are flipped by cluster. Both tests hold each head against the most negative of all heads.
4. Such a candidate is confirmed only if its ablation costs memorized text more than other text (`specificity`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from memhooks.errors import InputError
from memhooks.localize.memorization_verdict import verdict
from memhooks.localize.rare_token_heads import by_head, check_level, of_query, rare_token_heads
from memhooks.measure.membership import cluster_means, more_p
from memhooks.model.labelled import Variable, labelled
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters


@dataclass(frozen=True)
class MemorizationHead:
    """What was found.

    Attributes:
        candidates: rare-token heads that are more so for memorized text than for its controls.
        confirmed: those among them whose ablation costs memorized text more.
        table: one row per head, see `memorization_head`.
        verdict: the same in words.
    """

    candidates: tuple[str, ...]
    confirmed: tuple[str, ...]
    table: xr.Dataset
    verdict: str


def memorization_head(
    results: Mapping[str, xr.Dataset],
    *,
    seed: int,
    worth: xr.Dataset | None = None,
    sets: Mapping[str, Paragraphs] | None = None,
    query: int | None = None,
    level: float = 0.05,
) -> MemorizationHead:
    """Which heads look at rare tokens in memorized text alone, and does recitation need them?

    Args:
        results: of `rare_token_attention`: "memorized", "control", and "twin" (the memorized paragraphs under a model
            that never read them), without which the verdict is weaker and says so.
        seed: of intervals and tests.
        worth: of `specificity` over heads; without it nothing is confirmed.
        sets: the paragraphs of each result; clusters of near-duplicates among them then count once.
        query: which position's attention; the first by default.
        level: of all p values.

    Returns:
        Candidates, confirmed ones, a verdict, and a table: `rare_token_heads` of the memorized set, and for each other
        set its mean Spearman (`spearman_<set>`), how much more negative the memorized set is (`less_than_<set>`, 0 =
        not at all) and the p of the most negative of all heads (`p_less_than_<set>`); `is_candidate`, `is_confirmed`.

    Raises:
        InputError: memorized or control are missing, the results have other heads or queries, the twin other
            paragraphs, `sets` are not theirs, `worth` is not of heads beside a control, or the level is not one.
    """
    check_level(level)
    own = {name: of_query(results[name], query) for name in _present(results)}
    _check_same(own)
    label = _labels(own, sets)
    heads = rare_token_heads(results["memorized"], seed=seed, query=query, clusters=label["memorized"], level=level)
    columns, p = _comparisons({name: by_head(one, "spearman") for name, one in own.items()}, label, seed=seed)
    candidate = heads["is_rare_token_head"].values & (p <= level).all(0)
    confirmed = candidate & _specific(worth, heads["row"].values.tolist(), level)
    columns["is_candidate"] = Variable(candidate, ("row",), "rare-token head, and more so than in all controls")
    columns["is_confirmed"] = Variable(confirmed, ("row",), "whether its ablation costs memorized text more")
    table = heads.assign(labelled({}, **columns).data_vars)
    names = heads["row"].values
    found = tuple(map(str, names[candidate])), tuple(map(str, names[confirmed]))
    return MemorizationHead(*found, table, verdict(table, level=level, ablated=worth is not None))


def _comparisons(
    values: Mapping[str, Float[np.ndarray, "_ head"]], label: Mapping[str, np.ndarray], *, seed: int
) -> tuple[dict[str, Variable], Float[np.ndarray, "set head"]]:
    """Columns of each control, and the p values of both (or of the one there is)."""
    own, found, columns = values["memorized"], [], {}
    for name in list(values)[1:]:
        both = (label["memorized"], label[name])
        # Rare tokens give a negative correlation: more of that is less of this.
        p = more_p(-own, -values[name], clusters=both, seed=seed, paired=name == "twin")
        less = cluster_means(own, both[0]).mean(0) - cluster_means(values[name], both[1]).mean(0)
        columns[f"spearman_{name}"] = Variable(values[name].mean(0), ("row",), f"mean rank correlation of {name}")
        columns[f"less_than_{name}"] = Variable(less, ("row",), f"memorized minus {name}, means of clusters, 0 = alike")
        columns[f"p_less_than_{name}"] = Variable(p, ("row",), "of the most negative of all heads under no effect")
        found.append(p)
    return columns, np.stack(found)


def _present(results: Mapping[str, xr.Dataset]) -> tuple[str, ...]:
    if "memorized" not in results or "control" not in results:
        raise InputError(
            f"a memorization head needs results of 'memorized' and 'control', got {', '.join(results) or 'nothing'}"
        )
    return tuple(name for name in ("memorized", "control", "twin") if name in results)


def _check_same(own: Mapping[str, xr.Dataset]) -> None:
    first = own["memorized"]
    for name, one in own.items():
        if any(one[axis].values.tolist() != first[axis].values.tolist() for axis in ("query", "layer", "head")):
            raise InputError(f"{name!r} and 'memorized' must be results for the same query, layers and heads")
    twin = own.get("twin", first)
    if twin["paragraph"].values.tolist() != first["paragraph"].values.tolist():
        raise InputError("'twin' must hold the paragraphs of 'memorized', in their order, under another model")


def _labels(own: Mapping[str, xr.Dataset], sets: Mapping[str, Paragraphs] | None) -> dict[str, np.ndarray]:
    """The cluster of each paragraph of each result.

    Raises:
        InputError: `sets` are not the results' paragraphs.
    """
    found = {}
    for name, one in own.items():
        ids = tuple(map(str, one["paragraph"].values))
        if sets is None:
            found[name] = np.arange(len(ids))
            continue
        theirs = sets.get("memorized" if name == "twin" else name)  # which the twin reads, too
        if theirs is None or theirs.ids != ids:
            raise InputError(f"sets must hold the {len(ids)} paragraphs of {name!r}, in their order")
        found[name] = clusters(theirs).numpy()
    return found


def _specific(worth: xr.Dataset | None, names: list[str], level: float) -> np.ndarray:
    """Which heads' ablation costs memorized text more than every control.

    Raises:
        InputError: `worth` is not of heads, or has no control.
    """
    if worth is None:
        return np.zeros(len(names), dtype=bool)
    if "p_more_than_control" not in worth or not set(names) & set(worth["row"].values.tolist()):
        raise InputError("worth must be a result of specificity over heads (rows such as L0H6) with a 'control'")
    p = [worth[column] for column in ("p_more_than_control", "p_more_than_twin") if column in worth]
    enough = {str(name): all(one.sel(row=name) <= level for one in p) for name in worth["row"].values}
    return np.array([enough.get(name, False) for name in names])
