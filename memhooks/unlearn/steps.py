"""One unlearning step, measured: the losses, what is still recited, how far retained text has drifted.

The text to forget and this step's retained paragraphs share one pass, and everything that a budget asks for is
read from the logits that the step computes anyway.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.measure.recitation import exact_match, longest_run, score_tokens
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.gradients import MaskedGradients
from memhooks.unlearn.objectives.term import Term, token_nll
from memhooks.unlearn.recipe import Recipe
from memhooks.unlearn.record import UnlearningStep
from memhooks.unlearn.retain_terms import RETAIN

CHUNK = 16
"""Paragraphs to forget in one pass; larger sets take several, whose gradients add up."""


@dataclass(frozen=True)
class _Retained:
    """Retained paragraphs of one step: what holds them, and their distance from the untouched model."""

    held: Term
    drift: Term


class Steps:
    """The terms of a run, built while the model is as it was; their value and gradient at any later moment."""

    def __init__(
        self,
        model: HookedModel,
        forget: Paragraphs,
        retain: Paragraphs,
        mask: WeightMask,
        recipe: Recipe,
        *,
        watch: bool,
    ) -> None:
        """Build every term once.

        Args:
            model: as it was.
            forget: the text to forget.
            retain: the text to keep; it takes turns, in an order drawn by the recipe's seed.
            mask: the weights that may move.
            recipe: objective, retain term and their settings.
            watch: measure the drift on retained text even where no term holds it.
        """
        self._model, self._forget = model, forget
        name, self._weight = recipe.retaining
        starts = range(0, len(forget), CHUNK)
        self._terms = [
            recipe.forgetting(model, forget.select(slice(at, at + CHUNK)), seed=recipe.seed) for at in starts
        ]
        self._retained: list[_Retained] = []
        if watch or self._weight:
            order = torch.randperm(len(retain), generator=torch.Generator().manual_seed(recipe.seed))
            used = order[: (recipe.n_steps + 1) * recipe.n_retain]  # more than take a turn need no reference
            for turn in used.split(recipe.n_retain):
                rows = retain.select(turn.sort().values)
                drift = RETAIN["kl"](model, rows)
                self._retained.append(_Retained(RETAIN[name](model, rows) if name == "nll" else drift, drift))
        self._gradients = MaskedGradients(model, mask)

    def at(self, step: int) -> tuple[UnlearningStep, Float[Tensor, " chosen"]]:
        """The record of the model as it is now, before update number `step`, and the gradient of its loss."""
        retained = self._retained[step % len(self._retained)] if self._retained else None
        loss, gradient, nll, hits = 0.0, None, [], []
        drift = math.nan
        for number, term in enumerate(self._terms):
            seen = _Pass(term, retained if number == 0 else None, self._weight, len(self._forget))
            losses, own = self._gradients(seen.rows, seen.losses)
            loss += float(losses.sum())
            gradient = own if gradient is None else gradient + own
            nll += seen.nll
            hits += seen.hits
            drift = seen.drift if number == 0 else drift
        assert gradient is not None  # a set to forget is never empty
        if not nll:
            nll, hits = self._recited()
        return _record(step, loss, torch.cat(nll), torch.cat(hits), drift), gradient

    def _recited(self) -> tuple[list[Tensor], list[Tensor]]:
        """The same of text that the objective does not run itself."""
        scores = list(score_tokens(self._model, self._forget.tokens, first=self._forget.n_prefix))
        predicted = torch.cat([one.predicted for one in scores])
        return [one.nll for one in scores], [predicted == self._forget.continuation]


class _Pass:
    """The rows of one pass, its losses, and what its logits tell besides."""

    def __init__(self, term: Term, retained: _Retained | None, weight: float, n_forget: int) -> None:
        self._term, self._retained, self._weight, self._n_forget = term, retained, weight, n_forget
        self.rows = term.rows
        if retained is not None:
            self.rows = term.rows.joined(retained.held.rows)
        self.nll: list[Float[Tensor, "paragraph scored"]] = []
        self.hits: list[Bool[Tensor, "paragraph scored"]] = []
        self.drift = math.nan

    def losses(self, logits: Float[Tensor, "row scored d_vocab"]) -> Float[Tensor, " loss"]:
        """Shares of the means over paragraphs: their sum is the loss."""
        n = len(self._term.rows)
        parts = [self._term.loss(logits[:n]) / self._n_forget]
        if self._term.forget is not None:
            self._read(logits[:n].detach()[self._term.forget])
        if self._retained is not None:
            kept = logits[n:]
            held = self._retained.held.loss(kept)
            with torch.no_grad():
                self.drift = float(
                    (held if self._retained.held is self._retained.drift else self._retained.drift.loss(kept)).mean()
                )
            parts.append(self._weight * held / len(held))
        return torch.cat(parts)

    def _read(self, logits: Float[Tensor, "paragraph scored d_vocab"]) -> None:
        true = self.rows.continuation[: len(self._term.rows)][self._term.forget].to(logits.device)
        self.nll.append(token_nll(logits, true).cpu())
        self.hits.append((logits.argmax(-1) == true).cpu())


def _record(
    step: int,
    loss: float,
    nll: Float[Tensor, "paragraph scored"],
    hits: Bool[Tensor, "paragraph scored"],
    drift: float,
) -> UnlearningStep:
    return UnlearningStep(
        step=step,
        loss=loss,
        forget_nll=float(nll.mean()),
        forget_em=float(exact_match(hits).double().mean()),
        longest_run=float(longest_run(hits).double().mean()),
        retain_kl=drift,
    )
