"""Which windows does a scan keep, and when is it sure that it will not keep one?"""

from dataclasses import dataclass, field

import numpy as np

from memhooks.errors import InputError
from memhooks.measure.extractability import Sampler


@dataclass(frozen=True)
class Rule:
    """Keep a window by its exact match, and, if `queries` are given, also by its probability under sampling.

    Attributes:
        least: fewest tokens recited before the first miss; None for the whole continuation.
        most: most such tokens; None for no limit. The paper's bins of 50 tokens are 0-10, 11-29, 30-49 and 50.
        queries: keep what is (n, p)-discoverably extractable: among so many samples with probability `p` at
            least once (Hayes et al., 2024, arXiv:2410.19482). Then exact match counts only where `least` is given.
        p: that probability.
        sampler: how samples are drawn.
    """

    least: int | None = None
    most: int | None = None
    queries: int | None = None
    p: float = 0.5
    sampler: Sampler = field(default_factory=lambda: Sampler("temperature"))

    def check(self, n_continuation: int, d_vocab: int) -> "Rule":
        """This rule, if it makes sense for continuations of that length.

        Raises:
            InputError: a range that no exact match lies in, or settings of sampling out of range.
        """
        low, high = self.range(n_continuation)
        if not 0 <= low <= high <= n_continuation:
            raise InputError(f"exact match lies in 0..{n_continuation} tokens, the least at most the most, "
                             f"got {low}..{high}")  # fmt: skip
        if self.queries is not None and self.queries < 1:
            raise InputError(f"queries must be at least 1, got {self.queries}")
        if not 0 < self.p < 1:
            raise InputError(f"p must lie between 0 and 1, got {self.p}")
        self.sampler.check(d_vocab)
        return self

    def range(self, n_continuation: int) -> tuple[int, int]:
        """The exact matches that are kept, both ends included."""
        usual = n_continuation if self.queries is None else 0
        return (
            usual if self.least is None else self.least,
            n_continuation if self.most is None else self.most,
        )

    @property
    def least_log_probability(self) -> float:
        """Below this a continuation is not among the samples often enough, in nats; minus infinity without sampling."""
        if self.queries is None:
            return -np.inf
        # 1 - (1 - p) ** (1 / n) without losing small numbers.
        return float(np.log(-np.expm1(np.log1p(-self.p) / self.queries)))
