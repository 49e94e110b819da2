"""Published beside measured, and what follows: reproduced, not reproduced, or not compared and why."""

import math
from dataclasses import dataclass
from typing import Literal

from memhooks.truth.published.parts import Measured
from memhooks.truth.published.setting import PUBLISHED_ROWS, Setting
from memhooks.truth.published.targets import NMP, Target

Verdict = Literal["reproduced", "not reproduced", "not compared"]
_NEAR = math.sqrt(10)
_BY_BATCH = (6, 7, 8)
"""Rows of the gradients of one batch, which must be of the published size."""


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


def judged(target: Target, measured: Measured | None, setting: Setting) -> Row:
    """The row of one target."""
    missing = setting.held.lacks(target.needs)
    if missing:
        return Row(target, None, "not compared", f"missing: {', '.join(missing)}")
    if measured is None:
        return Row(target, None, "not compared", _why_not(target, setting))
    against = _objection(target, setting)
    if against:
        return Row(target, measured, "not compared", against)
    return Row(target, measured, *_compared(target, measured, statistical=_is_statistical(target, setting)))


def _why_not(target: Target, setting: Setting) -> str:
    if target.key == "5":
        return "no such paragraph, or another vocabulary"
    if target.key.startswith("21"):
        return setting.not_comparable or "the examples are not among these rows"
    return setting.not_comparable or "not measured"


def _objection(target: Target, setting: Setting) -> str:
    """What stands against a comparison of a measured number, or ""."""
    if setting.not_comparable:
        return setting.not_comparable
    if target.number in _BY_BATCH and setting.rows != PUBLISHED_ROWS:
        return f"{setting.rows} of {PUBLISHED_ROWS} rows"
    lacking = setting.held.lacks(target.whole)
    if lacking:
        return f"of other text: {', '.join(lacking)} missing"
    if target.number in (1, 3) and NMP in target.needs and setting.held.substitute:
        return "the bin 0-10 is a substitute"
    return ""


def _is_statistical(target: Target, setting: Setting) -> bool:
    """A number of a substitute's rows is statistical, whatever it was of the published ones."""
    return target.kind == "statistical" or (
        target.kind == "deterministic" and NMP in target.needs and bool(setting.held.substitute)
    )


def _compared(target: Target, measured: Measured, *, statistical: bool) -> tuple[Verdict, str]:
    if target.kind == "scale":
        ratio = measured.values[0] / target.published[0]
        near = 1 / _NEAR < ratio < _NEAR
        return ("reproduced" if near else "not reproduced"), "order of magnitude alone (a factor of 3.2 either way)"
    if not statistical:
        if target.within(measured.values):
            return "reproduced", f"within {target.tolerance:g} + 0.1 %" if target.tolerance else "equal"
        off = max(abs(a - b) for a, b in zip(measured.values, target.published, strict=True))
        return "not reproduced", f"off by {off:.3g}, {target.why}"
    if measured.low is None or measured.high is None:
        return "not compared", "no interval: one cluster or one batch"
    if measured.low <= target.published[0] <= measured.high:
        return "reproduced", "published value inside the 95 % interval"
    return "not reproduced", "published value outside the 95 % interval"
