"""How far a study is, and about how long it will take from here."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from memhooks.study.kept import Made
from memhooks.study.settings import Settings
from memhooks.study.stages import Stage, expected_seconds


class Event(NamedTuple):
    """Something happened in a study.

    Attributes:
        kind: a stage begins ("stage"), a result is there ("result"), a stage is left out ("left out"), or all is
            done ("done").
        stage: which.
        about: the result's name, or why the stage is left out.
        seconds: since the run began.
        share: of the whole that is done, from 0 to 1.
        left: seconds to go, about; None where nothing is known yet.
        reused: whether the result was there before.
    """

    kind: str
    stage: str
    about: str
    seconds: float
    share: float
    left: float | None
    reused: bool = False


@dataclass
class Eta:
    """Turns the results of a run into events; the time that is left follows from how fast the stages before were."""

    stages: Sequence[Stage]
    settings: Settings
    watch: Callable[[Event], None]
    begun: float = field(default_factory=time.perf_counter)
    _stage: str = ""
    _stage_begun: float = 0.0
    _done: float = 0.0  # expected seconds of the stages that are done
    _computed: float = 0.0  # of those, what was not on disk already
    _took: float = 0.0  # what these really took

    def begin(self, stage: Stage) -> None:
        """A stage begins."""
        self._stage, self._stage_begun = stage, time.perf_counter()
        self._tell("stage", "")

    def made(self, result: Made) -> None:
        """A result of the stage is there."""
        self._tell("result", result.name, reused=result.reused)

    def end(self, stage: Stage, *, reused: bool) -> None:
        """All results of the stage are there."""
        expected = expected_seconds(stage, self.settings)
        self._done += expected
        if not reused:
            self._computed += expected
            self._took += time.perf_counter() - self._stage_begun
        self._stage = ""

    def left_out(self, stage: Stage, why: str) -> None:
        """A stage does not apply to this study."""
        self._done += expected_seconds(stage, self.settings)
        self._stage = ""
        self._tell("left out", why, stage=stage)

    def finish(self) -> None:
        """All stages are done."""
        self._tell("done", "")

    def _tell(self, kind: str, about: str, *, stage: str | None = None, reused: bool = False) -> None:
        now, total = time.perf_counter(), sum(expected_seconds(one, self.settings) for one in self.stages)
        pace = self._took / self._computed if self._computed else 1.0  # real seconds for one expected
        inside = 0.0
        if self._stage:
            whole = expected_seconds(self._stage, self.settings)  # type: ignore[arg-type]
            inside = min((now - self._stage_begun) / max(pace, 1e-9), 0.95 * whole)
        share = 1.0 if kind == "done" else (self._done + inside) / total
        left = (total - self._done - inside) * pace if self._computed or kind == "done" else None
        seconds = now - self.begun
        self.watch(Event(kind, self._stage if stage is None else stage, about, seconds, share, left, reused))
