"""What the paper says of unlearning and editing, decided with the mask that holds.

The published weight decay moves every weight, whatever the mask: with it nothing can be said of the mask. What it
gives stands beside. Kept and held-out text decide as well: a change that harms them is not one of a few weights.
"""

from collections.abc import Mapping

import numpy as np

from memhooks.measure.intervals import Interval, bootstrap_mean
from memhooks.paragraphs.splits import clusters
from memhooks.truth.published.claim import Claim, shown
from memhooks.truth.published.parts import Found
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.unlearned import part_name as trial_of
from memhooks.truth.published.unlearned import trial_paragraphs

AS_GOOD, UNLEARNED, UNTOUCHED = 5.0, 45.0, 49.0
"""Tokens of EM: masks do as well within the first; below the second something is unlearned, above the third nothing."""


def sparse(setting: Setting, found: Found) -> list[Claim]:
    """Do the top weights unlearn as well as all, and keep as well?"""
    every, top, leaky = (
        _changed(setting, found, 9),
        _changed(setting, found, 10),
        _changed(setting, found, 10, leak=True),
    )
    if every is None or top is None or leaky is None:
        return []
    (mean, low, high), own = _gap(setting, top, every), _mean(setting, every)
    beside = _kept_gaps(setting, found, 10, 9)
    holds = None
    if not np.isnan(low):
        no_worse = all(ends[1] > -AS_GOOD for ends in beside.values())
        holds = bool(own[2] < UNLEARNED and high < AS_GOOD and no_worse)
    text = "the top 0.1 % of the weights unlearn as well as all, and keep as well"
    if every.mean() >= UNLEARNED:
        text += " (here neither unlearns)"
    measured = f"EM {top.mean():.1f} (exact mask), difference {shown((mean, low, high), '+.1f')}"
    control = f"all {every.mean():.1f}; published, whose decay moves every weight, {leaky.mean():.1f}; {_said(beside)}"
    return [Claim(text, holds, measured, control, "26.8 and 26.9")]


def random(setting: Setting, found: Found) -> list[Claim]:
    """Does a random mask do nothing?"""
    ours, other, leaky = (
        _changed(setting, found, number, leak=leak) for number, leak in ((11, False), (10, False), (11, True))
    )
    if ours is None or leaky is None:
        return []
    kept = {
        name: _changed(setting, found, 11, "NMP", leak=leak) for name, leak in (("published", True), ("exact", False))
    }
    own = _mean(setting, ours)
    control = f"published, whose decay moves every weight, {leaky.mean():.1f}; kept text "
    control += ", ".join(f"{one.mean():.1f} ({name})" for name, one in kept.items() if one is not None)
    text = "a random 0.1 % does nothing to memorized text, where the top 0.1 % unlearns"
    holds = None
    if other is not None and not np.isnan(own[1]):
        theirs = _mean(setting, other)
        control = f"top 0.1 %: {shown(theirs, '.1f')}; {control}"
        holds = bool(own[1] > UNTOUCHED and theirs[2] < UNLEARNED)
    return [Claim(text, holds, f"EM {shown(own, '.1f')} (exact mask)", control, "49.8; kept text 44.9")]


def editing(setting: Setting, found: Found) -> list[Claim]:
    """Is editing harder than unlearning, where it does not keep more?"""
    unlearn, edit = _changed(setting, found, 10), _changed(setting, found, 13)
    if unlearn is None or edit is None:
        return []
    ends, beside = _gap(setting, edit, unlearn), _kept_gaps(setting, found, 13, 10)
    leaky = [_changed(setting, found, number, leak=True) for number in (13, 10)]
    holds = None
    if not np.isnan(ends[1]):  # where more is kept as well, the change is weaker, not harder
        holds = bool(ends[1] > 0 and all(one[2] < AS_GOOD for one in beside.values()))
    text = "editing is harder than unlearning (top 0.1 %), and does not keep more"
    measured = f"EM {edit.mean():.1f} (exact mask), difference {shown(ends, '+.1f')}"
    published = " and ".join(f"{one.mean():.1f}" for one in leaky if one is not None)
    control = f"unlearn {unlearn.mean():.1f}; published, whose decay moves every weight, {published}; {_said(beside)}"
    return [Claim(text, holds, measured, control, "33.7 and 26.8")]


def _changed(setting: Setting, found: Found, number: int, of: str = "MP", *, leak: bool = False) -> np.ndarray | None:
    """EM of each trial: by default of the mask that holds, with the leak as published."""
    variant = "published" if leak else "exact"
    trials = [found.get(trial_of(number, trial)) for trial in range(setting.trials)]
    done = [float(np.mean(one[variant][of])) for one in trials if one is not None]
    return np.array(done) if done and len(done) == len(trials) else None


def _kept_gaps(setting: Setting, found: Found, number: int, other: int) -> dict[str, Interval]:
    """Difference of the EM of kept and of held-out text between two rows, with the mask that holds."""
    pairs = {of: [_changed(setting, found, one, of) for one in (number, other)] for of in ("NMP", "held out")}
    return {of: _gap(setting, one, two) for of, (one, two) in pairs.items() if one is not None and two is not None}


def _said(beside: Mapping[str, Interval]) -> str:
    names = {"NMP": "kept", "held out": "held-out"}
    return "; ".join(f"{names[of]} text {shown(ends, '+.1f')}" for of, ends in beside.items())


def _gap(setting: Setting, one: np.ndarray, other: np.ndarray) -> Interval:
    return _mean(setting, one - other)


def _mean(setting: Setting, values: np.ndarray) -> Interval:
    near = clusters(trial_paragraphs(setting)[0]).numpy()[: len(values)]
    return bootstrap_mean(values, clusters=near, seed=setting.seed)
