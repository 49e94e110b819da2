"""Are there massive activations, hidden units of outsized magnitude, and does recitation need them?

Sun et al. (2024, arXiv:2402.17762) call an activation massive if its magnitude is above 100 and at least 1,000 times
the median magnitude of its layer. Small models may have none; so the largest ones are named in any case.

1. One pass records the residual stream after every block, and the MLPs' hidden units.
2. Each layer's largest magnitude is set beside its median, with unit, position and token.
3. The units that stand out most are held at their mean over other text; as many random units are the control.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.measure.recitation import recitation
from memhooks.model.checks import check_batch_size
from memhooks.model.hooks import hooked, recorded
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel, HookPoint
from memhooks.model.provenance import model_hash, provenance
from memhooks.model.watched import Hook
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.progress import tracked

Site = Literal["resid_post", "post"]
Unit = tuple[int, int]
"""Layer and unit."""

SITES: tuple[Site, ...] = get_args(Site)
LEAST_MAGNITUDE, LEAST_RATIO = 100.0, 1000.0
_HOOKS = {"resid_post": "blocks.{}.hook_resid_post", "post": "blocks.{}.mlp.hook_post"}


@torch.no_grad()
def massive_activations(model: HookedModel, paragraphs: Paragraphs, *, batch_size: int = 32) -> xr.Dataset:
    """The largest magnitude of each layer, beside the median.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: whole paragraphs are read.
        batch_size: rows per pass.

    Returns:
        Dataset over `layer` and `site` (`resid_post`: the residual stream after the block; `post`: the MLP's hidden
        units): `largest` magnitude with its `unit`, `pos` in the paragraph, `token` (id) and `row` (number of the
        paragraph); `median` magnitude of all units, positions and paragraphs; `ratio` of the two; `n_massive` units
        that are massive somewhere; `share_first`, the share of paragraphs whose largest magnitude is at position 0.
        Over `paragraph`, `layer`, `site`: `peak_pos`, the position of the paragraph's own largest magnitude.

    Raises:
        InputError: a batch size below one, or paragraphs that the model cannot read.
    """
    paragraphs.check(model)
    check_batch_size(batch_size)
    n_layers = model.cfg.n_layers
    cells = {name: np.zeros((n_layers, len(SITES))) for name in ("largest", "median", "ratio", "share_first")}
    whole = {name: np.zeros((n_layers, len(SITES)), dtype=np.int64) for name in ("unit", "at", "token", "in", "n")}
    peaks = np.zeros((len(paragraphs), n_layers, len(SITES)), dtype=np.int64)
    for place, site in enumerate(SITES):  # one at a time: a median needs all values at once
        for layer, values in enumerate(_magnitudes(model, paragraphs, site, batch_size)):
            row, pos, unit = (int(one) for one in np.unravel_index(int(values.argmax()), values.shape))
            largest, median = float(values.max()), float(values.flatten().median())
            massive = (values > LEAST_MAGNITUDE) & (values >= LEAST_RATIO * median)
            peaks[:, layer, place] = values.amax(2).argmax(1).numpy()
            at = (layer, place)
            cells["largest"][at], cells["median"][at] = largest, median
            cells["ratio"][at] = largest / median if median else np.inf
            cells["share_first"][at] = (peaks[:, layer, place] == 0).mean()
            whole["unit"][at], whole["at"][at], whole["in"][at] = unit, pos, row
            whole["token"][at], whole["n"][at] = int(paragraphs.tokens[row, pos]), int(massive.any(0).any(0).sum())
    axes = ("layer", "site")
    labels = {"layer": range(n_layers), "site": SITES}
    return labelled(
        provenance(model, paragraphs.tokens) | {"least_magnitude": LEAST_MAGNITUDE, "least_ratio": LEAST_RATIO},
        largest=Variable(cells["largest"], axes, "magnitude, 0 = none", labels),
        median=Variable(cells["median"], axes, "magnitude, 0 = most units are off"),
        ratio=Variable(cells["ratio"], axes, "largest over median, 1 = all alike"),
        share_first=Variable(cells["share_first"], axes, "share of paragraphs, 0 = never at position 0"),
        unit=Variable(whole["unit"], axes, "unit, from 0"),
        at_pos=Variable(whole["at"], axes, "position in the paragraph, from 0"),
        token=Variable(whole["token"], axes, "token id"),
        in_row=Variable(whole["in"], axes, "number of the paragraph, from 0"),
        n_massive=Variable(whole["n"], axes, "units, 0 = no massive activation"),
        peak_pos=Variable(peaks, ("paragraph", *axes), "position, from 0", {"paragraph": paragraphs.ids}),
    )


@torch.no_grad()
def outstanding_units(
    model: HookedModel, paragraphs: Paragraphs, *, site: Site, n: int, batch_size: int = 32
) -> list[Unit]:
    """The `n` units whose largest magnitude stands out most from their layer's median, the most outstanding first.

    In the residual stream a unit is the same in all layers, so each is named once, in the layer where it stands out
    most; `hold_units` holds it in all.

    Raises:
        InputError: an unknown site, or not so many units.
    """
    if site not in SITES:
        raise InputError(f"site must be one of {', '.join(SITES)}, got {site!r}")
    ratios = []
    for values in _magnitudes(model, paragraphs, site, batch_size):
        ratios.append(values.amax((0, 1)) / values.flatten().median().clamp_min(1e-12))
    table = torch.stack(ratios)
    if site == "resid_post":
        best, layer = table.max(0)
        table = torch.zeros_like(table).index_put((layer, torch.arange(table.shape[1])), best)
    limit = table.shape[1] if site == "resid_post" else table.numel()
    if not 1 <= n <= limit:
        raise InputError(f"n must lie in 1..{limit} (units of {site}), got {n}")
    order = table.flatten().argsort(descending=True, stable=True)[:n]
    return [(int(one) // table.shape[1], int(one) % table.shape[1]) for one in order]


def hold_units(
    model: HookedModel,
    sets: Mapping[str, Paragraphs],
    units: Sequence[Unit],
    *,
    site: Site,
    reference: Paragraphs,
    seed: int,
    n_random: int = 5,
) -> xr.Dataset:
    """What each set loses where units are held at their mean over other text, beside as many random units.

    Args:
        model: a hooked GPT-Neo.
        sets: paragraphs by name, such as memorized and never-seen ones.
        units: of `outstanding_units`. In the residual stream they are held after every block.
        site: where.
        reference: the texts (and positions) over which the mean is taken; none of those measured, best.
        seed: of the random units (of the same layers) and of intervals.
        n_random: how many draws of random units.

    Returns:
        Dataset over `row` (the set), each with `_low` and `_high`, ends of 95 % intervals: `nll_rise` (nats per
        continuation token, 0 = none), `em_drop` (tokens, 0 = none), `nll_rise_random` and `em_drop_random` (means over
        the draws), `more_than_random` (NLL rise minus the random units', paired); and `more_than_first`: NLL rise of
        this set minus that of the first (NaN for itself).

    Raises:
        InputError: no units or units that the model lacks, an unknown site, no draws, or too few units to draw from.
    """
    _check_units(model, units, site, n_random)
    means = _means_of(model, reference, site)
    others = _random_units(model, units, site, seed=seed, n=n_random)
    rises, drops, label = {}, {}, {}
    for name, rows in sets.items():
        clean = recitation(model, rows)
        after = [_held(model, rows, some, site, means) for some in tracked([list(units), *others], "holding units")]
        rises[name] = np.stack([one["nll"].values.mean(1) - clean["nll"].values.mean(1) for one in after], axis=1)
        drops[name] = np.stack([clean["exact_match"].values - one["exact_match"].values for one in after], axis=1)
        label[name] = clusters(rows).numpy()
    first, cells = next(iter(sets)), []
    for name in sets:
        rise, drop, draw = rises[name], drops[name], {"seed": seed, "clusters": label[name]}
        both = (label[name], label[first])
        cells.append(
            {
                "nll_rise": bootstrap_mean(rise[:, 0], **draw),
                "em_drop": bootstrap_mean(drop[:, 0], **draw),
                "nll_rise_random": bootstrap_mean(rise[:, 1:].mean(1), **draw),
                "em_drop_random": bootstrap_mean(drop[:, 1:].mean(1), **draw),
                "more_than_random": bootstrap_mean(rise[:, 0] - rise[:, 1:].mean(1), **draw),
                "more_than_first": (np.nan,) * 3
                if name == first
                else bootstrap_difference(rise[:, 0], rises[first][:, 0], seed=seed, clusters=both),
            }
        )
    columns = {}
    for name in cells[0]:
        unit = "tokens of EM, 0 = none" if name.startswith("em") else "nats per continuation token, 0 = none"
        for end, values in zip(("", "_low", "_high"), zip(*(cell[name] for cell in cells), strict=True), strict=True):
            columns[f"{name}{end}"] = Variable(np.array(values, float), ("row",), unit, {"row": list(sets)})
    about = {"model_hash": model_hash(model), "site": site, "units": [list(one) for one in units], "seed": seed}
    return labelled(about, **columns)


def _held(
    model: HookedModel, rows: Paragraphs, units: Sequence[Unit], site: Site, means: list[Float[Tensor, " unit"]]
) -> xr.Dataset:
    by_layer: dict[int, list[int]] = {}
    for layer, unit in units:
        for one in range(model.cfg.n_layers) if site == "resid_post" else (layer,):
            by_layer.setdefault(one, []).append(unit)

    def holding(layer: int) -> Hook:
        def hold(activation: Tensor, hook: HookPoint) -> Tensor:
            held = activation.clone()
            held[..., by_layer[layer]] = means[layer][by_layer[layer]].to(activation)
            return held

        return hold

    # The scores come from the last block's output on, so no pass may stop before the hooks have run.
    with hooked(model, [(_HOOKS[site].format(layer), holding(layer)) for layer in by_layer]):
        return recitation(model, rows)


def _random_units(model: HookedModel, units: Sequence[Unit], site: Site, *, seed: int, n: int) -> list[list[Unit]]:
    generator, width = np.random.default_rng(seed), _width(model, site)
    taken, drawn = {unit for _, unit in units}, []
    free = np.array([unit for unit in range(width) if unit not in taken])
    if len(free) < len(units):
        raise InputError(f"{len(units)} of {width} units leave too few for a random control; give fewer")
    for _ in range(n):
        chosen = generator.choice(free, len(units), replace=False)
        drawn.append([(layer, int(unit)) for (layer, _), unit in zip(units, chosen, strict=True)])
    return drawn


def _check_units(model: HookedModel, units: Sequence[Unit], site: str, n_random: int) -> None:
    if site not in SITES:
        raise InputError(f"site must be one of {', '.join(SITES)}, got {site!r}")
    if n_random < 1:
        raise InputError(f"n_random must be at least 1, got {n_random}")
    width, n_layers = _width(model, site), model.cfg.n_layers
    if not units or any(not (0 <= layer < n_layers and 0 <= unit < width) for layer, unit in units):
        raise InputError(f"units are (layer, unit) pairs in 0..{n_layers - 1} and 0..{width - 1}, got {list(units)}")


def _width(model: HookedModel, site: str) -> int:
    return model.cfg.d_model if site == "resid_post" else int(model.cfg.d_mlp or 0)


@torch.no_grad()
def _means_of(model: HookedModel, rows: Paragraphs, site: Site) -> list[Float[Tensor, " unit"]]:
    names = [_HOOKS[site].format(layer) for layer in range(model.cfg.n_layers)]
    with recorded(model, names) as store:
        model(rows.tokens.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
    return [store[name].float().mean((0, 1)).cpu() for name in names]


def _magnitudes(
    model: HookedModel, rows: Paragraphs, site: Site, batch_size: int
) -> list[Float[Tensor, "paragraph pos unit"]]:
    names = [_HOOKS[site].format(layer) for layer in range(model.cfg.n_layers)]
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for batch in tracked(rows.tokens.split(batch_size), "activations"):
        with recorded(model, names) as store:
            model(batch.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
        for name in names:
            found[name].append(store[name].float().abs().cpu())
    return [torch.cat(one) for one in found.values()]
