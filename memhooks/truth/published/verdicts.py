"""Published beside measured, and what follows: reproduced, not reproduced, or not compared and why.

A comparison asks for the published files (by hash), the published weights (by row 21) and as much data as published:
little data has a wide interval, in which anything lies.
"""

import math
from dataclasses import dataclass
from typing import Literal

from memhooks.truth.published.files import BIN_FILES
from memhooks.truth.published.parts import Measured
from memhooks.truth.published.setting import (
    PUBLISHED_ATTENDED,
    PUBLISHED_MEMORIZED,
    PUBLISHED_ROWS,
    PUBLISHED_TRIALS,
    Setting,
)
from memhooks.truth.published.targets import BINS, MP, NMP, Target, target

Verdict = Literal["reproduced", "not reproduced", "not compared"]
FINGERPRINT = "21.all"
"""The row that tells whether the weights are the published ones: the NLL of each of 442 paragraphs."""
_NEAR = math.sqrt(10)
_BY_BATCH = (6, 7, 8)
"""Rows of the gradients of one batch, which must be of the published size."""
_UNLEARNED, _MIXED = range(9, 15), (15, 16)
_LAYERS = {"17": 2, "18.L1": 2, "18.L2": 3}
"""How many layers a model must have for that row."""
_LEAST: dict[int, tuple[int, str]] = dict.fromkeys((4, 6, 7, 8, 17), (PUBLISHED_ROWS, "rows"))
_LEAST |= dict.fromkeys((19, 20), (PUBLISHED_ROWS, "pairs"))
_LEAST |= dict.fromkeys(_UNLEARNED, (PUBLISHED_TRIALS, "trials"))
_LEAST |= dict.fromkeys((15, 16, 18), (PUBLISHED_ATTENDED, "paragraphs"))
_LEAST |= {21: (PUBLISHED_MEMORIZED, "rows")}
_RANGE = {"tokens": 50.0, "-1 to 1": 2.0}
_WIDEST = 0.1
"""Half of an interval, in parts of the quantity's range (of its published value, where it has no range)."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        target: what was published.
        measured: None where it could not be measured.
        verdict: of the comparison.
        reason: of the verdict, in words.
    """

    target: Target
    measured: Measured | None
    verdict: Verdict
    reason: str


def judged(target: Target, measured: Measured | None, setting: Setting, *, fingerprint: Measured | None = None) -> Row:
    """The row of one target.

    Args:
        target: what was published.
        measured: what stands beside it, None where it could not be measured.
        setting: of the run.
        fingerprint: what was measured for row 21; without it no row that needs the model is compared.
    """
    missing = setting.held.lacks(target.needs)
    if missing:
        return Row(target, None, "not compared", f"missing: {', '.join(missing)}")
    if measured is None:
        return Row(target, None, "not compared", _why_not(target, setting))
    against = _objection(target, measured, setting)
    if not against and not _of_the_weights(target, setting, fingerprint):
        against = "not shown to be the published weights (row 21)"
    if against:
        return Row(target, measured, "not compared", against)
    verdict, reason = _compared(target, measured, statistical=_is_statistical(target, setting))
    return Row(target, measured, verdict, "; ".join([reason, *_provisos(target, setting)]))


def _of_the_weights(one: Target, setting: Setting, fingerprint: Measured | None) -> bool:
    """Whether the row needs no weights, or they have been shown to be the published ones."""
    if "model" not in one.needs or one.key == FINGERPRINT:
        return True
    return judged(target(FINGERPRINT), fingerprint, setting).verdict == "reproduced"


def _why_not(target: Target, setting: Setting) -> str:
    n = None if setting.model is None else setting.model.cfg.n_layers
    if n is not None and n < _LAYERS.get(target.key, 0):
        return f"not measured: the model has {n} layer{'s' * (n != 1)}"
    if target.key == "5":
        return "no such paragraph, or another vocabulary"
    if target.key.startswith("21"):
        return setting.not_comparable or "the examples are not among these rows"
    return setting.not_comparable or "not measured"


def _objection(target: Target, measured: Measured, setting: Setting) -> str:
    """What stands against a comparison of a measured number, or ""."""
    if setting.not_comparable:
        return setting.not_comparable
    held = setting.held
    every = BINS if target.key == "1.all" and set(BINS) <= set(held.sets) else ()  # then it is their sum
    foreign = held.foreign((*target.needs, *target.whole, *every))
    if foreign:
        return f"another file: {', '.join(foreign)}"
    lacking = held.lacks(target.whole)
    if lacking:
        return f"of other text: {', '.join(lacking)} missing"
    if target.key == "5":
        return f"one unnamed paragraph; {measured.note}"
    return _of_a_substitute(target, setting) or _too_little(target, measured, setting)


def _of_a_substitute(target: Target, setting: Setting) -> str:
    if not setting.held.substitute:
        return ""
    if target.number in (1, 3) and NMP in target.needs:
        return f"the bin {NMP} is a substitute"
    if target.number in _MIXED:
        memorized, other = (len(setting.held.sets[name]) for name in (MP, NMP))
        share = memorized / (memorized + other)
        return f"of a substitute: another mixture, {100 * share:.0f} % memorized instead of 3.4 %"
    return ""


def _too_little(target: Target, measured: Measured, setting: Setting) -> str:
    """Which number of rows or trials is less than was published, or, for one batch, another."""
    strings = setting.held.strings
    if "strings" in target.needs and strings is not None and len(strings.nll) < PUBLISHED_MEMORIZED:
        return f"{len(strings.nll)} of {PUBLISHED_MEMORIZED} rows of the table"
    least, of = _LEAST.get(target.number, (0, ""))
    if measured.n < least or (target.number in _BY_BATCH and measured.n != least):
        return f"{measured.n} of {least} {of}"
    return ""


def _provisos(target: Target, setting: Setting) -> list[str]:
    """What has to be known about a verdict."""
    found = []
    if setting.held.substitute and NMP in target.needs:
        found.append(f"of a substitute of {BIN_FILES[NMP]}")
    if target.number in _UNLEARNED:
        found.append("5 steps, as the code takes; the paper says 10")
    if target.key == "21.examples":
        found.append(f"rows picked by the published value: adds nothing to {FINGERPRINT}")
    return found


def _is_statistical(target: Target, setting: Setting) -> bool:
    """A number of a substitute's rows is statistical, whatever it was of the published ones."""
    return target.kind == "statistical" or (
        target.kind == "deterministic" and NMP in target.needs and bool(setting.held.substitute)
    )


def _compared(target: Target, measured: Measured, *, statistical: bool) -> tuple[Verdict, str]:
    if target.kind == "scale":
        return _of_scale(target, measured)
    if statistical:
        return _inside(target, measured)
    if target.within(measured.values):
        return "reproduced", f"within {target.tolerance:g} + 0.1 %" if target.tolerance else "equal"
    off = max(abs(a - b) for a, b in zip(measured.values, target.published, strict=True))
    return "not reproduced", f"off by {off:.3g}, {target.why}"


def _of_scale(target: Target, measured: Measured) -> tuple[Verdict, str]:
    ratio = measured.values[0] / target.published[0]
    if target.bound:
        reason = "one-sided: the bar's last tick is a lower bound"
        return ("reproduced" if ratio >= 1 else "not reproduced"), reason
    near = 1 / _NEAR < ratio < _NEAR
    return ("reproduced" if near else "not reproduced"), "order of magnitude alone (a factor of 3.2 either way)"


def _inside(target: Target, measured: Measured) -> tuple[Verdict, str]:
    """A wide interval without the published value speaks against it; one with it says nothing."""
    if measured.low is None or measured.high is None:
        return "not compared", "no interval: one cluster or one batch"
    if not measured.low <= target.published[0] <= measured.high:
        return "not reproduced", "published value outside the 95 % interval"
    half, most = (measured.high - measured.low) / 2, _WIDEST * _RANGE.get(target.unit, abs(target.published[0]))
    if half > most:
        return "not compared", f"too wide: the interval is +-{half:.3g}, at most +-{most:.3g} would tell"
    return "reproduced", "published value inside the 95 % interval"
