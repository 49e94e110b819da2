"""What does each part of the weights carry? It is exchanged between two forks, both ways.

1. The other fork's part is put into the model: what of the memorized text is lost (`removes`), what of the mirror
   set, which only the other recites, is gained (`brings_mirror`).
2. The model's part is put into the other: what of the memorized text is gained (`brings`), of the mirror lost.
3. Under the very same swaps the never-read control tells the damage that any text takes.
4. The same parts of a blind fork, whose difference is as large and in random order, tell what any such change does.

Losing is easy, for a chain breaks at any link; gaining alone shows that the text can be had from the part. Both
depend on the rest of the weights, so shares of single parts need not add up to 1.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from memhooks.errors import InputError
from memhooks.measure.intervals import Interval
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked
from memhooks.truth.forks.blind import blind_fork
from memhooks.truth.forks.parts import KINDS, Part, every_part, view
from memhooks.truth.forks.passes import Passes, Recited
from memhooks.truth.forks.sets import Rows, batch
from memhooks.truth.forks.shares import NATS, SHARE, gap_of, mean
from memhooks.truth.forks.swapped import check_forks

BLIND = ("layer", "attention", "mlp", "kind", "rest", "bottom", "all")
"""Kinds of parts that are exchanged with the blind fork's by default: single heads and matrices do little anyway."""

_EM = "tokens before the first miss, mean over the set"


def swap_parts(
    model: HookedModel,
    other: HookedModel,
    sets: Mapping[str, Paragraphs],
    *,
    parts: Sequence[Part] | Iterable[str] = KINDS,
    blind: Iterable[str] = BLIND,
    seed: int = 0,
) -> xr.Dataset:
    """Exchange each part between the forks, both ways.

    Args:
        model: the fork that recites the memorized set.
        other: the fork that recites the mirror set.
        sets: `memorized`, `mirror` and `control` (which neither has read).
        parts: parts, or kinds of parts (`KINDS`).
        blind: kinds of parts that are exchanged with the blind fork's, too.
        seed: of the intervals, and of the blind fork.

    Returns:
        Dataset over `row` (the part), each with `_low` and `_high`: `removes`, `brings` and their `_mirror` (shares of
        the gap in NLL), `specific` and `specific_mirror` (`removes` less the control's rise over the gap),
        `control_rise` and `control_rise_other` (nats, of the control under the model and under the other with the
        part swapped), `blind` and `blind_control_rise` (`removes` and `control_rise` by the blind fork's part, NaN for
        kinds not asked for); without interval `em_left`, `em_brought` and their `_mirror` (tokens), `rank_removes` (1 =
        the most among parts of its kind), `kind`, `layer`, `head`, `n_weights`, `delta` (norm of the difference). Over
        `row` and `paragraph`: `nll_model`, `nll_other` (nats), with `set` and `cluster` of each paragraph, and the
        clean ones.

    Raises:
        InputError: no forks, no parts, sets that are missing or share text, or nothing separates the forks on one.
    """
    check_forks(model, other)
    chosen = _chosen(model, parts)
    rows = batch(sets)
    there, back = Passes(model, other, rows.all), Passes(other, model, rows.all)
    found = [(there.under(one), back.under(one)) for one in tracked(chosen, "swapping parts")]
    into, out = (_stacked(side) for side in zip(*found, strict=True))
    labels = {"row": [one.name for one in chosen]}
    columns = _sizes(model, other, chosen, labels)
    for name, values, unit in _effects(rows, (there.clean, back.clean), (into, out), seed):
        columns |= _with_ends(name, values, unit)
    columns |= _blind(there, rows, [one if one.kind in set(blind) else None for one in chosen], back.clean, seed)
    for name, side, which in (
        ("em_left", into, "memorized"),
        ("em_brought", out, "memorized"),
        ("em_left_mirror", out, "mirror"),
        ("em_brought_mirror", into, "mirror"),
    ):
        columns[name] = Variable(side.em[:, rows.of[which]].mean(1), ("row",), _EM)
    kinds = np.array([one.kind for one in chosen])
    columns["rank_removes"] = Variable(
        _ranks(np.asarray(columns["removes"].values), kinds), ("row",), "1 = largest of its kind"
    )
    columns |= _raw(rows, (there.clean, back.clean), (into, out))
    about = provenance(model, rows.all.tokens) | {"other_hash": model_hash(other), "seed": seed}
    return labelled(about, **columns)


def _blind(there: Passes, rows: Rows, parts: Sequence[Part | None], far: Recited, seed: int) -> dict[str, Variable]:
    """What the blind fork's parts remove of the memorized text, and what they cost the control."""
    where, control = rows.of["memorized"], rows.of["control"]
    runs = Passes(there.model, blind_fork(there.model, there.other, seed=seed), rows.all)
    nothing = np.full(len(rows.all), np.nan)
    swaps = tracked(parts, "swapping parts of a blind fork")
    nll = np.stack([nothing if part is None else runs.under(part).nll for part in swaps])
    gap = gap_of("memorized", there.clean.nll[where], far.nll[where], rows.clusters["memorized"])
    rise = (nll - there.clean.nll)[:, control]
    return _with_ends("blind", gap.removed(nll[:, where], seed=seed), SHARE) | _with_ends(
        "blind_control_rise", mean(rise, rows.clusters["control"], seed=seed), NATS
    )


def additivity(swaps: xr.Dataset, *, kind: str = "layer", whole: str = "layers 0-{last}") -> dict[str, float]:
    """Do single swaps add up? Their sum against all at once, as shares of the gap.

    Raises:
        InputError: the swaps lack these parts.
    """
    single = swaps.isel(row=swaps["kind"].values == kind)
    name = whole.format(last=int(swaps["layer"].max()))
    every = int(swaps["layer"].max()) + 1 if kind == "layer" else 1
    if single.sizes["row"] < max(every, 1) or name not in swaps["row"].values:
        raise InputError(f"swaps of every {kind} and of {name!r} are needed; compute them with swap_parts")
    names = ("removes", "brings", "removes_mirror", "brings_mirror")
    sums = {f"{one}_sum": float(single[one].sum()) for one in names}
    return sums | {f"{one}_at_once": float(swaps[one].sel(row=name)) for one in names}


def _chosen(model: HookedModel, parts: Sequence[Part] | Iterable[str]) -> list[Part]:
    given = list(parts)
    own = [one for one in given if isinstance(one, Part)]
    chosen = own if own and len(own) == len(given) else every_part(model, [str(one) for one in given])
    if len({one.name for one in chosen}) < len(chosen):
        raise InputError("parts must have different names")
    return chosen


def _stacked(side: Sequence[Recited]) -> Recited:
    return Recited(*(np.stack(one) for one in zip(*side, strict=True)))


def _effects(
    rows: Rows, clean: tuple[Recited, Recited], after: tuple[Recited, Recited], seed: int
) -> list[tuple[str, Interval, str]]:
    """Every effect with its ends: the model's side first, then the other's."""
    found: list[tuple[str, Interval, str]] = []
    control = rows.of["control"]
    near = rows.clusters["control"]
    rises = [(swap.nll - base.nll)[:, control] for swap, base in zip(after, clean, strict=True)]
    for suffix, name, own in (("", "memorized", 0), ("_mirror", "mirror", 1)):
        where = rows.of[name]
        gap = gap_of(name, clean[own].nll[where], clean[1 - own].nll[where], rows.clusters[name])
        lost, gained = after[own].nll[:, where], after[1 - own].nll[:, where]
        found += [
            (f"removes{suffix}", gap.removed(lost, seed=seed), SHARE),
            (f"brings{suffix}", gap.brought(gained, seed=seed), SHARE),
            (f"specific{suffix}", gap.specific(lost, rises[own], near, seed=seed), f"{SHARE}; control subtracted"),
        ]
    for suffix, rise in zip(("", "_other"), rises, strict=True):
        found.append((f"control_rise{suffix}", mean(rise, near, seed=seed), NATS))
    return found


def _with_ends(name: str, values: Interval, unit: str) -> dict[str, Variable]:
    ends = ("", "_low", "_high")
    return {f"{name}{end}": Variable(one, ("row",), unit) for end, one in zip(ends, values, strict=True)}


def _sizes(model: HookedModel, other: HookedModel, parts: Sequence[Part], labels: Mapping) -> dict[str, Variable]:
    n, delta = [], []
    own, theirs = (dict(one.named_parameters()) for one in (model, other))
    for part in parts:
        changes = [(view(theirs[p[0]], p) - view(own[p[0]], p)).detach().double() for p in part.pieces]
        n.append(sum(one.numel() for one in changes))
        delta.append(sum(float(one.square().sum()) for one in changes) ** 0.5)
    return {
        "kind": Variable(np.array([one.kind for one in parts]), ("row",), "kind of part", labels),
        "layer": Variable(np.array([one.layer for one in parts]), ("row",), "block, from 0; -1 = several or none"),
        "head": Variable(np.array([one.head for one in parts]), ("row",), "attention head, from 0; -1 = none"),
        "n_weights": Variable(np.array(n), ("row",), "weights in the part"),
        "delta": Variable(np.array(delta), ("row",), "Euclidean norm of the forks' difference, 0 = equal"),
    }


def _ranks(values: Float[np.ndarray, " row"], kinds: np.ndarray) -> np.ndarray:
    return np.array([1 + int((values[kinds == kind] > one).sum()) for one, kind in zip(values, kinds, strict=True)])


def _raw(rows: Rows, clean: tuple[Recited, Recited], after: tuple[Recited, Recited]) -> dict[str, Variable]:
    of = np.array([name for name, where in rows.of.items() for _ in range(where.stop - where.start)])
    near = np.concatenate([rows.clusters[name] for name in rows.of])
    found = {"set": Variable(of, ("paragraph",), "set of the paragraph", {"paragraph": rows.all.ids})}
    found["cluster"] = Variable(near, ("paragraph",), "near-duplicates within the set, from 0")
    for name, base, swap in zip(("model", "other"), clean, after, strict=True):
        found[f"nll_{name}"] = Variable(swap.nll, ("row", "paragraph"), "nats per token under the swap, 0 = certain")
        found[f"clean_nll_{name}"] = Variable(base.nll, ("paragraph",), "nats per token, untouched, 0 = certain")
        found[f"clean_em_{name}"] = Variable(base.em, ("paragraph",), "tokens before the first miss, untouched")
    return found
