"""What does recitation lose where outstanding units are held at their mean, and is it memorized text that loses it?

1. Which mean decides. Text held at the mean of other text loses what tells the two kinds of text apart as well. So
   every set is held at the mean of every set; at its own, one half of it is held at the mean of the other half, and
   near-duplicates stay on one side.
2. The sets are contrasted three ways: each at its own mean, both at the first set's, both at the second's. Only what
   all three agree on is said of memorization.
3. Controls: as many random units, and as many whose spread over the text is nearest. Random units vary less, so that
   they lose less is no news.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from scipy.stats import t
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.measure.recitation import recitation
from memhooks.model.hooks import hooked
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel, HookPoint
from memhooks.model.provenance import model_hash
from memhooks.model.watched import Hook
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.progress import tracked
from memhooks.truth.activations_by_layer import HOOKS, Site, Unit, check_site, means_and_spreads, width_of

Means = list[Float[Tensor, " unit"]]
_Ends = tuple[float, float, float]
_NATS, _TOKENS = "nats per continuation token, 0 = none", "tokens of EM, 0 = none"


@torch.no_grad()
def hold_units(
    model: HookedModel,
    sets: Mapping[str, Paragraphs],
    units: Sequence[Unit],
    *,
    site: Site,
    seed: int,
    n_random: int = 5,
) -> dict[str, xr.Dataset]:
    """What each set loses where units are held at their mean over each set, beside random and matched units.

    Args:
        model: a hooked GPT-Neo.
        sets: paragraphs by name, such as memorized and control.
        units: of `outstanding_units`. In the residual stream they are held after every block.
        site: where.
        seed: of halves, of the random units (of the same layers) and of intervals.
        n_random: how many draws of random units, at least 2.

    Returns:
        `held`, over `row` (`memorized at control`: memorized text at the control's mean), each with `_low` and
        `_high`, ends of 95 % intervals: `nll_rise` (nats per continuation token, 0 = none), `em_drop` (tokens, 0 =
        none), each also `_random` (mean over the draws) and `_matched` (units of the nearest spread);
        `more_than_random` (NLL rise minus the random units', paired; the interval is that of one more draw) and
        `more_than_matched`.
        `contrast`, where there are two sets or more, over `row` (`own`, or the set whose mean both are held at):
        `nll_rise` of the first set minus that of the second, `more_than_matched` likewise, with their ends.
        Attributes of `held`: `spread`, `spread_matched` and `spread_random`, mean standard deviations of the units.

    Raises:
        InputError: no units or units that the model lacks, an unknown site, fewer than two draws, too few units to
            draw from, or a set whose paragraphs are all near-duplicates of each other, which has no other half.
    """
    _check_units(model, units, site, n_random)
    label = {name: clusters(rows).numpy() for name, rows in sets.items()}
    halves = {name: _half(one, name, seed=seed) for name, one in label.items()}
    _, spreads = means_and_spreads(model, next(iter(sets.values())), site)
    groups = [list(units), _matched(units, spreads), *_random_units(model, units, site, seed=seed, n=n_random)]
    clean = {name: _scores(model, rows) for name, rows in sets.items()}
    losses, cells = {}, {}
    for name, reference in tracked([(name, other) for name in sets for other in sets], "holding units"):
        if name == reference:
            lost = _at_the_other_half(model, sets[name], halves[name], groups, site)
        else:
            means, _ = means_and_spreads(model, sets[reference], site)
            lost = _all_held(model, sets[name], groups, site, means)
        row = f"{name} at {reference}"
        losses[name, reference] = lost - clean[name][..., None]  # [score paragraph group]
        cells[row] = _cell(losses[name, reference], label[name], seed=seed)
    spread = [float(np.mean([float(spreads[layer][unit]) for layer, unit in group])) for group in groups]
    about = {"model_hash": model_hash(model), "site": site, "units": [list(one) for one in units], "seed": seed}
    about |= {"matched": [list(one) for one in groups[1]], "spread": spread[0], "spread_matched": spread[1]}
    about |= {"spread_random": float(np.mean(spread[2:]))}
    found = {"held": labelled(about, **_columns(cells))}
    if len(sets) > 1:
        found["contrast"] = labelled(about, **_columns(_contrasts(losses, label, list(sets)[:2], seed=seed)))
    return found


def _half(label: Int[np.ndarray, " paragraph"], name: str, *, seed: int) -> np.ndarray:
    """Which paragraphs are in the first half; near-duplicates are on one side.

    Raises:
        InputError: all are near-duplicates of each other.
    """
    order = np.random.default_rng(seed).permutation(np.unique(label))
    if len(order) < 2:
        raise InputError(f"{name}: its paragraphs are one cluster of near-duplicates, so there is no other half")
    sizes = np.array([(label == one).sum() for one in order])
    return np.isin(label, order[(sizes.cumsum() - sizes / 2) < len(label) / 2])


def _scores(model: HookedModel, rows: Paragraphs) -> Float[np.ndarray, "score paragraph"]:
    """Mean NLL, and minus EM, so that both rise where something is lost."""
    found = recitation(model, rows)
    return np.stack([found["nll"].values.mean(1).astype(float), -found["exact_match"].values.astype(float)])


def _at_the_other_half(
    model: HookedModel, rows: Paragraphs, first: np.ndarray, groups: Sequence[Sequence[Unit]], site: Site
) -> Float[np.ndarray, "score paragraph group"]:
    found = np.zeros((2, len(rows), len(groups)))
    for half in (first, ~first):
        means, _ = means_and_spreads(model, rows.select(np.flatnonzero(~half)), site)
        found[:, half] = _all_held(model, rows.select(np.flatnonzero(half)), groups, site, means)
    return found


def _all_held(
    model: HookedModel, rows: Paragraphs, groups: Sequence[Sequence[Unit]], site: Site, means: Means
) -> Float[np.ndarray, "score paragraph group"]:
    return np.stack([_held(model, rows, group, site, means) for group in groups], axis=-1)


def _held(
    model: HookedModel, rows: Paragraphs, units: Sequence[Unit], site: Site, means: Means
) -> Float[np.ndarray, "score paragraph"]:
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
    with hooked(model, [(HOOKS[site].format(layer), holding(layer)) for layer in by_layer]):
        return _scores(model, rows)


def _cell(loss: Float[np.ndarray, "score paragraph group"], label: np.ndarray, *, seed: int) -> dict[str, _Ends]:
    def ends(values: np.ndarray) -> _Ends:
        mean, low, high = (float(one) for one in bootstrap_mean(values, seed=seed, clusters=label))
        return mean, low, high

    nll, em = loss
    cell = {}
    for name, one in (("nll_rise", nll), ("em_drop", em)):
        kinds = {"": one[:, 0], "_matched": one[:, 1], "_random": one[:, 2:].mean(1)}
        cell |= {name + kind: ends(values) for kind, values in kinds.items()}
    cell["more_than_matched"] = ends(nll[:, 0] - nll[:, 1])
    cell["more_than_random"] = _of_one_more_draw(ends(nll[:, 0] - nll[:, 2:].mean(1)), nll[:, 2:].mean(0))
    return cell


def _of_one_more_draw(ends: _Ends, draws: Float[np.ndarray, " draw"]) -> _Ends:
    """An interval over paragraphs, widened by how much draws of random units differ."""
    n, (mean, low, high) = len(draws), ends
    wider = float(t.ppf(0.975, n - 1) * np.sqrt(draws.var(ddof=1) * (1 + 1 / n)))
    return mean, mean - float(np.hypot(mean - low, wider)), mean + float(np.hypot(high - mean, wider))


def _contrasts(
    losses: Mapping[tuple[str, str], np.ndarray], label: Mapping[str, np.ndarray], names: Sequence[str], *, seed: int
) -> dict[str, dict[str, _Ends]]:
    one, two = names
    both, cells = (label[one], label[two]), {}
    for row, pair in {"own": (one, two), one: (one, one), two: (two, two)}.items():
        nll = [losses[name, reference][0] for name, reference in zip(names, pair, strict=True)]
        cells[row] = {}
        for column, (own, other) in {
            "nll_rise": (nll[0][:, 0], nll[1][:, 0]),
            "more_than_matched": (nll[0][:, 0] - nll[0][:, 1], nll[1][:, 0] - nll[1][:, 1]),
        }.items():
            mean, low, high = (float(end) for end in bootstrap_difference(own, other, seed=seed, clusters=both))
            cells[row][column] = (mean, low, high)
    return cells


def _columns(cells: Mapping[str, Mapping[str, _Ends]]) -> dict[str, Variable]:
    columns = {}
    for name in next(iter(cells.values())):
        unit = _TOKENS if name.startswith("em") else _NATS
        for end, values in zip(
            ("", "_low", "_high"), zip(*(one[name] for one in cells.values()), strict=True), strict=True
        ):
            columns[f"{name}{end}"] = Variable(np.array(values, float), ("row",), unit, {"row": list(cells)})
    return columns


def _matched(units: Sequence[Unit], spreads: Means) -> list[Unit]:
    """For each unit the one of its layer whose standard deviation is nearest, none of them twice."""
    taken, found = {unit for _, unit in units}, []
    for layer, unit in units:
        spread = spreads[layer].numpy()
        order = np.argsort(np.abs(spread - spread[unit]), kind="stable")
        found.append((layer, next(int(one) for one in order if int(one) not in taken)))
        taken.add(found[-1][1])
    return found


def _random_units(model: HookedModel, units: Sequence[Unit], site: Site, *, seed: int, n: int) -> list[list[Unit]]:
    generator, width = np.random.default_rng(seed), width_of(model, site)
    taken = {unit for _, unit in units}
    free = np.array([unit for unit in range(width) if unit not in taken])
    drawn = []
    for _ in range(n):
        chosen = generator.choice(free, len(units), replace=False)
        drawn.append([(layer, int(unit)) for (layer, _), unit in zip(units, chosen, strict=True)])
    return drawn


def check_n_units(model: HookedModel, n: int, site: str) -> None:
    """Refuse more units than leave as many for a control.

    Raises:
        InputError: as said.
    """
    width = width_of(model, site)
    if not 1 <= n <= width // 2:
        raise InputError(f"{n} of {width} units ({site}) leave too few for a random control; give 1 to {width // 2}")


def _check_units(model: HookedModel, units: Sequence[Unit], site: str, n_random: int) -> None:
    check_site(site)
    if n_random < 2:
        raise InputError(f"n_random must be at least 2, as draws differ, got {n_random}")
    width, n_layers = width_of(model, site), model.cfg.n_layers
    if not units or any(not (0 <= layer < n_layers and 0 <= unit < width) for layer, unit in units):
        raise InputError(f"units are (layer, unit) pairs in 0..{n_layers - 1} and 0..{width - 1}, got {list(units)}")
    check_n_units(model, len(units), site)
