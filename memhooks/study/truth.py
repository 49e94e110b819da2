"""The study's look at the truth: forks exchanged part by part, bits held, sinks, and localizers on text written by us.

Each is the command of the same name on fewer paragraphs: `memhooks forks | capacity | sinks | score-localizers`.
"""

from collections.abc import Mapping

import xarray as xr

from memhooks.localize.localizers import LOCALIZERS
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.study.interventions import Conditions
from memhooks.truth.capacity import capacity_table, memorized_bits
from memhooks.truth.forks.counterfactual import counterfactual_memorization
from memhooks.truth.forks.line import loss_along_line
from memhooks.truth.forks.swap_parts import swap_parts
from memhooks.truth.forks.verdict import parts_verdict
from memhooks.truth.injection.bench import LEARNED, Bench, Plan
from memhooks.truth.injection.candidates import CANDIDATES
from memhooks.truth.injection.tables import deletion_table, recall_table
from memhooks.truth.injection.trial import trials
from memhooks.truth.sinks import attention_sinks, sink_heads

PARTS = ("layer", "attention", "mlp", "bottom", "all")
"""Kinds of parts that the study exchanges; the command exchanges all kinds."""

WRITTEN_IN = ("random", "neurons", "head")
"""Where the study writes paragraphs to be found again."""


def forks_stage(
    organism: HookedModel, twin: HookedModel, sets: Mapping[str, Paragraphs], every: Mapping[str, Paragraphs], seed: int
) -> dict[str, xr.Dataset]:
    """Which part, put in place of the other fork's, takes recitation away or brings it?

    Args:
        organism: read the memorized set.
        twin: read the mirror set in its place.
        sets: `memorized`, `mirror` and `control`, a few of each.
        every: the same, all of them, for counterfactual memorization.
        seed: of intervals and of the blind fork.
    """
    swaps = swap_parts(organism, twin, sets, parts=PARTS, blind=("layer", "all"), seed=seed)
    line = loss_along_line(organism, twin, sets, steps=7, seed=seed)
    swaps.attrs["verdict"] = " ".join(parts_verdict(swaps, interpretable=bool(line.attrs["interpretable"])))
    return {
        "line": line,
        "swaps": swaps,
        "counterfactual": counterfactual_memorization(organism, twin, every, seed=seed),
    }


def capacity_stage(
    organism: HookedModel, twin: HookedModel, sets: Mapping[str, Paragraphs], seed: int
) -> dict[str, xr.Dataset]:
    """How many bits of each set does the organism hold beyond the twin, and how does that grow with k?"""
    bits: dict[str, xr.Dataset] = {name: memorized_bits(organism, twin, rows) for name, rows in sets.items()}
    return bits | {"table": capacity_table(bits, sets=sets, seed=seed)}


def sinks_stage(conditions: Conditions, seed: int) -> dict[str, xr.Dataset]:
    """Which heads put their attention on the first token, whatever it is?"""
    found = {name: attention_sinks(*pair) for name, pair in conditions.items()}
    label = {name: clusters(rows).numpy() for name, (_, rows) in conditions.items()}
    return {"heads": sink_heads(found, seed=seed, clusters=label)}


def injections_stage(
    organism: HookedModel, recited: Paragraphs, unread: Paragraphs, *, n: int, seed: int
) -> dict[str, xr.Dataset]:
    """Do localizers find where we wrote a paragraph ourselves? A few injections, without the learned mask."""
    quick = [one for one in (*LOCALIZERS, *CANDIDATES) if getattr(one, "__name__", "") != LEARNED]
    plan = Plan(regions=WRITTEN_IN, n_injections=n, n_learned=0, seed=seed)
    bench = Bench(organism, plan, unread, recited, quick)
    rows = [trial.run(bench) for trial in trials(plan)]
    return {"recall": recall_table(rows, seed=seed), "deletion": deletion_table(rows, seed=seed)}
