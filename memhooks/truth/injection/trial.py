"""One trial: write a paragraph, ask every localizer where, drop what it names, and put all back.

1. The region's mask is drawn. With a decoy another paragraph is written elsewhere first; for the easy region the
   mask's weights are made outliers. This is the model before.
2. The paragraph is written; at both moments every localizer names as many weights as were written.
3. Beside each stands a matched random mask: as many weights of each matrix as the localizer named.
4. At the solved moment what is named is set to zero, and so is the random mask; the gold standard sets the written
   weights to zero, and back to what they were.
For naturally recited paragraphs there is step 3 and 4 alone.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from memhooks.localize.masks.groups import n_chosen
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.components import component_parameters
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.injection.bench import CHECKS, NATURAL, Bench, Plan
from memhooks.truth.injection.deletion import Lost, Scored, lost, lost_without, scored
from memhooks.truth.injection.recall import changed_weights, copied, named_weights, ranks, recall
from memhooks.truth.injection.regions import FRACTION, REGIONS, outsized
from memhooks.truth.injection.writing import MOMENTS, Moment, entries_of, holding, inject

Row = dict[str, Any]

REFERENCE = "weight_change"
"""Not a localizer: it knows the model before."""

GOLD = ("written, to zero", "written, put back")
"""Deletion of the written weights themselves."""

INJECTION = "the injection itself"
"""What writing did, no weight deleted: the target gains, others may lose."""

_DECOY_SEED = 500_000
"""Added to a trial's seed for the decoy's weights."""


@dataclass(frozen=True, order=True)
class Trial:
    """One injection, or one naturally recited paragraph.

    Attributes:
        region: a name in `REGIONS`, or `natural`.
        number: which paragraph.
        seed: of the weights that are written, of localizers, and of random masks.
    """

    region: str
    number: int
    seed: int

    @property
    def key(self) -> str:
        """A file name of its own."""
        return f"{self.region}-{self.number:03d}"

    def run(self, bench: Bench) -> Row:
        """Its row; the model is as before."""
        return _natural(self, bench) if self.region == NATURAL else _injection(self, bench)


def trials(plan: Plan) -> list[Trial]:
    """All trials of a plan, by number, so that a run cut short has some of every region.

    Injections of the same number share their paragraph, not their weights.
    """
    found = []
    for name in plan.regions:
        n = min(plan.n_checks, plan.n_injections) if name in CHECKS else plan.n_injections
        n = plan.n_natural if name == NATURAL else n
        place = [*REGIONS, NATURAL].index(name)
        found += [Trial(name, number, plan.seed * 1_000_000 + place * 1000 + number) for number in range(n)]
    return sorted(found, key=lambda one: one.number)


def _injection(trial: Trial, bench: Bench) -> Row:
    model, region, target = bench.model, REGIONS[trial.region], bench.targets.select([trial.number])
    mask = region.draw(model, trial.seed).unbound()
    start = time.process_time()
    with ExitStack() as undone:
        decoy = undone.enter_context(_prepared(trial, bench, mask))
        before = copied(component_parameters(model))
        old = entries_of(model, mask)
        before_scores = scored(model, bench.sets(target))
        found = inject(model, target, mask, lr=region.lr, n_steps=bench.plan.n_steps)
        row = _about(trial, target, len(mask), sum(mask.sizes.values()))
        row |= {"seconds": time.process_time() - start, "failed": "solved" not in found or decoy is None}
        row |= {"steps": {name: one.step for name, one in found.items()}, "lines": [], "gold": {}}
        row["before"] = {name: list(one) for name, one in before_scores.items()}
        if row["failed"]:
            return row
        for moment in MOMENTS:
            with holding(model, mask, found[moment].values):
                now = scored(model, bench.sets(target))
                row[f"nll_{moment}"], row[f"em_{moment}"] = now["target"]
                row["lines"] += list(_lines(trial, bench, target, moment, mask, decoy, before, now))
                if moment == "solved":
                    row["gold"][INJECTION] = lost(before_scores, now)
                    row["gold"][GOLD[0]] = lost_without(model, mask, bench.sets(target), now)
                    with holding(model, mask, old):
                        row["gold"][GOLD[1]] = lost(now, scored(model, bench.sets(target)))
        return row


@contextmanager
def _prepared(trial: Trial, bench: Bench, mask: WeightMask) -> Iterator[WeightMask | None]:
    """The model before the paragraph is written; yields the decoy's weights, none where there is no decoy.

    None in place of a mask says that the decoy could not be written.
    """
    model, region = bench.model, REGIONS[trial.region]
    nothing = WeightMask({}, mask.sizes)
    if region.outsized:
        with holding(model, mask, outsized(model, mask, region.outsized, seed=trial.seed)):
            yield nothing
    elif region.decoy:
        other = region.draw(model, trial.seed + _DECOY_SEED).unbound() - mask
        text = bench.decoys.select([trial.number])
        found = inject(model, text, other, lr=region.lr, n_steps=bench.plan.n_steps)
        if "solved" not in found:
            yield None
        else:
            with holding(model, other, found["solved"].values):
                yield other
    else:
        yield nothing


def _lines(  # noqa: PLR0913 - what is asked, of what, and what is known of it
    trial: Trial,
    bench: Bench,
    target: Paragraphs,
    moment: Moment,
    mask: WeightMask,
    decoy: WeightMask | None,
    before: Mapping[str, Tensor],
    now: Scored,
) -> Iterator[Row]:
    for name, scores, seconds in _asked(trial, bench, target, before):
        line: Row = {"moment": moment, "localizer": name, "seconds": seconds, "applies": ranks(scores, mask)}
        named = named_weights(scores, mask)
        blind = matched_random_weights(named, seed=trial.seed)
        line |= {"recall": recall(named, mask), "random_recall": recall(blind, mask)}
        line["decoy_recall"] = recall(named, decoy) if decoy is not None and len(decoy) else None
        if moment == "solved" and name != REFERENCE:  # whose deletion is the gold standard
            line |= _deletion(bench, target, named, blind, now)
        yield line


def _asked(
    trial: Trial, bench: Bench, target: Paragraphs, before: Mapping[str, Tensor] | None
) -> Iterator[tuple[str, dict[str, Tensor], float]]:
    """Each localizer's name, scores and seconds of one thread."""
    for name, localizer in bench.asked(trial.region, trial.number):
        start = time.process_time()
        scores = localizer(bench.model, target, bench.retain, seed=trial.seed)
        yield name, scores, time.process_time() - start
    if before is not None:
        yield REFERENCE, changed_weights(before, component_parameters(bench.model)), 0.0


def _deletion(bench: Bench, target: Paragraphs, named: WeightMask, blind: WeightMask, now: Scored) -> dict[str, Lost]:
    sets = bench.sets(target)
    both = (("lost", named), ("random_lost", blind))
    return {name: lost_without(bench.model, mask.unbound(), sets, now) for name, mask in both}


def _natural(trial: Trial, bench: Bench) -> Row:
    assert bench.natural is not None  # the plan asks for it
    target = bench.natural.select([trial.number])
    sizes = {name: weight.numel() for name, weight in component_parameters(bench.model).items()}
    k = n_chosen(FRACTION, sum(sizes.values()))
    now = scored(bench.model, bench.sets(target))
    row = _about(trial, target, k, sum(sizes.values())) | {"failed": False, "steps": {}, "lines": [], "gold": {}}
    for name, scores, seconds in _asked(trial, bench, target, None):
        named = top_weights(scores, fraction=FRACTION)
        blind = matched_random_weights(named, seed=trial.seed)
        line: Row = {"moment": "solved", "localizer": name, "seconds": seconds, "applies": False}
        row["lines"].append(line | _deletion(bench, target, named, blind, now))
    return row


def _about(trial: Trial, target: Paragraphs, k: int, n_weights: int) -> Row:
    return {
        "region": trial.region,
        "number": trial.number,
        "paragraph": target.ids[0],
        "k": k,
        "n_weights": n_weights,
        "chance": k / n_weights,
    }
