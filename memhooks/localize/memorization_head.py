"""Is there a head whose attention goes to rare tokens because the text was memorized?

1. It is a rare-token head on memorized text, over token types and within paragraphs (`rare_token_heads`).
2. It is more negative there than on text that was never seen: names of the sets are dealt anew to the clusters.
3. It is more negative than under the twin, a model that never read the paragraphs: signs of the paired differences
   are flipped by cluster. Both tests hold each head against the most negative of all heads.
4. Such a candidate is confirmed only if its ablation costs memorized text more than every control (`specificity`).

Steps 2 and 3 compare the Spearman without distance: where rare tokens stand differs between sets, so that a head that
looks at certain positions differs in the raw one. Their unit is the paragraph: a head that treats a few frequent token
types differently passes them, which is why step 1 asks for all types first.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from memhooks.errors import InputError
from memhooks.localize.memorization_verdict import controls_of, verdict
from memhooks.localize.rare_token_heads import by_head, check_level, of_query, rare_token_heads
from memhooks.measure.membership import cluster_means, more_p
from memhooks.model.labelled import Variable, labelled
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters

_SETTINGS = ("counts_hash", "skip_first", "n_prefix", "n_rarest")


@dataclass(frozen=True)
class MemorizationHead:
    """What was found.

    Attributes:
        candidates: rare-token heads that are more so for memorized text than for its controls.
        confirmed: those among them whose ablation costs memorized text more than every control.
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
    """Which heads' attention goes to rare tokens more in memorized text, and does recitation need them?

    Args:
        results: of `rare_token_attention`: "memorized", "control", and "twin" (the memorized paragraphs under a model
            that never read them), without which the verdict is weaker and says so. All asked alike.
        seed: of intervals and tests.
        worth: of `specificity` over heads of the same model; without it nothing is confirmed. All its controls count.
        sets: the paragraphs of each result; clusters of near-duplicates among them then count once.
        query: which position's attention; the first by default.
        level: of all p values.

    Returns:
        Candidates, confirmed ones, a verdict, and a table: `rare_token_heads` of the memorized set, and for each other
        set its means (`spearman_<set>`, `partial_spearman_<set>`), how much more negative the memorized set's Spearman
        without distance is (`less_than_<set>`, means of clusters, 0 = not at all) and the p of the most negative of
        all heads (`p_less_than_<set>`); `is_candidate`, `is_confirmed`.

    Raises:
        InputError: memorized or control are missing; the results have other heads, queries, counts or settings; the
            control is of another model; the twin is of the same model or of other paragraphs; `sets` are not theirs;
            `worth` is not of this model's heads beside a control; or the level is not one.
    """
    check_level(level)
    present = {name: results[name] for name in _present(results)}
    _check_same(present)
    _check_models(present)
    own = {name: of_query(one, query) for name, one in present.items()}
    label = _labels(own, sets)
    heads = rare_token_heads(results["memorized"], seed=seed, query=query, clusters=label["memorized"], level=level)
    columns, p = _comparisons(own, label, seed=seed)
    candidate = heads["is_rare_token_head"].values & (p <= level).all(0)
    if worth is not None:
        _check_worth(worth, results["memorized"], heads["row"].values.tolist())
    confirmed = candidate & _specific(worth, heads["row"].values.tolist(), level)
    columns["is_candidate"] = Variable(candidate, ("row",), "rare-token head, and more so than in all controls")
    columns["is_confirmed"] = Variable(confirmed, ("row",), "whether its ablation costs memorized text more")
    table = heads.assign(labelled({}, **columns).data_vars)
    names = heads["row"].values
    found = tuple(map(str, names[candidate])), tuple(map(str, names[confirmed]))
    return MemorizationHead(*found, table, verdict(table, level=level, worth=worth))


def _comparisons(
    results: Mapping[str, xr.Dataset], label: Mapping[str, np.ndarray], *, seed: int
) -> tuple[dict[str, Variable], Float[np.ndarray, "set head"]]:
    """Columns of each control, and the p values of both (or of the one there is)."""
    own, found, columns = by_head(results["memorized"], "partial_spearman"), [], {}
    for name in list(results)[1:]:
        both, theirs = (label["memorized"], label[name]), by_head(results[name], "partial_spearman")
        # Rare tokens give a negative correlation: more of that is less of this.
        p = more_p(-own, -theirs, clusters=both, seed=seed, paired=name == "twin")
        less = cluster_means(own, both[0]).mean(0) - cluster_means(theirs, both[1]).mean(0)
        raw = by_head(results[name], "spearman").mean(0)
        columns[f"spearman_{name}"] = Variable(raw, ("row",), f"mean rank correlation of {name}")
        columns[f"partial_spearman_{name}"] = Variable(theirs.mean(0), ("row",), f"the same of {name} without distance")
        columns[f"less_than_{name}"] = Variable(
            less, ("row",), f"memorized minus {name}, without distance, means of clusters, 0 = alike"
        )
        columns[f"p_less_than_{name}"] = Variable(p, ("row",), "of the most negative of all heads under no effect")
        found.append(p)
    return columns, np.stack(found)


def _present(results: Mapping[str, xr.Dataset]) -> tuple[str, ...]:
    if "memorized" not in results or "control" not in results:
        raise InputError(
            f"a memorization head needs results of 'memorized' and 'control', got {', '.join(results) or 'nothing'}"
        )
    return tuple(name for name in ("memorized", "control", "twin") if name in results)


def _check_same(results: Mapping[str, xr.Dataset]) -> None:
    """Refuse results that were not asked alike.

    Raises:
        InputError: other axes, counts or settings.
    """
    first = results["memorized"]
    for name, one in results.items():
        if any(one[axis].values.tolist() != first[axis].values.tolist() for axis in ("query", "layer", "head")):
            raise InputError(f"{name!r} and 'memorized' must be results for the same queries, layers and heads")
        for setting in _SETTINGS:
            if one.attrs[setting] != first.attrs[setting]:
                raise InputError(
                    f"{name!r} and 'memorized' must have the same {setting}, got {one.attrs[setting]} and "
                    f"{first.attrs[setting]}; compute both with the same counts and settings"
                )


def _check_models(results: Mapping[str, xr.Dataset]) -> None:
    """Refuse results of models that they cannot be of.

    Raises:
        InputError: a control of another model, or a twin of the same one or of other paragraphs.
    """
    first = results["memorized"]
    if results["control"].attrs["model_hash"] != first.attrs["model_hash"]:
        raise InputError("'control' and 'memorized' must be results of the same model; its twin's result is 'twin'")
    if "twin" not in results:
        return
    twin = results["twin"]
    if twin.attrs["model_hash"] == first.attrs["model_hash"]:
        raise InputError("'twin' must be a result of another model, one that never read the memorized paragraphs")
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


def _check_worth(worth: xr.Dataset, memorized: xr.Dataset, names: list[str]) -> None:
    """Refuse a worth that does not belong here.

    Raises:
        InputError: not of heads, without a control, or of another model.
    """
    if "p_more_than_control" not in worth or not set(names) & set(worth["row"].values.tolist()):
        raise InputError("worth must be a result of specificity over heads (rows such as L0H6) with a 'control'")
    if worth.attrs["model_hash"] != memorized.attrs["model_hash"]:
        raise InputError("worth must be of the model of 'memorized', whose heads are judged")


def _specific(worth: xr.Dataset | None, names: list[str], level: float) -> np.ndarray:
    """Which heads' ablation costs memorized text more than every control."""
    if worth is None:
        return np.zeros(len(names), dtype=bool)
    p = np.max([worth[f"p_more_than_{name}"].values for name in controls_of(worth)], axis=0)
    enough = dict(zip(worth["row"].values.tolist(), p <= level, strict=True))
    return np.array([enough.get(name, False) for name in names])
