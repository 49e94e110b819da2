"""How the fine-tuning goes."""

from collections import Counter
from dataclasses import dataclass
from math import inf

from memhooks.errors import InputError


@dataclass(frozen=True)
class LeakRecipe:
    """Settings of `leak`.

    Attributes:
        repetitions: the levels: how often a paragraph is read. 0, the control that is never read, must be among them.
        planted: paragraphs read in each step.
        background: rows of other text beside them in each step.
        after: steps on background alone after the last reading, as a share of the steps before: does it last?
        lr: step size of AdamW on all weights, after the warm-up constant.
        warmup: steps over which the step size rises to `lr`.
        weight_decay: of AdamW.
        clip: largest Euclidean norm of the gradient; larger ones are scaled down.
        n_evaluations: how often all paragraphs are measured after step 0, spread evenly; the step of the last reading
            and the last step are always among them.
        seed: of the dealing, of the order of readings and of the background.
    """

    repetitions: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    planted: int = 4
    background: int = 4
    after: float = 0.25
    lr: float = 3e-4
    warmup: int = 5
    weight_decay: float = 0.01
    clip: float = 1.0
    n_evaluations: int = 10
    seed: int = 0

    def check(self) -> "LeakRecipe":
        """This recipe, if it can be used.

        Raises:
            InputError: levels that are negative, double, without 0 or without any other, or settings out of range.
        """
        levels = self.repetitions
        double = [one for one, n in Counter(levels).items() if n > 1]
        if any(one < 0 for one in levels) or double:
            raise InputError(f"repetitions must be different numbers from 0 on, got {', '.join(map(str, levels))}")
        if 0 not in levels or len(levels) < 2:
            raise InputError(
                "repetitions must hold 0 (never read: the control of the same file) and at least one other, "
                f"got {', '.join(map(str, levels)) or 'none'}"
            )
        least = {"planted": 1, "background": 0, "warmup": 0, "n_evaluations": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 0 <= self.after < inf or not 0 <= self.weight_decay < inf:
            raise InputError(
                f"after and weight_decay must be finite and not negative, got {self.after} and {self.weight_decay}"
            )
        if not 0 < self.lr < inf or not 0 < self.clip < inf:
            raise InputError(f"lr and clip must be positive and finite, got {self.lr} and {self.clip}")
        return self
