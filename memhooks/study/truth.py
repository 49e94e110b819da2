"""The study's look at the truth: forks exchanged part by part, bits held, sinks, and localizers on text written by us.

Each is the command of the same name on fewer paragraphs: `memhooks forks | capacity | sinks | score-localizers`.
"""

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from memhooks.localize.localizers import LOCALIZERS
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.study.interventions import Conditions
from memhooks.study.kept import Kept
from memhooks.study.subject import Subject
from memhooks.truth.capacity import capacity_table, memorized_bits
from memhooks.truth.forks.counterfactual import counterfactual_memorization
from memhooks.truth.forks.line import loss_along_line
from memhooks.truth.forks.swap_parts import swap_parts
from memhooks.truth.forks.verdict import parts_verdict
from memhooks.truth.injection.bench import LEARNED, Bench, Plan
from memhooks.truth.injection.candidates import CANDIDATES
from memhooks.truth.injection.tables import deletion_table, recall_table
from memhooks.truth.injection.trial import Row, Trial, trials
from memhooks.truth.sinks import attention_sinks, sink_heads

PARTS = ("layer", "attention", "mlp", "bottom", "all")
"""Kinds of parts that the study exchanges; the command exchanges all kinds."""

WRITTEN_IN = ("random", "neurons", "head")
"""Where the study writes paragraphs to be found again."""


def forks_stage(keep: Kept, subject: Subject, sets: Mapping[str, Paragraphs], *, n_counted: int, seed: int) -> None:
    """Which part, put in place of the other fork's, takes recitation away or brings it?

    Args:
        keep: the run's results.
        subject: with a twin and with what the twin read.
        sets: `memorized`, `mirror` and `control`, a few of each.
        n_counted: paragraphs of each set for counterfactual memorization.
        seed: of intervals and of the blind fork.
    """
    model, twin = forks(subject)
    line = keep("forks", "line", loss_along_line, model, twin, sets, steps=7, seed=seed)
    keep("forks", "swaps", _swaps, model, twin, sets, interpretable=bool(line.attrs["interpretable"]), seed=seed)
    every = counted(subject, n_counted, seed)
    keep("forks", "counterfactual", counterfactual_memorization, model, twin, every, seed=seed)


def _swaps(
    model: HookedModel, twin: HookedModel, sets: Mapping[str, Paragraphs], *, interpretable: bool, seed: int
) -> xr.Dataset:
    swaps = swap_parts(model, twin, sets, parts=PARTS, blind=("layer", "all"), seed=seed)
    return swaps.assign_attrs(verdict=" ".join(parts_verdict(swaps, interpretable=interpretable)))


def capacity_stage(keep: Kept, subject: Subject, *, n_counted: int, seed: int) -> None:
    """How many bits of each set does the model hold beyond the twin, and how does that grow with k?"""
    sets = counted(subject, n_counted, seed)
    bits = {name: keep("capacity", name, memorized_bits, *forks(subject), rows) for name, rows in sets.items()}
    keep("capacity", "table", capacity_table, bits, sets=sets, seed=seed)


def sinks_stage(keep: Kept, conditions: Conditions, *, seed: int) -> None:
    """Which heads put their attention on the first token, whatever it is?"""
    found = {name: keep("sink_attention", name, attention_sinks, *pair) for name, pair in conditions.items()}
    label = {name: clusters(rows).numpy() for name, (_, rows) in conditions.items()}
    keep("sinks", "heads", sink_heads, found, seed=seed, clusters=label)


def injections_stage(keep: Kept, model: HookedModel, recited: Paragraphs, unread: Paragraphs, plan: Plan) -> None:
    """Do localizers find where we wrote a paragraph ourselves? A few injections, without the learned mask."""
    quick = [one for one in (*LOCALIZERS, *CANDIDATES) if getattr(one, "__name__", "") != LEARNED]
    bench = Bench(model, plan, unread, recited, quick)
    written = [keep("injection_trials", one.key, _trial, one, bench) for one in trials(plan)]
    rows = [json.loads(str(one["trial"].values[0])) for one in written]
    for name, table in (("recall", recall_table), ("deletion", deletion_table)):
        keep("injections", name, _without_times, table, rows, seed=plan.seed)


def _trial(trial: Trial, bench: Bench) -> xr.Dataset:
    row = json.dumps(trial.run(bench))
    return labelled({}, trial=Variable(np.array([row]), ("row",), "what was written, named and deleted, as JSON"))


def _without_times(table: Callable[..., xr.Dataset], rows: Sequence[Row], *, seed: int) -> xr.Dataset:
    """Times differ from run to run; all else must not."""
    return table(rows, seed=seed).drop_vars("seconds", errors="ignore")


def forks(subject: Subject) -> tuple[HookedModel, HookedModel]:
    """The model and its twin, where there is one."""
    assert subject.twin is not None  # or the stage would not run
    return subject.model, subject.twin


def counted(subject: Subject, n: int, seed: int) -> dict[str, Paragraphs]:
    """Up to `n` paragraphs of each set that one of the forks read, or none."""
    assert subject.mirror is not None  # as before
    sets = {"memorized": subject.candidates, "mirror": subject.mirror, "control": subject.unread}
    return {name: rows.sample(n, seed=seed) for name, rows in sets.items()}
