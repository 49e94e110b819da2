"""Bounded ascent: push each token of the continuation to a goal and no further.

The loss is `1/T sum_t max(0, goal_t - nll_t)`, over the T continuation tokens. The natural goal of a token is its NLL
in a model that never read the text: give that model, or the numbers.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives.term import Retain, Term, frozen_nll, token_nll


@dataclass(frozen=True, eq=False, repr=False)
class BoundedAscent:
    """Mean over tokens, mean over paragraphs; in nats per token, bounded below by 0 = every token is at its goal.

    A token at or above its goal has no gradient, and none is pulled back. Our own; nothing is published of it.

    Attributes:
        goal: NLL in nats to push each token to, at least 0: one number for all (2 nats, a probability of 0.14, by
            default); a tensor `[paragraph]`, or `[paragraph, n_continuation]` for each token its own; or a model, whose
            NLL at each token is then the goal.
        ids: the paragraphs that the tensor's rows are of, so that the term of a part of them can be built; without
            them its rows are those of the paragraphs to forget.
    """

    goal: float | Tensor | HookedModel = 2.0
    ids: tuple[str, ...] | None = None
    retain: ClassVar[Retain] = "kl"
    retain_weight: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: a goal that is negative or no number, or ids of another number than its rows.
        """
        if isinstance(self.goal, HookedModel):
            return
        numbers = torch.as_tensor(self.goal)
        wrong = numbers[~(torch.isfinite(numbers) & (numbers >= 0))]
        if wrong.numel():
            raise InputError(
                f"the goal must be finite and at least 0 nats, as an NLL is, got {wrong.flatten()[0].item()}"
            )
        if self.ids is not None and (numbers.ndim == 0 or len(numbers) != len(self.ids)):
            raise InputError(
                f"ids must name each row of the goal, got {len(self.ids)} for shape {tuple(numbers.shape)}"
            )

    def __repr__(self) -> str:
        if isinstance(self.goal, HookedModel):
            return f"BoundedAscent(goal=model {model_hash(self.goal)})"
        own = "" if self.ids is None else f", ids={hashlib.blake2b(repr(self.ids).encode(), digest_size=4).hexdigest()}"
        return f"BoundedAscent(goal={tensor_hash(self.goal) if isinstance(self.goal, Tensor) else self.goal}{own})"

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        """The term of these paragraphs; `seed` is not used.

        Raises:
            InputError: paragraphs that the model cannot read, a goal of another shape, or of other paragraphs.
        """
        goal = self._of(forget.check(model)).to(model.cfg.device)
        return Term(forget, partial(_loss, forget=forget, goal=goal), slice(0, len(forget)))

    def _of(self, forget: Paragraphs) -> Float[Tensor, "paragraph scored"]:
        """The goal of each token.

        Raises:
            InputError: as `__call__`.
        """
        shape = (len(forget), forget.n_continuation)
        if isinstance(self.goal, HookedModel):
            return frozen_nll(self.goal, forget.check(self.goal))
        goal = torch.as_tensor(self.goal, dtype=torch.float64).detach()
        if goal.ndim == 0:
            return goal.expand(shape)
        if self.ids is not None:
            goal = goal[_rows(self.ids, forget)]
        if tuple(goal.shape) not in {shape, shape[:1]}:
            raise InputError(
                f"the goal must be one number, one per paragraph {shape[:1]} or one per continuation token {shape}, "
                f"got shape {tuple(goal.shape)}"
            )
        return goal if goal.ndim == 2 else goal[:, None].expand(shape)


def _rows(ids: tuple[str, ...], forget: Paragraphs) -> list[int]:
    lost = [name for name in forget.ids if name not in ids]
    if lost:
        raise InputError(f"the goal is of other paragraphs: {lost[0]} is not among its ids")
    return [ids.index(name) for name in forget.ids]


def _loss(
    logits: Float[Tensor, "paragraph scored d_vocab"], forget: Paragraphs, goal: Float[Tensor, "paragraph scored"]
) -> Float[Tensor, " paragraph"]:
    nll = token_nll(logits, forget.continuation)
    return functional.relu(goal.to(nll) - nll).mean(1)  # not clamp, whose gradient at the goal itself is 1
