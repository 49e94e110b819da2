"""Replayed sweeps against the loops that every toolkit runs, one function per sweep, on any device.

Each runs the peer first, before memhooks has laid out the weights anew, and memhooks after it
in the same process, on the same rows and cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.floor import Cost, measured
from benchmarks.outcome import Outcome, Peer
from benchmarks.setting import N_PREFIX, Setting, one_token_differs
from memhooks.localize.each_part import ablate_each
from memhooks.localize.patching import patch
from memhooks.model.replay.batches import batches
from memhooks.model.replay.clean_run import Site, clean_run
from memhooks.model.replay.edits import Cells
from memhooks.model.replay.sweep import from_run, sweep
from memhooks.model.replay.work import Work
from memhooks.paragraphs.paragraphs import Paragraphs


def residual(at: Setting, *, whole: bool) -> Outcome:
    """The clean stream put into the corrupted run, at every layer and prefix position."""
    clean, corrupted = pair(at, whole=whole)
    cells = all_cells(range(at.model.cfg.n_layers), range(N_PREFIX))
    theirs, values, sample = loop(at, clean, corrupted, cells, "resid_pre")
    work = Work()
    found, ours = measured(lambda: swept(at, clean, corrupted, "resid_pre", cells, work), at.device)
    rate = at.rate()
    return Outcome(
        f"resid_pre, {len(cells)} cells, {'whole prefix differs' if whole else 'token 25 differs'}",
        at.name,
        ours,
        "all",
        rate,
        work.floor_flops / rate,
        [replace(theirs, aim=4.0 if whole else 8.0)],
        nats(found[sample.index.tolist()], values),
    )


def residual_result(at: Setting) -> Outcome:
    """The same by `patch`, whose result also has EM changes and KL."""
    clean, corrupted = pair(at, whole=True)
    cells = all_cells(range(at.model.cfg.n_layers), range(N_PREFIX))
    theirs, values, sample = loop(at, clean, corrupted, cells, "resid_pre")
    one = Paragraphs(clean, N_PREFIX)
    found, ours = measured(lambda: patch(at.model, one, corrupted, sites=("resid_pre",)), at.device)
    rate = at.rate()
    nll = torch.from_numpy((found["nll_change"] + found["other_nll"]).values).flatten()
    return Outcome(
        f"resid_pre by patch(), with EM and KL, {len(cells)} cells, whole prefix differs",
        at.name,
        ours,
        "all",
        rate,
        found.attrs["flops_floor"] / rate,
        [replace(theirs, name=f"{theirs.name}, NLL alone")],
        nats(nll[sample.index.tolist()], values),
    )


def heads(at: Setting) -> Outcome:
    """One head's z at one position, for all heads and prefix positions."""
    clean, corrupted = pair(at, whole=True)
    cfg, size = at.model.cfg, at.size
    total = cfg.n_layers * N_PREFIX * cfg.n_heads
    layers, numbers = at.every(cfg.n_layers, size.every_layer), at.every(cfg.n_heads, size.every_head)
    cells = all_cells(layers, range(N_PREFIX), numbers)
    theirs, values, sample = loop(at, clean, corrupted, cells, "z")
    work = Work()
    found, ours = measured(lambda: swept(at, clean, corrupted, "z", cells, work), at.device)
    scale, rate = total / len(cells), at.rate()
    return Outcome(
        f"z by head and position, {total} cells, whole prefix differs",
        at.name,
        scaled(ours, scale),
        "all" if scale == 1 else f"layers {','.join(map(str, layers))}, one head in {size.every_head}",
        rate,
        work.floor_flops * scale / rate,
        [replace(theirs, cost=scaled(theirs.cost, scale), aim=4.0)],
        nats(found[sample.index.tolist()], values),
    )


def ablation(at: Setting) -> Outcome:
    """Every head alone to zero, over 50 paragraphs."""
    cfg, size, n_all = at.model.cfg, at.size, 50
    some = at.recited.select(slice(0, size.n_ablated))
    layers = at.every(cfg.n_layers, size.every_layer)
    parts = [(layer, head) for layer in layers for head in range(cfg.n_heads)]
    chosen = pd.Series(range(len(parts))).sample(min(len(parts), 12), random_state=0).tolist()
    looped = [parts[number] for number in chosen]
    (plain, values), (sparing, _) = (zeroing(at, some, looped, n_all, sparing=sparing) for sparing in (False, True))
    found, ours = measured(lambda: ablate_each(at.model, some, heads=parts), at.device)
    n_heads = cfg.n_layers * cfg.n_heads
    scale, rate = n_all / len(some) * n_heads / len(parts), at.rate()
    nll = torch.from_numpy((found["nll"] + found["nll_rise"]).transpose("paragraph", "row").values)
    return Outcome(
        f"{n_heads} heads to zero, {n_all} paragraphs",
        at.name,
        scaled(ours, scale),
        f"{len(some)} paragraphs, {len(parts)} heads",
        rate,
        found.attrs["flops_floor"] * scale / rate,
        [replace(plain, aim=3.0), sparing],
        nats(nll[:, chosen], values),
    )


def zeroing(
    at: Setting, some: Paragraphs, heads: list[tuple[int, int]], n_all: int, *, sparing: bool
) -> tuple[Peer, Tensor]:
    """TransformerLens's full passes with a hook, scaled to all heads and paragraphs, and their values."""
    tokens, n_heads = some.tokens.to(at.device), at.model.cfg.n_layers * at.model.cfg.n_heads
    values, cost = measured(
        lambda: peers.zeroed_heads(at.model, tokens, heads, first=N_PREFIX, sparing=sparing), at.device
    )
    scale = n_all / len(some) * n_heads / len(heads)
    name = "TransformerLens, a hook per head" + (", log-softmax of the continuation alone" if sparing else "")
    return Peer(name, scaled(cost, scale), f"{len(some)} paragraphs, {len(heads)} heads", None), values


def pair(at: Setting, *, whole: bool) -> tuple[Tensor, Tensor]:
    """A row, and the same continuation after a prefix that differs everywhere or in one token."""
    clean = at.recited.select(slice(0, 1))
    other = at.control.select(slice(0, 1)) if whole else one_token_differs(clean, at.model)
    corrupted = torch.cat([other.prefix, clean.continuation], dim=1)
    return clean.tokens.to(at.device), corrupted.to(at.device)


def all_cells(layers: Sequence[int], positions: Sequence[int], heads: Sequence[int] | None = None) -> pd.DataFrame:
    """For `index_df`: layer and position, and head where there are heads."""
    if heads is None:
        return pd.DataFrame([(layer, pos) for layer in layers for pos in positions], columns=["layer", "pos"])
    places = [(layer, pos, head) for layer in layers for pos in positions for head in heads]
    return pd.DataFrame(places, columns=["layer", "pos", "head"])


def swept(at: Setting, clean: Tensor, corrupted: Tensor, site: Site, cells: pd.DataFrame, work: Work) -> Tensor:
    """NLL of the continuation in every cell, clean runs included."""
    source, run = (clean_run(at.model, rows, first=N_PREFIX) for rows in (clean, corrupted))
    limit, found = batches(run, None), []
    for layer, own in cells.groupby("layer", sort=False):
        place = [torch.tensor(own[name].to_numpy(), device=at.device) for name in own.columns[1:]]
        where = Cells(torch.zeros_like(place[0]), *place)
        put = from_run(source, site, int(layer))  # pyright: ignore[reportArgumentType]
        found.append(sweep(run, (site, int(layer)), where, put, batches=limit, work=work).nll.mean(-1))  # pyright: ignore[reportArgumentType]
    return torch.cat(found).cpu()


def loop(
    at: Setting, clean: Tensor, corrupted: Tensor, cells: pd.DataFrame, site: str
) -> tuple[Peer, Tensor, pd.DataFrame]:
    """TransformerLens's own loop over a random sample of the cells, scaled to all, its values, and the sample."""
    n = min(at.size.n_cells, len(cells))
    sample = cells.sample(n, random_state=0)
    at.model(clean)  # warm
    values, cost = measured(
        lambda: peers.patched_cells(at.model, clean, corrupted, sample, site, first=N_PREFIX), at.device
    )
    name = "TransformerLens generic_activation_patch"
    return Peer(name, scaled(cost, len(cells) / n), f"{n} random cells", None), values.cpu(), sample


def scaled(cost: Cost, times: float) -> Cost:
    """The time of so many times as much; memory does not grow."""
    return Cost(cost.seconds * times, cost.peak)


def nats(ours: Tensor, theirs: Tensor) -> str:
    """The largest difference."""
    return f"NLL within {float((ours - theirs.to(ours)).abs().max()):.0e}"


SWEEPS: dict[str, Callable[[Setting], Outcome]] = {
    "resid-one": lambda at: residual(at, whole=False),
    "resid-whole": lambda at: residual(at, whole=True),
    "resid-patch": residual_result,
    "heads": heads,
    "ablation": ablation,
}
