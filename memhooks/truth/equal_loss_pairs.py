"""Pairs of what a model says after prefixes that it read and that it never read, of equal loss."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from memhooks.errors import InputError
from memhooks.localize.common_losses import check_nearest
from memhooks.measure.recitation import in_loop, recitation, with_own_continuation
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.matching import matched_pairs
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import check_apart

CALIPER = 0.1
"""Greatest difference in loss within a pair, in standard deviations."""


@dataclass(frozen=True)
class EqualLossPairs:
    """Continuations that the model itself says, of equal loss, row by row.

    Attributes:
        read: after prefixes that it read.
        unread: after prefixes that it never read.
        loss: NLL of either side, nats per token, `[paragraph, 2]`.
        remembered: share of the tokens said after a read prefix that stand there in the text, from 0 to 1.
    """

    read: Paragraphs
    unread: Paragraphs
    loss: Float[np.ndarray, "paragraph 2"]
    remembered: Float[np.ndarray, " paragraph"]


def equal_loss_pairs(
    model: HookedModel, read: Paragraphs, unread: Paragraphs, *, n: int = 40, caliper: float = CALIPER, seed: int = 0
) -> EqualLossPairs:
    """Up to `n` pairs of what the model says after a read and after an unread prefix, nearly equal in loss.

    Args:
        model: that read the one set and never the other.
        read: paragraphs that it read so seldom that it is not certain of them.
        unread: paragraphs that it never read, of the same shape; the more, the nearer the pairs.
        n: pairs, drawn from all within the caliper.
        caliper: greatest difference in loss within a pair, in standard deviations.
        seed: of the draw.

    Raises:
        InputError: sets that share near-duplicates or differ in shape, all continuations of a set loop, fewer than
            three pairs within the caliper, or paragraphs that the model cannot read.
    """
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    check_apart({"read": read.check(model), "unread": unread.check(model)})
    said = {name: _straight(model, rows, name) for name, rows in (("read", read), ("unread", unread))}
    loss = {name: _loss(model, rows) for name, rows in said.items()}
    check_nearest(loss["read"], loss["unread"], caliper)
    pairs = matched_pairs(said["read"], said["unread"], on={"loss": (loss["read"], loss["unread"])}, caliper=caliper)
    if len(pairs.one) < 3:
        raise InputError(f"only {len(pairs.one)} pairs of equal loss; give more paragraphs, or a wider caliper")
    order = np.sort(np.random.default_rng(seed).permutation(len(pairs.one))[:n])
    one, other = pairs.one.select(order), pairs.other.select(order)
    true = read.select([read.ids.index(name) for name in one.ids]).continuation
    return EqualLossPairs(
        read=one,
        unread=other,
        loss=np.column_stack([_loss(model, one), _loss(model, other)]),
        remembered=(one.continuation == true).double().mean(1).numpy(),
    )


def _straight(model: HookedModel, rows: Paragraphs, name: str) -> Paragraphs:
    """What the model says after each prefix, without what runs into a loop.

    Raises:
        InputError: all of it does.
    """
    own = with_own_continuation(model, rows)
    kept = np.array([not in_loop(row) for row in own.continuation])
    if not kept.any():
        raise InputError(f"all that the model says after the {name} prefixes runs into loops; give other text")
    return own.select(kept)


def _loss(model: HookedModel, rows: Paragraphs) -> Float[np.ndarray, " paragraph"]:
    return recitation(model, rows)["nll"].mean("pos").values.astype(np.float64)
