"""How to unlearn: which objective, held back by what, with which optimizer, for how long."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

from memhooks.errors import InputError
from memhooks.localize.objectives import objective_name
from memhooks.unlearn.objectives import OBJECTIVES
from memhooks.unlearn.objectives.term import Term
from memhooks.unlearn.record import UnlearningStep
from memhooks.unlearn.retain_terms import RETAIN

Optimizer = Literal["adam", "adamw", "sgd"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about a run but the texts and the weights.

    Attributes:
        objective: a name in `OBJECTIVES`, or any `objective(model, forget, *, seed) -> Term`.
        retain: the term that holds the model to the retained text: "kl", "nll" or "none"; None takes the objective's
            own.
        retain_weight: its weight beside the objective, both means over paragraphs; None takes the objective's own. The
            gradient of an NLL stays as large as it is while KL grows from nothing, so it weighs a hundred times more.
        optimizer: of the masked entries; "adam" and "sgd" couple the decay to the gradient, "adamw" does not.
        lr: step size; Adam moves every chosen weight by about this in each step, so all weights together want a
            hundredth of what one in a thousand wants.
        weight_decay: of the masked entries alone.
        momentum: of "sgd".
        n_steps: updates, at most.
        n_retain: retained paragraphs in each step; they take turns.
        seed: of the retained paragraphs' order and of what an objective draws.

    Example:
        >>> import memhooks
        >>> recipe = memhooks.Recipe(objective="npo", retain="kl", n_steps=10)
        >>> recipe.optimizer, recipe.lr
        ('adam', 0.004)
    """

    objective: str | Callable[..., Term] = "gradient_ascent"
    retain: str | None = "kl"
    retain_weight: float | None = 100.0
    optimizer: Optimizer = "adam"
    lr: float = 4e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    n_steps: int = 20
    n_retain: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            InputError: an unknown name, or a number out of range.
        """
        for name in ("n_steps", "n_retain", "seed"):
            if type(getattr(self, name)) is not int:
                raise InputError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        self._check_names()
        if self.n_steps < 1 or self.n_retain < 1 or not 0 < self.lr < math.inf:
            raise InputError(
                f"n_steps and n_retain must be at least 1 and lr positive, got {self.n_steps}, {self.n_retain} "
                f"and {self.lr}"
            )
        for name, low, high in (("retain_weight", 0, math.inf), ("weight_decay", 0, math.inf), ("momentum", 0, 1)):
            value = getattr(self, name)
            if value is not None and not low <= value < high:
                raise InputError(f"{name} must lie in [{low}, {high}), got {value}")

    def _check_names(self) -> None:
        if isinstance(self.objective, str) and self.objective not in OBJECTIVES:
            raise InputError(f"no objective {self.objective!r}; there are {', '.join(OBJECTIVES)}")
        if self.retain not in (None, "none", *RETAIN):
            raise InputError(f"no retain term {self.retain!r}; there are {', '.join(RETAIN)} and none")
        if self.optimizer not in get_args(Optimizer):
            raise InputError(f"no optimizer {self.optimizer!r}; there are {', '.join(get_args(Optimizer))}")

    @property
    def forgetting(self) -> Callable[..., Term]:
        """The objective itself."""
        return OBJECTIVES[self.objective] if isinstance(self.objective, str) else self.objective

    @property
    def retaining(self) -> tuple[str, float]:
        """Name and weight of the retain term, the objective's own where none is given; "none" weighs nothing."""
        name = self.retain or getattr(self.forgetting, "retain", "kl")
        own = getattr(self.forgetting, "retain_weight", 1.0) if self.retain_weight is None else self.retain_weight
        return name, 0.0 if name == "none" else own

    def plain(self) -> dict[str, object]:
        """For provenance: the objective with its settings, the retain term as it will be used."""
        name, weight = self.retaining
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return own | {"objective": objective_name(self.forgetting), "retain": name, "retain_weight": weight}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to stop: enough is forgotten, or too much is lost. The best step within the budget is kept.

    Attributes:
        forget_em: mean exact match of the text to forget, in tokens, that is low enough.
        longest_run: mean of its longest verbatim run from any start, in tokens, the same.
        forget_nll: its mean NLL in nats per token that is high enough, such as the twin's; None does not ask.
        retain_kl: KL to the untouched model on the step's retained paragraphs, in nats per token, that is too much.

    Example:
        >>> import memhooks
        >>> memhooks.Budget(forget_em=2.0, forget_nll=4.0)
        Budget(forget_em=2.0, longest_run=10.0, forget_nll=4.0, retain_kl=inf)
    """

    forget_em: float = 2.0
    longest_run: float = 10.0
    forget_nll: float | None = None
    retain_kl: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what can never be met.

        Raises:
            InputError: a number is negative or NaN, or an NLL that nothing reaches.
        """
        if self.forget_nll == math.inf:
            raise InputError("forget_nll must be finite, got inf; leave it out to ask for no NLL")
        for name in ("forget_em", "longest_run", "retain_kl", "forget_nll"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"{name} must be at least 0, got {value}")

    def shortfall(self, *, forget_em: float, longest_run: float, forget_nll: float, n_continuation: int) -> float:
        """How far the goals are missed, 0 = all met; the sum of their relative misses."""
        missed = max(0.0, forget_em - self.forget_em) + max(0.0, longest_run - self.longest_run)
        missed /= n_continuation
        if self.forget_nll:
            missed += max(0.0, self.forget_nll - forget_nll) / self.forget_nll
        return missed

    def met_by(self, record: UnlearningStep) -> bool:
        """Whether a step reached every goal of forgetting."""
        em, run, nll = record.forget_em, record.longest_run, record.forget_nll
        return self.shortfall(forget_em=em, longest_run=run, forget_nll=nll, n_continuation=1) == 0

    def plain(self) -> dict[str, float | None]:
        """For provenance; no limit is None, as JSON has no infinity."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: None if value == math.inf else value for name, value in own.items()}


def settings_text(settings: Mapping[str, object]) -> str:
    """Settings in one line of JSON with sorted names, to store and to compare."""
    return json.dumps(settings, sort_keys=True)
