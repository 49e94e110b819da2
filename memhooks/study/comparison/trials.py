"""One trial: a method with a setting on some paragraphs, timed, evaluated, and undone."""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from memhooks.study.comparison.methods import METHODS, Method
from memhooks.study.comparison.sets import Bench, Phase
from memhooks.unlearn.evaluation import evaluate, summary_row
from memhooks.unlearn.recipe import Budget

GOALS = {"forget_em": 2.0, "longest_run": 10.0, "nll_share": 0.5, "others_lost": 2.0, "perplexity": 1.02}
"""What is aimed at: means over paragraphs, in tokens, shares of the twin's NLL, tokens, and ratios."""


@dataclass(frozen=True, order=True)
class Trial:
    """What is run.

    Attributes:
        phase: `tune` or `judge`.
        method: its name.
        setting: its number among the method's settings.
        size: paragraphs unlearned at once.
        number: which paragraph, or which draw of several.
        seed: of retained paragraphs and random masks.
    """

    phase: Phase
    method: str
    setting: int
    size: int
    number: int
    seed: int

    @property
    def key(self) -> str:
        """A file name of its own."""
        name = re.sub(r"[^a-z0-9.]+", "_", self.method.lower()).strip("_")
        return f"{self.phase}-{name}-{self.setting}-{self.size}-{self.number}-{self.seed}"

    def run(self, bench: Bench) -> dict[str, Any]:
        """Its row: cost, what was forgotten per paragraph, what was kept."""
        forget = bench.chosen(self.phase, self.size, self.number)
        method = method_named(self.method)
        before = bench.before(self.phase, forget)
        goal = GOALS["nll_share"] * float(before.twin["forget"]["nll"].mean())
        budget = Budget(forget_em=GOALS["forget_em"], longest_run=GOALS["longest_run"], forget_nll=goal)
        start = time.process_time()
        edited = method.run(bench, forget, method.settings[self.setting], self.seed, budget)
        seconds = time.process_time() - start
        with edited.delta.applied(bench.model):
            tree = evaluate(bench.model, before, measures="core")
        forgotten, others = (tree[name].to_dataset() for name in ("forget", "others"))
        lost = others["exact_match_before"].values - others["exact_match_after"].values
        each = {name: forgotten[f"{name}_after"].values for name in ("exact_match", "longest_run", "nll")}
        each["twin_nll"] = forgotten["nll_twin"].values
        return (
            asdict(self)
            | {"seconds": seconds, "n_steps": edited.n_steps, "share": edited.share, "norm": edited.delta.norm}
            | {"ids": list(forget.ids), "others_lost": lost.tolist(), "failed": edited.failed}
            | {name: np.asarray(values, dtype=float).tolist() for name, values in each.items()}
            | {"summary": summary_row(tree)}
        )


def method_named(name: str) -> Method:
    """The method of that name."""
    return next(one for one in METHODS if one.name == name)


def misses(row: Mapping[str, Any]) -> float:
    """How far the goals are missed, 0 = all met: each miss over the range that it has.

    A run that blew up misses everything. Ties go to what is kept best, by a thousandth of the tokens that other
    paragraphs lose and of the perplexity's rise.
    """
    if row.get("failed"):
        return math.inf
    em, run, nll, twin, lost = (
        float(np.mean(row[name])) for name in ("exact_match", "longest_run", "nll", "twin_nll", "others_lost")
    )
    ratio = float(row["summary"]["held out: perplexity ratio"])
    missed = max(0.0, em - GOALS["forget_em"]) / 50 + max(0.0, run - GOALS["longest_run"]) / 50
    missed += max(0.0, GOALS["nll_share"] - nll / twin)
    missed += max(0.0, lost - GOALS["others_lost"]) / 50 + max(0.0, ratio - GOALS["perplexity"])
    return missed + 1e-3 * (max(0.0, lost) / 50 + max(0.0, ratio - 1))
