"""What `memhooks sinks` computes."""

# Heavy imports stay inside the functions, as in the commands.
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memhooks.cli.options import MODELS
from memhooks.cli.tables import Row, plain, stacked

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from jaxtyping import Float
    from torch import Tensor

    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

DROPS = ("position 0", "massive", "strongest")
_N_SHUFFLES = 500
_N_WORTH = 32  # paragraphs that every head is ablated on


@dataclass
class Found:
    """What the command computed, by set where there are several."""

    massive: "dict[str, xr.Dataset]"
    sinks: "dict[str, xr.Dataset]"
    heads: "xr.Dataset"
    without: "dict[str, dict[str, xr.Dataset]]"
    columns: "dict[str, np.ndarray]"
    coincidences: list[Row]
    verdicts: dict[str, list[str]]
    label: "dict[str, np.ndarray]"
    mirrored: "dict[str, xr.Dataset]"
    held: "dict[str, dict[str, xr.Dataset]]" = field(default_factory=dict)
    units: dict[str, list[str]] = field(default_factory=dict)


def counts_of(model: str, loaded: "HookedModel", sets: "list[Paragraphs]") -> "Tensor":
    """Corpus counts of the token ids: of the bundled models' corpus, or else of the given sets."""
    from memhooks.organism.paragraphs import load_unigram_counts
    from memhooks.paragraphs.counts import unigram_counts

    if model in MODELS:
        return load_unigram_counts(loaded.cfg.d_vocab)
    return unigram_counts([rows.tokens for rows in sets], d_vocab=loaded.cfg.d_vocab)


def measured(
    conditions: "dict[str, tuple[HookedModel, Paragraphs]]", counts: "Tensor", *, n_units: int, seed: int
) -> Found:
    """All of it; `conditions` are memorized, control and twin, each a model and what it reads."""
    from memhooks.localize.each_part import silence_heads
    from memhooks.paragraphs.splits import clusters
    from memhooks.truth.activations_by_layer import SITES
    from memhooks.truth.held_units import hold_units
    from memhooks.truth.massive import massive_activations, outstanding_units
    from memhooks.truth.sinks import attention_sinks, coincidences, sink_heads

    massive = {name: massive_activations(one, rows) for name, (one, rows) in conditions.items()}
    sinks_of = {name: attention_sinks(one, rows) for name, (one, rows) in conditions.items()}
    label = {name: clusters(rows).numpy() for name, (_, rows) in conditions.items()}
    heads = sink_heads(sinks_of, seed=seed, clusters=label)
    without = {name: _without(*pair, counts, massive[name]) for name, pair in conditions.items()}
    sets = {name: rows for name, (_, rows) in conditions.items() if name != "twin"}
    loaded = conditions["memorized"][0]
    worth = {
        name: silence_heads(loaded, rows.sample(_N_WORTH, seed=seed))["nll_rise"]
        .transpose("paragraph", "layer", "head")
        .values.mean(0)
        .ravel()
        for name, rows in sets.items()
    }
    columns = {
        "sink": heads["memorized"].values,
        "rare tokens": without["memorized"]["nothing"]["spearman"].values.mean(0).ravel(),
        "rare tokens, distance out": without["memorized"]["nothing"]["partial_spearman"].values.mean(0).ravel(),
        "worth to memorized": worth["memorized"],
    }
    if "control" in worth:
        columns |= {
            "worth to control": worth["control"],
            "worth beyond control": worth["memorized"] - worth["control"],
        }
    others = {name: one for name, one in columns.items() if name != "sink"}
    found_pairs = coincidences(columns["sink"], others, layer=heads["layer"].values, seed=seed)
    pairs = [Row(pair=f"sink and {name}") | cell for name, cell in found_pairs.items()]
    mirrored = _without(*conditions["memorized"], counts, massive["memorized"], mirrored=True)
    rare = _rare_token_heads(conditions, counts, seed=seed)
    found = Found(massive, sinks_of, heads, without, columns, pairs, rare, label, mirrored)
    for site in SITES:
        units = outstanding_units(loaded, sets["memorized"], site=site, n=n_units)
        found.units[site] = [f"L{layer} unit {unit}" for layer, unit in units]
        if all(len(set(label[name].tolist())) > 1 for name in sets):  # one cluster has no other half
            found.held[site] = hold_units(loaded, sets, units, site=site, seed=seed)
    return found


def _without(
    model: "HookedModel", rows: "Paragraphs", counts: "Tensor", massive: "xr.Dataset", *, mirrored: bool = False
) -> "dict[str, xr.Dataset]":
    """The rare-token statistic with all keys, and without one of three, or without their mirror images."""
    import torch

    from memhooks.truth.rare_token_without import rare_token_without

    # Where the residual stream is largest, of the positions that can be keys.
    largest = massive["largest"].sel(site="resid_post").values
    place = massive["peak_pos"].sel(site="resid_post").isel(layer=int(largest.argmax())).values
    at = torch.from_numpy(place).clamp(max=rows.n_prefix - 1)
    drops = {"nothing": "nothing", "position 0": "first", "massive": at, "strongest": "strongest"}
    return {
        name: rare_token_without(model, rows, counts, drop=drop, mirrored=mirrored)
        for name, drop in drops.items()
        if name != "nothing" or not mirrored
    }


def _rare_token_heads(
    conditions: "dict[str, tuple[HookedModel, Paragraphs]]", counts: "Tensor", *, seed: int
) -> dict[str, list[str]]:
    """Rare-token heads of memorized text, and candidates for a memorization head, with and without position 0."""
    from memhooks.localize.attention import rare_token_attention
    from memhooks.localize.memorization_head import memorization_head
    from memhooks.localize.rare_token_heads import rare_token_heads
    from memhooks.paragraphs.splits import clusters

    verdicts = {}
    for name, skip in (("all keys", False), ("without position 0", True)):
        probed = {
            key: rare_token_attention(
                one, rows, counts, seed=seed, n_shuffles=_N_SHUFFLES, skip_first=skip, clusters=clusters(rows)
            )
            for key, (one, rows) in conditions.items()
        }
        label = clusters(conditions["memorized"][1])
        table = rare_token_heads(probed["memorized"], seed=seed, clusters=label)
        verdicts[name] = table["row"].values[table["is_rare_token_head"].values].tolist()
        if "control" in probed:
            own = {key: rows for key, (_, rows) in conditions.items() if key != "twin"}
            verdicts[f"candidates, {name}"] = list(memorization_head(probed, seed=seed, sets=own).candidates)
    return verdicts


def changes(found: "Found", seed: int) -> list[Row]:
    """By how much each head's rare-token correlation changes without a key, and without its mirror image (`null`).

    `p beyond null` is of their difference, a t test over clusters, times the number of heads.
    """
    import numpy as np

    from memhooks.measure.intervals import bootstrap_mean

    own, label, columns = found.without["memorized"], found.label["memorized"], {}
    for drop in DROPS:
        for short, name in (("", "spearman"), (", distance out", "partial_spearman")):
            change, null = (
                (one[drop][name] - own["nothing"][name]).values.reshape(len(label), -1) for one in (own, found.mirrored)
            )
            for words, values in (("change", change), ("null", null), ("beyond null", change - null)):
                ends = bootstrap_mean(values, seed=seed, clusters=label)
                columns[f"{words} without {drop}{short}"] = stacked(*ends)
            beyond = np.stack([(change - null)[label == one].mean(0) for one in np.unique(label)])
            columns[f"p beyond null without {drop}{short}"] = plain(_corrected_p(beyond))
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _corrected_p(values: "Float[np.ndarray, 'cluster head']") -> "np.ndarray":
    """Two-sided p of each head's mean, times the number of heads; 1 where nothing varies, NaN for one cluster."""
    import numpy as np
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return np.full(values.shape[1], np.nan)
    error = values.std(0, ddof=1) / np.sqrt(n)
    size = np.divide(np.abs(values.mean(0)), error, out=np.zeros(values.shape[1]), where=error > 0)
    return np.minimum(1.0, 2 * t.sf(size, n - 1) * values.shape[1])
