"""How fast does forgotten text come back when the model is trained a little more?

1. Every matrix weight is trained (Adam, fixed step size and batch) on what the attacker has: part of the forgotten
   text, its prefixes alone, or unrelated text.
2. At every step it is measured what is recited of the forgotten text, of what the attacker had and of the rest.
3. The weights are put back bit for bit.

A twin that never read the text learns it afresh in as many steps as it takes; a model from which it is truly gone
should take no fewer. Text that comes back without having been trained on was hidden, not removed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import xarray as xr
from torch import nn

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.model.components import component_parameters
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance, tensor_hash
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import check_apart, clusters, split
from memhooks.progress import tracked
from memhooks.unlearn.attacks.measured import UNITS, measured
from memhooks.unlearn.unlearning import restored

On = Literal["part", "prefixes", "unrelated"]
"""What the attacker trains on."""

LR = 3e-5
"""At this step size the organism's twin learns half of a continuation by heart in 12 to 15 steps, four in about 30."""

BATCH = 4
"""Paragraphs in each step; more of them take turns."""


class AttackTexts(NamedTuple):
    """What an attacker trains on, and what is then asked for, by name: `trained`, `held out` or `all`."""

    train: Paragraphs
    tested: dict[str, Paragraphs]


def relearn(  # noqa: PLR0913 - what the attacker has, and how training goes on
    model: HookedModel,
    forget: Paragraphs,
    *,
    on: On = "part",
    unrelated: Paragraphs | None = None,
    old_em: float = 50.0,
    lr: float = LR,
    n_steps: int = 40,
    seed: int = 0,
) -> xr.Dataset:
    """Train a model further and watch what it recites of a forgotten text; its weights are put back.

    Args:
        model: unlearned, or a twin that never read the text.
        forget: the text that was forgotten.
        on: `part`: half of the paragraphs (whole clusters of near-duplicates), tested on these and on the rest; where
            there is one cluster, the first half of each continuation, tested on it and on the second half given the
            first. `prefixes`: the prefixes alone. `unrelated`: other text.
        unrelated: text for `unrelated`, which shares nothing with the forgotten.
        old_em: mean exact match of the forgotten text before it was forgotten, in tokens.
        lr: step size of Adam on every matrix weight.
        n_steps: updates.
        seed: of the split and of the order in which paragraphs take turns.

    Returns:
        Dataset over `paragraph` (tested text) and `step` (from 0, before any update): `exact_match`, `longest_run`
        (tokens) and `nll` (nats per token). Over `paragraph`: `tested` (`trained`, `held out`, or `all` where the
        continuations are not trained on), `cluster` (of near-duplicates), `half` (half of the old exact match, scaled
        to the tokens that are tested).

    Raises:
        InputError: an unknown `on`, no unrelated text or one that shares near-duplicates with the forgotten,
            settings out of range, hooks on the model, or paragraphs that it cannot read or that are too short to halve.
    """
    _check(model, forget, n_steps=n_steps, lr=lr, old_em=old_em)
    texts = attack_texts(forget, on=on, unrelated=unrelated, seed=seed)
    texts.train.check(model)
    about = provenance(model, forget.tokens) | {
        "on": on,
        "train_hash": tensor_hash(texts.train.tokens),
        "old_em": old_em,
        "lr": lr,
        "batch": BATCH,
        "seed": seed,
    }
    found = []
    with restored(model):
        for _ in tracked(_tuning(model, texts.train, lr=lr, n_steps=n_steps, seed=seed), on, total=n_steps + 1):
            each = [measured(model, rows) for rows in texts.tested.values()]
            found.append({name: np.concatenate([one[name] for one in each]) for name in UNITS})
    share = old_em / forget.n_continuation / 2
    return _labelled(about, texts, {name: np.stack([one[name] for one in found], 1) for name in UNITS}, share=share)


def attack_texts(forget: Paragraphs, *, on: On, unrelated: Paragraphs | None, seed: int) -> AttackTexts:
    """What is trained on and what is tested, as `relearn` says.

    Raises:
        InputError: an unknown `on`, no unrelated text or one that shares near-duplicates with the forgotten, or
            paragraphs that are too short.
    """
    if on not in get_args(On):
        raise InputError(f"an attacker trains on {', '.join(get_args(On))}, got {on!r}")
    if on == "prefixes":
        if forget.n_prefix < 2:
            raise InputError("a prefix of one token has nothing to train on; leave out the attack on prefixes")
        return AttackTexts(Paragraphs(forget.prefix, n_prefix=1, ids=forget.ids), {"all": forget})
    if on == "unrelated":
        if unrelated is None:
            raise InputError("training on unrelated text needs some; pass unrelated=..., such as never-seen prose")
        check_apart({"forget": forget, "unrelated": unrelated})
        return AttackTexts(replace(unrelated, n_prefix=1), {"all": forget})
    if int(clusters(forget).max()):
        train, rest = split(forget, share=0.5, seed=seed)
        return AttackTexts(train, {"trained": train, "held out": rest})
    if forget.n_continuation < 2:
        raise InputError("a continuation of one token has no halves; forget paragraphs of several clusters instead")
    middle = forget.n_prefix + forget.n_continuation // 2
    first = Paragraphs(forget.tokens[:, :middle], forget.n_prefix, ids=_named(forget, "first half"))
    second = Paragraphs(forget.tokens, middle, ids=_named(forget, "second half"))
    return AttackTexts(first, {"trained": first, "held out": second})


def _tuning(model: HookedModel, train: Paragraphs, *, lr: float, n_steps: int, seed: int) -> Iterator[int]:
    """Yields before each update and after the last; `.grad` is as it was whenever it yields."""
    weights = component_parameters(model)
    optimizer = torch.optim.Adam(weights.values(), lr=lr)
    turns = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).split(BATCH)
    for step in range(n_steps + 1):
        yield step
        if step < n_steps:
            rows = train.select(turns[step % len(turns)].sort().values)
            _update_(optimizer, weights, weight_gradients(model, rows))


def _update_(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter], gradients: Mapping[str, torch.Tensor]
) -> None:
    before = {name: weight.grad for name, weight in weights.items()}
    try:
        for name, weight in weights.items():
            weight.grad = gradients[name]
        optimizer.step()
    finally:
        for name, weight in weights.items():
            weight.grad = before[name]


def _labelled(
    about: Mapping[str, object], texts: AttackTexts, found: Mapping[str, np.ndarray], *, share: float
) -> xr.Dataset:
    sets = texts.tested
    names = np.concatenate([[name] * len(rows) for name, rows in sets.items()])
    # Sets are tested apart, so only near-duplicates within each need to be drawn together.
    own = np.concatenate([clusters(rows).numpy() for rows in sets.values()])
    halves = np.concatenate([[share * rows.n_continuation] * len(rows) for rows in sets.values()])
    ids = [name for rows in sets.values() for name in rows.ids]
    labels = {"paragraph": ids, "step": range(found["nll"].shape[1])}
    return labelled(
        about,
        **{name: Variable(found[name], ("paragraph", "step"), unit, labels) for name, unit in UNITS.items()},
        tested=Variable(names, ("paragraph",), "whether the attacker trained on this text, or on no continuation"),
        cluster=Variable(own, ("paragraph",), "near-duplicates within the tested set"),
        half=Variable(halves, ("paragraph",), "half of the old exact match, tokens"),
    )


def _named(forget: Paragraphs, part: str) -> tuple[str, ...]:
    return tuple(f"{name} {part}" for name in forget.ids)


def _check(model: HookedModel, forget: Paragraphs, *, n_steps: int, lr: float, old_em: float) -> None:
    refuse_hooks(model)
    forget.check(model)
    if n_steps < 1 or not 0 < lr < np.inf:
        raise InputError(f"n_steps must be at least 1 and lr positive, got {n_steps} and {lr}")
    if not 0 < old_em <= forget.n_continuation:
        raise InputError(
            f"old_em must lie above 0 and at most at the continuation's {forget.n_continuation} tokens, got {old_em}; "
            "text that was not recited before cannot come back"
        )
