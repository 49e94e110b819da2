"""What is each part alone worth to recitation? Heads, layers, neurons or attention edges, one at a time.

1. Per group of paragraphs one clean run is kept.
2. A part's activation is replaced at all positions, carried through the rest of its layer,
   and replayed from the layer above; parts of a layer are rows of one batch.

A part matters for recitation only if its loss hurts memorized text more than other text:
measure a control and held-out text the same way, and see `specificity`.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Literal, Unpack, get_args

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.patch_grid import hook_name
from memhooks.measure.damage import damage
from memhooks.model.ablated import cycle
from memhooks.model.checks import Rows, check_batch_size, check_tokens, tokens_of
from memhooks.model.labelled import labelled
from memhooks.model.loading import HookedModel
from memhooks.model.means import ActivationMeans
from memhooks.model.parts import Kind, Parts, checked
from memhooks.model.provenance import provenance, tensor_hash
from memhooks.model.replay.batches import Batches, batches
from memhooks.model.replay.clean_run import CleanRun, Site, activation, clean_run
from memhooks.model.replay.edits import Cells
from memhooks.model.replay.scoring import Outcome, joined
from memhooks.model.replay.sweep import Put, from_run, from_values, sweep
from memhooks.model.replay.work import TOGETHER, Work
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

How = Literal["zero", "mean", "resample"]
Place = tuple[Kind, tuple[int, ...]]
"""A part: its kind, and its numbers from the layer on."""

_SITES: dict[Kind, Site] = {
    "heads": "z",
    "neurons": "mlp_post",
    "edges": "pattern",
    "mlp_layers": "mlp_out",
    "attention_layers": "attn_out",
}
_NAMES: dict[Kind, str] = {
    "heads": "L{}H{}",
    "neurons": "L{} neuron {}",
    "edges": "L{}H{} query {} key {}",
    "mlp_layers": "MLP {}",
    "attention_layers": "attention {}",
}


def ablate_each(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    how: How = "zero",
    means: ActivationMeans | None = None,
    source: Rows | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    **parts: Unpack[Parts],
) -> xr.Dataset:
    """What the loss of each part alone costs the continuation.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: memorized ones, or a control.
        how: put zero in place of what the part does, its mean over other texts, or what it does on another text.
        means: of `activation_means`, for `how="mean"`.
        source: other paragraphs (or rows of tokens) of the same length, for `how="resample"`; the n-th paragraph
            meets one source row, the same one for all parts and never the n-th, as in `ablated`.
        seed: of the order of the source rows.
        batch_size: rows per pass; by default what fits into free memory.
        **parts: any of `heads=[(layer, head)]`, `mlp_layers=[layer]`, `attention_layers=[layer]`,
            `neurons=[(layer, neuron)]`, `edges=[(layer, head, query position, key position)]`;
            `every_head(model)` and `every_layer(model)` name them all.

    Returns:
        Dataset over `paragraph` and `row` (the part, such as L0H5 or MLP 3): `nll_rise` (nats per token), `em_drop`
        and `match_drop` (tokens); over `paragraph` the untouched `nll` and `exact_match`.

    Raises:
        InputError: no parts or parts the model lacks, paragraphs it cannot read, hooks on it, or what `how` needs
            is missing or does not fit.
    """
    paragraphs.check(model)
    refuse_hooks(model)
    check_batch_size(batch_size)
    others = _check(model, paragraphs, how, means, source)
    order = None if others is None else cycle(len(others), seed)
    found = checked(model, parts)
    places: list[Place] = [(kind, place) for kind, listed in found.items() for place in listed]
    _check_lengths(paragraphs, places)
    clean, after, work, limit = [], [], Work(), None
    for begin in tracked(range(0, len(paragraphs), TOGETHER), "ablating"):
        tokens = paragraphs.tokens[begin : begin + TOGETHER]
        run, other = clean_run(model, tokens, first=paragraphs.n_prefix), None
        if others is not None and order is not None:
            met = order[(begin + torch.arange(len(tokens))) % len(order)]
            other = clean_run(model, others[met], first=paragraphs.n_prefix)
        clean.append(run.outcome.on_cpu())
        limit = limit or batches(run, batch_size)
        after.append(_ablated(run, places, _filler(run, other, means), limit, work))
    labels = {"paragraph": paragraphs.ids, "row": [_NAMES[kind].format(*place) for kind, place in places]}
    about = provenance(model, paragraphs.tokens) | {
        "how": how,
        "means_hash": "" if means is None else means.tokens_hash,
        "source_hash": "" if others is None else tensor_hash(others),
        "seed": seed,
        "parts": {kind: [list(place) for place in listed] for kind, listed in found.items()},
    }
    return labelled(about | work.about(), **damage(joined(clean), joined(after), tuple(labels), labels))


def silence_heads(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    how: How = "zero",
    means: ActivationMeans | None = None,
    source: Rows | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> xr.Dataset:
    """What each head alone is worth: `ablate_each` for all heads, over `paragraph`, `layer` and `head`.

    Raises:
        InputError: as `ablate_each`.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> rows = memhooks.load_planted("A", at_least=128).select(slice(0, 1))
        >>> worth = memhooks.silence_heads(model, rows)["nll_rise"].mean("paragraph")
        >>> dict(worth.sizes)
        {'layer': 8, 'head': 8}
        >>> {axis: int(place) for axis, place in worth.argmax(...).items()}
        {'layer': 0, 'head': 5}
    """
    heads = every_head(model)
    found = ablate_each(
        model, paragraphs, how=how, means=means, source=source, seed=seed, batch_size=batch_size, heads=heads
    )
    names = ("layer", "head")
    layers, number = range(model.cfg.n_layers), range(model.cfg.n_heads)
    by_place = found.drop_vars("row").assign_coords(
        {name: ("row", [head[axis] for head in heads]) for axis, name in enumerate(names)}
    )
    return by_place.set_index(row=list(names)).unstack("row").reindex({"layer": list(layers), "head": list(number)})


def every_head(model: HookedModel) -> list[tuple[int, int]]:
    """All (layer, head) of a model, in order."""
    return [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]


def every_layer(model: HookedModel) -> Parts:
    """All MLP and all attention layers: `ablate_each(model, rows, **every_layer(model))`."""
    layers = list(range(model.cfg.n_layers))
    return {"attention_layers": layers, "mlp_layers": layers}


Filler = Callable[[Kind, Site, int], Put]


def _ablated(run: CleanRun, places: list[Place], fill: Filler, limit: Batches, work: Work) -> Outcome:
    """Every part in every paragraph, paragraph by paragraph."""
    n, device = len(run.tokens), run.device
    by_site: dict[tuple[Kind, int], list[int]] = defaultdict(list)
    for number, (kind, place) in enumerate(places):
        by_site[kind, place[0]].append(number)
    found, where = [], []
    for (kind, layer), numbers in by_site.items():
        rest = [places[number][1][1:] for number in numbers]
        inside = torch.tensor(rest, dtype=torch.long, device=device).reshape(len(numbers), -1)
        row = torch.arange(n, device=device).repeat_interleave(len(numbers))
        cells = _cells(kind, row, inside.repeat(n, 1))
        site = _SITES[kind]
        one = sweep(run, (site, layer), cells, fill(kind, site, layer), batches=limit, work=work)
        found.append(one.on_cpu())
        where.append((row.cpu()[:, None] * len(places) + torch.tensor(numbers).repeat(n)[:, None])[:, 0])
    return joined(found).select(torch.cat(where).argsort())


def _cells(kind: Kind, row: Int[Tensor, " row"], inside: Int[Tensor, "row number"]) -> Cells:
    start = torch.zeros_like(row)
    if kind == "edges":
        return Cells(row, inside[:, 1], inside[:, 0], inside[:, 2])
    return Cells(row, start, inside[:, 0]) if inside.shape[1] else Cells(row, start)


def _filler(run: CleanRun, other: CleanRun | None, means: ActivationMeans | None) -> Filler:
    def fill(kind: Kind, site: Site, layer: int) -> Put:
        span = 1 if kind == "edges" else run.tokens.shape[1]
        if other is not None:
            return from_run(other, site, layer, span=span)
        like = activation(run, site, layer)[:1]
        values = torch.zeros_like(like) if means is None else means.at(hook_name(site, layer), like)
        return from_values(values, site, span=span)

    return fill


def _check(
    model: HookedModel, paragraphs: Paragraphs, how: str, means: ActivationMeans | None, source: Rows | None
) -> Int[Tensor, "source pos"] | None:
    """The source's rows, if it has a part in this.

    Raises:
        InputError: as `ablate_each`.
    """
    if how not in get_args(How):
        raise InputError(f"how must be one of {', '.join(get_args(How))}, got {how!r}")
    if (how == "mean") != (means is not None):
        raise InputError('means= goes with how="mean", and how="mean" needs means=activation_means(model, rows)')
    if (how == "resample") != (source is not None):
        raise InputError('source= goes with how="resample", and how="resample" needs source=, rows of other texts')
    if means is not None:
        means.check_model(model)
    if source is None:
        return None
    rows = tokens_of(source)
    check_tokens(model, rows)
    if len(rows) < 2 or rows.shape[1] != paragraphs.tokens.shape[1]:
        raise InputError(
            f"source needs at least 2 rows of {paragraphs.tokens.shape[1]} tokens, got shape {tuple(rows.shape)}"
        )
    return rows


def _check_lengths(paragraphs: Paragraphs, places: list[Place]) -> None:
    for kind, place in places:
        if kind == "edges" and place[2] >= paragraphs.tokens.shape[1]:
            length = paragraphs.tokens.shape[1]
            raise InputError(f"the paragraphs have {length} tokens, too short for an edge from query {place[2]}")
