"""A whole study: recite, perturb, patch, ablate, look, check, unlearn, report; cut short, it goes on.

Every stage measures up to four conditions side by side:

- `memorized`: paragraphs that the model recites in full (the bundled organism read them as set A);
- `control`: like text that it never read (set C), with its true continuation;
- `control_own`: the same with the model's own continuation (the published convention);
- `twin`: the memorized paragraphs under a twin that never read them: the same tokens, other weights.

Every result is a file in the run folder before it is used. A run that was killed, or told to stop, goes on
where it was and ends as if nothing had happened, to the bit: same threads, same batches, same seeds.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from memhooks.errors import InputError, Stopped
from memhooks.one_run import alone_in
from memhooks.report.study_page import write_study_report
from memhooks.study.compute import compute
from memhooks.study.eta import Eta, Event
from memhooks.study.kept import DamagedError, Kept, Results
from memhooks.study.run_folder import begin, clear, settled
from memhooks.study.settings import Settings
from memhooks.study.stages import NEEDS, STAGES, Stage, missing, readers_of, with_needs
from memhooks.study.subject import Subject, load_subject


@dataclass
class Study:
    """A study and its run folder.

    Attributes:
        folder: for settings, manifest, results and report; holds one study.
        settings: how much of everything, and of what.
        results: what is there, by name and condition, after `run`.
        left_out: stages that do not apply to this model or these texts, and why.

    Example:
        >>> import tempfile, memhooks
        >>> from pathlib import Path
        >>> from memhooks.study.settings import Settings
        >>> few = Settings(n_planted=24, n_controls=8, n_lens=2, threads=1)
        >>> study = memhooks.Study(Path(tempfile.mkdtemp()), few)
        >>> study.run(["sinks"]).name  # all stages by default
        'report.html'
        >>> sorted(study.results)
        ['recitation', 'sink_attention', 'sinks']
    """

    folder: Path
    settings: Settings = field(default_factory=Settings)
    results: Results = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def run(
        self,
        stages: Sequence[str] = STAGES,
        *,
        again: Sequence[str] = (),
        restart: bool = False,
        max_minutes: float | None = None,
        watch: Callable[[Event], None] = lambda event: None,
    ) -> Path:
        """Run the stages that are not done yet, and write the report of all results in the folder.

        Args:
            stages: which; those that they read run, too.
            again: stages to run anew although they are done, with all that read them.
            restart: forget everything that the folder holds of a study.
            max_minutes: end before a result that might take longer than this in all.
            watch: is told of every stage and result.

        Returns:
            The path of the report.

        Raises:
            InputError: the folder cannot be written to, is in use, or holds another study; a stage that there is not;
                a file is missing or does not fit the model.
            Stopped: `max_minutes` are over; what is done is kept, and the same call goes on.
            OSError: the disk is full; what is done is kept.
        """
        before, wanted, dropped = _deadline(max_minutes), with_needs([*stages, *again]), readers_of(again)
        self.results.clear()
        self.left_out.clear()
        with alone_in(self.folder):
            self.settings = settled(self.folder, self.settings, anew=restart)
            with _threads(self.settings.threads):
                subject = load_subject(self.settings)  # before anything is deleted or written
                if restart:
                    clear(self.folder)
                begin(self.folder, self.settings, subject)
                keep = Kept(self.folder, before=before, results=self.results)
                wanted = with_needs([*wanted, *(stage for stage in dropped if keep.is_done(stage))])
                for stage in dropped:
                    keep.drop(stage)
                for stage in STAGES:
                    if stage not in wanted:
                        keep.finished(stage)  # of an earlier run, for the viewer and the report
                eta = Eta(wanted, self.settings, watch)
                keep.watch = eta.made
                for stage in wanted:
                    self._run_stage(keep, stage, subject, eta)
                path = write_study_report(
                    self.folder, self.results, counts=subject.candidates.counts, texts=_texts_of(subject)
                )
                eta.finish()
        return path

    def _run_stage(self, keep: Kept, stage: Stage, subject: Subject, eta: Eta) -> None:
        if why := missing(stage, subject) or self._unmet(stage):
            self.left_out[stage] = why
            eta.left_out(stage, why)
            return
        eta.begin(stage)
        there = keep.finished(stage)
        if not there:
            try:
                with keep.stage(stage):
                    compute(keep, stage, subject, self.settings)
            except DamagedError:
                raise
            except InputError as error:  # too little text for this stage must not end the others
                if stage == "recitation":
                    raise
                keep.forget()
                self.left_out[stage] = str(error)
                eta.left_out(stage, str(error))
                return
            if stage in ("ablation", "attention"):
                keep.drop("viewer")  # which shows the heads that these name
        eta.end(stage, reused=there)

    def _unmet(self, stage: Stage) -> str | None:
        """Which stage it would read was left out, in words."""
        absent = [one for one in NEEDS.get(stage, ()) if one in self.left_out]
        return f"reads the stage {absent[0]}, which is left out" if absent else None


def _texts_of(subject: Subject) -> Callable[[int], str] | None:
    tokenizer = subject.model.tokenizer
    return None if tokenizer is None else lambda token: str(tokenizer.decode([token]))


def _deadline(max_minutes: float | None) -> Callable[[], None]:
    """A check that ends the run where the next result might pass the limit; without one it never does.

    Raises:
        InputError: the limit is no number of minutes.
    """
    if max_minutes is not None and not 0 <= max_minutes < float("inf"):
        raise InputError(f"max_minutes must be a number of minutes from 0 on, got {max_minutes}")
    begun, last, longest = time.perf_counter(), time.perf_counter(), 0.0

    def check() -> None:
        nonlocal last, longest
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        if max_minutes is not None and now - begun + longest > 60 * max_minutes:
            raise Stopped(
                f"stopped before {max_minutes:g} minutes were over; the same command goes on from here "
                "(without --again and --restart, which would begin anew)"
            )

    return check


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """That many CPU threads, as rounding depends on how they share the work; then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
