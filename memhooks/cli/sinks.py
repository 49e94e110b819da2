"""`memhooks sinks`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.options import MODELS, Model
from memhooks.cli.sets import AnyRows, Control, Memorized, Seed, Twin, load_set, load_sets, load_twin, twin_name
from memhooks.cli.tables import Row, check_outputs, save_tree, sources

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from torch import Tensor

    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

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
    held: "dict[str, xr.Dataset]" = field(default_factory=dict)
    units: dict[str, list[str]] = field(default_factory=dict)


def sinks(
    paragraphs: Memorized = "A",
    control: Control = "C",
    model: Model = "organism",
    twin: Twin = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Paragraphs drawn from each set.")] = 64,
    n_units: Annotated[int, typer.Option(min=1, help="Outstanding units that are held at their mean, per site.")] = 5,
    seed: Seed = 0,
    any_rows: AnyRows = False,
    figure: Annotated[Path | None, typer.Option(help="Write the figures to this .html file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the labelled results to this .nc file, a tree.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Massive activations and attention sinks: are there any, and do they pass for memorization?

    A massive activation is a hidden unit with a magnitude above 100 and at least 1,000 times the median of its layer
    (Sun et al., 2024). The largest are named in any case. The units that stand out most are held at their mean over
    control text, in all positions: what do memorized text and the control lose, beside as many random units?

    A sink is a token without meaning, mostly the first, on which heads put attention that they have no use for. A
    sink head here puts more than 0.3 of it on position 0 (the whole interval), over the prefix positions that see it.
    Uniform attention puts some there, too, and stands beside it; local layers see position 0 from the first few
    positions alone, so theirs is no attention from afar.

    Does this confound what is said of memorization heads? Each head's sink strength is correlated, over heads, with
    its rare-token correlation and with what recitation loses without it. And the rare-token statistic is computed
    without position 0, without the position of the largest activation, and without each head's own strongest key.

    Controls: text that the model does not recite, the twin, uniform attention, random units, permuted heads (within
    their layer, too: heads of a layer are alike).

    Examples: `memhooks sinks --figure sinks.html`;
    `memhooks sinks --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --n 100`
    """
    other = twin_name(twin, model, paragraphs)
    check_outputs({".html": [figure], ".nc": [out]})

    from memhooks.cli.sinks_shown import as_tables, draw, print_tables

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=any_rows)
    conditions = {name: (loaded, rows) for name, rows in sets.items()}
    if other is not None:
        conditions["twin"] = (load_twin(other, loaded, sets["memorized"]), sets["memorized"])
    whole = [load_set(loaded, name) for name in (paragraphs, control) if name != "none"]
    found = _measured(conditions, _counts(model, loaded, whole), n_units=n_units, seed=seed)
    names = {"memorized": paragraphs, "control": control}
    about = sources(model, names, sets) + (f"; twin: {other}" if other else "")
    groups = {"heads": found.heads} | {f"{name}/massive": one for name, one in found.massive.items()}
    groups |= {f"{name}/sinks": one for name, one in found.sinks.items()}
    groups |= {f"{name}/without_{drop}": one for name, each in found.without.items() for drop, one in each.items()}
    save_tree(out, groups | {f"held/{site}": one for site, one in found.held.items()})
    tables = as_tables(found, loaded, seed=seed)
    draw(figure, about, found)
    if as_json:
        sys.stdout.write(json.dumps(tables) + "\n")
    else:
        print_tables(about, tables)


def _counts(model: str, loaded: "HookedModel", sets: "list[Paragraphs]") -> "Tensor":
    from memhooks.organism.paragraphs import load_unigram_counts
    from memhooks.paragraphs.counts import unigram_counts

    if model in MODELS:
        return load_unigram_counts(loaded.cfg.d_vocab)
    return unigram_counts([rows.tokens for rows in sets], d_vocab=loaded.cfg.d_vocab)


def _measured(
    conditions: "dict[str, tuple[HookedModel, Paragraphs]]", counts: "Tensor", *, n_units: int, seed: int
) -> Found:
    from memhooks.localize.each_part import silence_heads
    from memhooks.paragraphs.splits import clusters
    from memhooks.truth.massive import SITES, hold_units, massive_activations, outstanding_units
    from memhooks.truth.sinks import attention_sinks, coincidence, sink_heads

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
    pairs = [
        Row(pair=f"sink and {name}")
        | coincidence(columns["sink"], one, layer=heads["layer"].values, seed=seed)
        | Row(n=len(one))
        for name, one in columns.items()
        if name != "sink"
    ]
    found = Found(massive, sinks_of, heads, without, columns, pairs, _rare_token_heads(conditions, counts, seed=seed))
    reference = sets.get("control", sets["memorized"])
    for site in SITES:
        units = outstanding_units(loaded, sets["memorized"], site=site, n=n_units)
        found.held[site] = hold_units(loaded, sets, units, site=site, reference=reference, seed=seed)
        found.units[site] = [f"L{layer} unit {unit}" for layer, unit in units]
    return found


def _without(
    model: "HookedModel", rows: "Paragraphs", counts: "Tensor", massive: "xr.Dataset"
) -> "dict[str, xr.Dataset]":
    """The rare-token statistic with all keys, and without one of three."""
    import torch

    from memhooks.truth.rare_token_without import rare_token_without

    # Where the residual stream is largest, of the positions that can be keys.
    largest = massive["largest"].sel(site="resid_post").values
    place = massive["peak_pos"].sel(site="resid_post").isel(layer=int(largest.argmax())).values
    at = torch.from_numpy(place).clamp(max=rows.n_prefix - 1)
    drops = {"nothing": "nothing", "position 0": "first", "massive": at, "strongest": "strongest"}
    return {name: rare_token_without(model, rows, counts, drop=drop) for name, drop in drops.items()}


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
