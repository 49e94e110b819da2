"""Which MLP weights can be dropped so that one text is lost and others are not?

BalancedSubnet (Sakarvadia et al., 2024, arXiv:2410.02159) learns a score s for every MLP weight by straight-through
gradients:

1. Of each matrix, the share `dropped` with the smallest |s| counts as zero in this step.
2. The loss is NLL(retain) - NLL(forget), nats per token, each the mean over the step's rows.
3. Its gradient by a weight, times that weight, is taken as the gradient by |s|, also where the weight is dropped.
4. SGD with momentum and weight decay moves s; the weights themselves never move.

Differences to the published code: only continuation tokens count; each step has rows of both sets, which weigh
the same however many there are (there each row weighs the same, and is summed); and there are 20 epochs, not 5:
with one paragraph to forget and 16 to keep, 5 leave the scores at their random start.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from memhooks.errors import InputError
from memhooks.localize.masks.selection import Part, best
from memhooks.localize.objectives import continuation_nll, evaluated
from memhooks.model.components import component_parameters, components
from memhooks.model.decoding import scored_logits
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked


@dataclass(frozen=True, kw_only=True)
class BalancedSubnet:
    """A localizer with settings: `BalancedSubnet(n_epochs=50)(model, forget, retain, seed=0)`.

    Attributes:
        n_epochs: passes through the larger of the two sets; the smaller one is repeated.
        batch_size: rows of each set in a step.
        lr: step size of SGD. Too large, and what should be dropped is pulled past zero and out again on the other side.
        momentum: of SGD.
        weight_decay: of SGD, on the scores.
        dropped: share of each matrix that is dropped while learning, over 0 and below 1.

    Raises:
        InputError: a setting out of range.
    """

    n_epochs: int = 20
    batch_size: int = 8
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    dropped: float = 0.001

    def __post_init__(self) -> None:
        if self.n_epochs < 1 or self.batch_size < 1:
            raise InputError(f"n_epochs and batch_size must be at least 1, got {self.n_epochs} and {self.batch_size}")
        if not 0 < self.dropped < 1:
            raise InputError(f"dropped must lie between 0 and 1, got {self.dropped}")
        if not (0 < self.lr < math.inf and 0 <= self.momentum < 1 and 0 <= self.weight_decay < math.inf):
            raise InputError(
                "lr must be positive, momentum in [0, 1) and weight_decay not negative, "
                f"got {self.lr}, {self.momentum} and {self.weight_decay}"
            )

    @property
    def __name__(self) -> str:
        return "balanced_subnet"

    def __call__(
        self, model: HookedModel, forget: Paragraphs, retain: Paragraphs, *, seed: int = 0
    ) -> dict[str, Tensor]:
        """Scores from 0 to 1, larger for weights to drop; attention has 0.

        The score is `1 / (1 + |s| / bound)`, where `bound` is what |s| of the matrix began below, so that matrices of
        different width compare. What nobody pulls on stays at its random start.

        Raises:
            InputError: paragraphs that the model cannot read, or a loss that is not a number.
        """
        forget.check(model)
        retain.check(model)
        with torch.inference_mode(mode=False), torch.no_grad():  # what is made here goes into gradients
            return self._scores(model, forget, retain, torch.Generator().manual_seed(seed))

    def _scores(
        self, model: HookedModel, forget: Paragraphs, retain: Paragraphs, generator: torch.Generator
    ) -> dict[str, Tensor]:
        parameters = {name: weight.detach() for name, weight in component_parameters(model).items()}
        weights = {
            cell.parameter_name: parameters[cell.parameter_name] for cell in components(model) if cell.head is None
        }
        learned = {name: _start(weight, generator) for name, weight in weights.items()}
        velocity = {name: torch.zeros_like(one) for name, one in learned.items()}
        for rows in tracked(list(self._steps(len(forget), len(retain), generator)), "learning scores"):
            pulls = _gradients(model, forget.select(rows[0]), retain.select(rows[1]), self._subnet(weights, learned))
            for name, pull in pulls.items():
                own = learned[name]
                pull.mul_(weights[name]).mul_(own.sign()).add_(own, alpha=self.weight_decay)
                own.sub_(velocity[name].mul_(self.momentum).add_(pull), alpha=self.lr)
        zeros = {name: torch.zeros_like(weight) for name, weight in parameters.items()}
        return zeros | {name: 1 / (1 + one.abs() / _bound(one)) for name, one in learned.items()}

    def _steps(self, n_forget: int, n_retain: int, generator: torch.Generator) -> Iterator[tuple[list[int], list[int]]]:
        """Rows of the set to forget and of the set to keep, step by step; every epoch shuffles anew."""
        for _ in range(self.n_epochs):
            orders = [torch.randperm(n, generator=generator).tolist() for n in (n_forget, n_retain)]
            for start in range(0, max(n_forget, n_retain), self.batch_size):
                first, second = (
                    [order[place % len(order)] for place in range(start, start + min(self.batch_size, len(order)))]
                    for order in orders
                )
                yield first, second

    def _subnet(self, weights: dict[str, Tensor], learned: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights without those that are dropped now, ready for gradients."""
        kept = {}
        for name, weight in weights.items():
            size = learned[name].flatten()
            (lowest,) = best([Part(name, 0, size)], int(self.dropped * len(size)), smallest=True)
            kept[name] = weight.clone()
            kept[name].view(-1)[lowest.long().to(weight.device)] = 0
            kept[name].requires_grad_()
        return kept


balanced_subnet = BalancedSubnet()
"""BalancedSubnet with its default settings."""


def _gradients(
    model: HookedModel, forget: Paragraphs, retain: Paragraphs, subnet: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Of NLL(retain) - NLL(forget) by the weights of the subnet; nothing in the model changes."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        losses = []
        for rows in (retain, forget):
            inputs, options = (rows.tokens.to(model.cfg.device),), {"stop_at_layer": model.cfg.n_layers}
            residual = functional_call(model, subnet, inputs, options)
            logits = scored_logits(model, residual[:, rows.n_prefix - 1 : -1])
            losses.append(evaluated(continuation_nll, logits, rows).mean())
        found = torch.autograd.grad(losses[0] - losses[1], list(subnet.values()))
    return dict(zip(subnet, found, strict=True))


def _start(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform within the bound, as in the published code."""
    drawn = torch.rand(weight.shape, generator=generator, dtype=torch.float32)
    return ((2 * drawn - 1) * _bound(drawn)).to(weight.device)


def _bound(scores: Tensor) -> float:
    return 1 / math.sqrt(scores.shape[1])
