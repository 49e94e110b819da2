"""The sets that `memhooks forks` compares, drawn and checked before anything is measured."""

# Heavy imports stay inside the functions, as in the commands.
from typing import TYPE_CHECKING

from memhooks.cli.sets import cut, load_set, load_sets
from memhooks.errors import InputError

if TYPE_CHECKING:
    import torch

    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

_N_RETAIN, _N_NULL = 12, 128


def load_forks(
    model: str, other: str, named: tuple[str, str, str], n: int, seed: int
) -> "tuple[HookedModel, HookedModel, dict[str, Paragraphs]]":
    """Both models, and what is recited, recited as well, to be kept, mirrored and never read; no near-duplicates.

    Raises:
        InputError: fewer than 6 paragraphs are recited, or 2 mirrored, or 4 are there for the control, or sets that
            differ in length or share text.
    """
    import torch

    loaded, own = load_sets(model, named[0], named[2], n=2 * n + _N_RETAIN, seed=seed)
    fork, theirs = load_sets(other, named[1], "none", n=n, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = {"recited": own["memorized"], "mirrored": theirs["memorized"], "control": own["control"]}
    drawn = {name: one_each(rows, generator) for name, rows in drawn.items()}
    for (name, rows), needed in zip(drawn.items(), (6, 2, 4), strict=True):
        if len(rows) < needed:
            raise InputError(
                f"{needed} {name} paragraphs that are no near-duplicates of each other are needed, got {len(rows)}; "
                "one cluster has no interval, so give more text or a larger --n"
            )
    target, others, kept = matched(drawn["recited"], n, generator)
    unread = drawn["control"]
    n_control = min(n, len(unread) // 2)
    control, unread_kept = unread.parts(n_control, min(_N_RETAIN, len(unread) - n_control))
    sets = {"memorized": target, "mirror": drawn["mirrored"], "control": control}
    sets["mirror"] = cut(sets["mirror"], target, "--other-paragraphs", same_prefix=False)
    return loaded, fork, sets | {"others": others, "retain": kept.joined(unread_kept)}


def one_each(rows: "Paragraphs", generator: "torch.Generator") -> "Paragraphs":
    """One paragraph of each cluster of near-duplicates, in random order."""
    import torch

    from memhooks.paragraphs.splits import clusters

    order = torch.randperm(len(rows), generator=generator)
    first = dict(reversed([(int(clusters_of), place) for place, clusters_of in enumerate(clusters(rows)[order])]))
    return rows.select(order[sorted(first.values())])


def matched(
    recited: "Paragraphs",
    n: int,
    generator: "torch.Generator",
) -> "tuple[Paragraphs, Paragraphs, Paragraphs]":
    """Up to n paragraphs, as many read (nearly) as often, and up to 12 of the rest, to be kept.

    Sorted by readings, neighbours are pairs; of each pair drawn one is a target, the next another.
    """
    import torch

    counts = torch.tensor(recited.counts or [0] * len(recited))
    pairs = counts.sort(stable=True).indices[: len(recited) // 2 * 2].view(-1, 2)
    pairs = pairs[torch.randperm(len(pairs), generator=generator)][: min(n, len(recited) // 3)]
    swap = torch.rand(len(pairs), generator=generator) < 0.5
    pairs = torch.where(swap[:, None], pairs.flip(1), pairs)
    rest = [place for place in range(len(recited)) if place not in set(pairs.flatten().tolist())]
    return recited.select(pairs[:, 0]), recited.select(pairs[:, 1]), recited.select(rest[:_N_RETAIN])


def load_read(model: "HookedModel", named: tuple[str, str, str], n: int, seed: int) -> "dict[str, Paragraphs]":
    """What each fork or neither has read, recited or not: up to `n` paragraphs of each count, as long as the first.

    Raises:
        InputError: sets that are shorter than the first, of another prefix, or that share text with it.
    """
    from memhooks.truth.forks.sets import batch

    whole = [load_set(model, one) for one in named]
    options = ("--paragraphs", "--other-paragraphs", "--control")
    fitted = [
        cut(one, whole[0], option, same_prefix=option == "--control")
        for one, option in zip(whole, options, strict=True)
    ]
    names = ("memorized", "mirror", "control")
    read = {name: _per_count(one, n, seed) for name, one in zip(names, fitted, strict=True)}
    batch(read)
    return read


def _per_count(rows: "Paragraphs", n: int, seed: int) -> "Paragraphs":
    """Up to `n` paragraphs of each count; where it is 0 or unknown, so many that their quantiles can be told."""
    if rows.counts is None:
        return rows.sample(_N_NULL, seed=seed)
    import torch

    kept = []
    for count in sorted(set(rows.counts)):
        here = torch.tensor([place for place, one in enumerate(rows.counts) if one == count])
        order = torch.randperm(len(here), generator=torch.Generator().manual_seed(seed))[: n if count else _N_NULL]
        kept.append(here[order.sort().values])
    return rows.select(torch.cat(kept))
