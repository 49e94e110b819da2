"""What `memhooks study` shows while it runs: one bar over the whole, plain lines, JSON lines, or nothing."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from memhooks.report.claims import claims
from memhooks.report.findings import findings, recited_in_full, unlearning_rows, unlearning_summary
from memhooks.report.theme import NAMES
from memhooks.study.eta import Event
from memhooks.study.study import Study
from memhooks.terminal import console, print_table, say


class Shown(Protocol):
    """A way to show a run."""

    def __enter__(self) -> object: ...

    def __exit__(self, *error: object) -> object: ...

    def watch(self, event: Event) -> None:
        """Something happened."""

    def found(self, run: Study, report: Path) -> None:
        """All is done."""


def shown() -> Shown:
    """One bar in a terminal, else a line for each stage."""
    return Bar() if console.is_terminal else Plain()


class Silent(AbstractContextManager):
    """Nothing."""

    def __exit__(self, *error: object) -> None: ...

    def watch(self, event: Event) -> None:
        """Nothing."""

    def found(self, run: Study, report: Path) -> None:
        """Nothing."""


class Lines(Silent):
    """One JSON object a line."""

    def watch(self, event: Event) -> None:
        """The event, its names and numbers."""
        if event.kind != "done":
            _line(event._asdict())

    def found(self, run: Study, report: Path) -> None:
        """The verdicts and where the report lies."""
        verdicts = [{"claim": one.claim, "verdict": one.verdict, "why": one.why} for one in claims(run.results)]
        _line({"kind": "done", "report": str(report), "left out": run.left_out, "claims": verdicts})


class Plain(Silent):
    """A line for each stage, for logs."""

    def watch(self, event: Event) -> None:
        """Stages alone; results are too many."""
        if event.kind == "stage":
            left = "" if event.left is None else f", about {_minutes(event.left)} to go"
            say(f"[{100 * event.share:3.0f} %] {event.stage:<13} after {event.seconds:.0f} s{left}")
        elif event.kind == "left out":
            say(f"{event.stage} is left out: {event.about}")

    def found(self, run: Study, report: Path) -> None:
        """Tables, and where the report lies."""
        tell(run, report)


class Bar(Plain):
    """One bar over the whole study."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        self._progress = Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=console)
        self._task = self._progress.add_task("starting", total=1.0, left="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def watch(self, event: Event) -> None:
        """Where the run is, and how long it will take from here."""
        if event.kind == "left out":
            super().watch(event)
        about = event.about if event.kind == "result" else event.stage
        left = "" if event.left is None else f"about {_minutes(event.left)} to go"
        self._progress.update(self._task, description=f"{about[:34]:<34}", completed=event.share, left=left)


def tell(run: Study, report: Path) -> None:
    """What was found, in tables of 80 columns."""
    rows = [{"claim": one.claim, "here it": one.verdict} for one in claims(run.results)]
    print_table("Five published claims", rows)
    print_table("Which paragraphs are recited?", recited_in_full(run.results["recitation"]))
    columns = ("fingerprint", NAMES["memorized"], NAMES["control_own"], NAMES["twin"], "A differs from")
    if fingerprints := [{one: row[one] for one in columns if one in row} for row in findings(run.results)]:
        print_table("Fingerprints of memorized text: mean [95 % interval]", fingerprints)
    if "unlearning" in run.results:
        aside = ("never seen: EM", "other memorized: NLL")  # in the report; eighty columns are few
        summary = unlearning_summary(unlearning_rows(run.results["unlearning"]["all"]))
        print_table("Unlearning one paragraph", [{k: v for k, v in row.items() if k not in aside} for row in summary])
    for stage, why in run.left_out.items():
        say(f"{stage} is left out: {why}")
    say(f"open {report}")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _line(values: dict) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201 - stdout is for programs here
