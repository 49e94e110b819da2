"""What `memhooks reproduce` prints while it measures and afterwards, and its figures."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr
from rich.box import SIMPLE

from memhooks.cli.tables import write_page
from memhooks.report.page import Section
from memhooks.report.published_plots import plot_layer_sums, plot_published
from memhooks.terminal import print_table, say
from memhooks.truth.published.claim import Claim
from memhooks.truth.published.run import Run
from memhooks.truth.published.tables import claims_as_json
from memhooks.truth.published.verdicts import Row

_WORTH_SAYING = 60  # seconds
_HOLDS = {True: "yes", False: "no", None: "not tested"}


def measure(run: Run, *, quiet: bool) -> None:
    """Measure what is left; says beforehand about how long it takes, and each part when it is done."""
    parts = run.parts()
    left = run.left()
    if not left:
        return
    seconds = run.seconds(left)
    if seconds > _WORTH_SAYING:
        done = len(parts) - len(left)
        already = f" ({done} of {len(parts)} parts are done)" if done else ""
        memory = f", up to about {gigabytes:.0f} GB of memory" if (gigabytes := run.gigabytes(left)) >= 1 else ""
        sys.stderr.write(f"about {_duration(seconds)} on one core{memory}{already}; a killed run goes on\n")
    for number, (name, took) in enumerate(run.measure(), start=1):
        if not quiet:
            say(f"[{number}/{len(left)}] {name:<22} {took:7.1f} s")


def print_run(about: str, rows: Sequence[Row], claims: Sequence[Claim], summary: str) -> None:
    """The table, what stands beside it, the claims, and the summary."""
    say(about)
    print_table("Published and measured", [_line(one) for one in rows], box=SIMPLE)
    beside = [
        {"row": one.target.key, "beside it": name, "value": _number(value)}
        for one in rows
        if one.measured is not None
        for name, value in one.measured.beside.items()
    ]
    if beside:
        print_table("Controls and variants", beside, box=SIMPLE)
    if claims:
        # The first column is never wrapped, so it is the shortest.
        shown = [
            {"holds": _HOLDS[one.holds], "claim": one.text, "measured": one.measured,
             "control": one.control, "paper": one.published}
            for one in claims
        ]  # fmt: skip
        print_table("What the paper says in words", shown, box=SIMPLE)
    say(summary)


def draw(path: Path | None, about: str, groups: Mapping[str, xr.Dataset | None], claims: Sequence[Claim]) -> None:
    """Write the figures, if there is a path."""
    if path is None:
        return
    figures = [plot_published(table) for table in [groups["rows"]] if table is not None]
    if (sums := groups["layer_sums"]) is not None:
        figures.append(plot_layer_sums(sums))
    sections = [Section("Published and measured", figures=figures)]
    if claims:
        sections.append(Section("What the paper says in words", rows=claims_as_json(claims)))
    write_page(path, "The published table", about, sections)


def _line(row: Row) -> dict[str, object]:
    target, measured = row.target, row.measured
    ours = "-"
    if measured is not None:
        ours = _numbers(measured.values)
        if measured.low is not None and measured.high is not None:
            ours += f" [{_number(measured.low)}, {_number(measured.high)}]"
    verdict = row.verdict if row.verdict == "reproduced" and row.reason == "equal" else f"{row.verdict}: {row.reason}"
    return {
        "row": target.number,
        "quantity": target.quantity,
        "published": "> " * target.bound + _numbers(target.published),
        "measured": ours,
        "verdict": verdict,
    }


def _numbers(values: tuple[float, ...]) -> str:
    if len(values) > 6:
        return f"sum {_number(sum(values))}"
    return " ".join(map(_number, values))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minutes"
