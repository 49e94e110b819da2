"""What `memhooks unlearn` prints and draws."""

# Heavy imports stay inside the functions, as in the other commands.
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memhooks.cli.tables import Row, rows_of, write_page
from memhooks.cli.unlearn_found import goals, whereabouts
from memhooks.cli.unlearn_run import Run

_MOST_STEPS = 10  # rows of the table of steps
_TITLES = {  # of the summary's tables, by what a row is about and the set that it is measured on
    ("forgotten", "forget"): "Forgotten",
    ("kept", "others"): "Kept: other recited paragraphs",
    ("kept", "held out"): "Kept: never-seen text",
    ("kept", "forget"): "Kept: what it says after the forgotten prefixes",
    ("privacy", "forget"): "Privacy",
    ("privacy", "membership AUC"): "Privacy: told from never-seen text? AUC, 0.5 = no",
}
_DECIMALS = {"tokens": 1, "nats per token, 0 = certain": 2, "1 = certain": 1, "share": 2, "0.5": 2}  # others: 3
_SHORTER = {  # so that a row's name and numbers with their intervals fit 80 columns
    "exact match": "EM",
    " of its own continuation": ", own words",
    "99th percentile of tokens": "99th percentile",
    "same most likely token": "same top token",
    " tokens of the prefix": "",
    " random tokens in front": " in front",
    "one prefix token replaced, worst draw": "worst replaced",
    "one prefix token replaced": "one replaced",
    "extractable by 1000 samples, temperature 1": "in 1000 samples",
    "extractable by 1000 samples, the 40 likeliest tokens": "in 1000 samples, top 40",
    "different token pairs": "distinct pairs",
    "distance to the twin's": "from the twin's",
}


def print_run(run: Run, saved: Path | None) -> None:
    """What was forgotten, by moving what, on which way, at which cost, and what to do next."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    for line in (*_about(run), *_mask_lines(run)):
        say(line)
    print_table("Steps", _step_rows(run), box=SIMPLE_HEAD)
    say(_ended(run))
    for title, rows in _summary(run):
        print_table(title, rows, box=SIMPLE_HEAD)
    say("Means [95 % interval over paragraphs, near-duplicates drawn together; none of a single one].")
    if run.wanted.measures == "all":
        say(
            "last 10: only so many tokens of the prefix are given; in front: after so many random tokens; "
            "replaced: one token of the prefix is another, mean and worst of ten draws."
        )
    say("own words: what the untouched model says after the same prefixes. NLL and KL: nats per token.")
    for line in (*map(_goal, goals(run)), *_next(run, saved)):
        say(line)


def draw(path: Path | None, run: Run) -> None:
    """The figures as a page, if there is a path."""
    if path is None:
        return
    from memhooks.report.page import Section
    from memhooks.report.unlearning_plots import plot_evaluation, plot_mask, plot_steps

    ways = [*_about(run), *_mask_lines(run)]
    sections = [
        Section(
            "How did it go?", [_ended(run), *map(_goal, goals(run))], figures=[plot_steps(run.records, run.budget)]
        ),
        Section("What was forgotten, and what did it cost?", [], figures=[plot_evaluation(run.tree)]),
        Section("Which weights could move?", ways[1:], figures=[plot_mask(run.model, run.mask)]),
    ]
    write_page(path, "memhooks unlearn", ways[0], sections)


def _about(run: Run) -> list[str]:
    from memhooks.terminal import printable

    forget = run.sets.forget
    few = ", ".join(forget.ids[:8]) + (f" and {len(forget) - 8} more" if len(forget) > 8 else "")
    sizes = ", ".join(f"{name}: {len(rows)}" for name, rows in run.sets._asdict().items())
    lines = [
        f"{run.wanted.model}; {sizes.replace('_', ' ')} paragraphs; twin: {run.wanted.twin or 'none'}",
        f"to forget: {few}",
    ]
    if run.model.tokenizer is not None and len(forget) == 1:
        text = " ".join(str(run.model.tokenizer.decode(forget.continuation[0])).split())
        lines.append(printable(f"  ... {text[:100]} ..."))
    return lines


def _mask_lines(run: Run) -> list[str]:
    where = whereabouts(run.mask)
    layers, matrices = (
        ", ".join(f"{name} {share:.0%}" for name, share in list(where[part].items())[:4])
        for part in ("layers", "matrices")
    )
    return [
        f"may move ({run.wanted.localizer}): {where['weights']:,} weights, {100 * where['share']:.2g} % of "
        f"{sum(run.mask.sizes.values()):,}; most in {layers}; {matrices}",
        f"moved: {run.change.moved:,} of them; every other weight of the model is bit-identical (compared)",
    ]


def _step_rows(run: Run) -> list[Row]:
    """The first, the last, the kept and some evenly spaced steps between."""
    last = len(run.records) - 1
    n = min(last, _MOST_STEPS - 2)
    places = {round(place * last / n) for place in range(n + 1)} if n else {0}
    kept = run.kept["step"]
    shown = [record for place, record in enumerate(run.records) if place in places or record.step == kept]
    return [
        {
            "step": record.step,
            "forget EM": f"{record.forget_em:.1f}",
            "longest run": f"{record.longest_run:.1f}",
            "forget NLL": f"{record.forget_nll:.2f}",
            "retain KL": f"{max(record.retain_kl, 0.0):.4f}",
            "best": "kept" if record.step == kept else "so far" if record.best else "",
        }
        for record in shown
    ]


def _ended(run: Run) -> str:
    kept, last = run.kept["step"], run.records[-1]
    if last.retain_kl > run.budget.retain_kl:
        why = f"retain KL {last.retain_kl:.3f} is more than {run.budget.retain_kl:g}"
    elif run.budget.shortfall(
        forget_em=last.forget_em,
        longest_run=last.longest_run,
        forget_nll=last.forget_nll,
        n_continuation=run.sets.forget.n_continuation,
    ):
        why = "no steps are left"
    else:
        why = "all goals are met"
    first = f"Resumed at step {run.records[0].step}. " if run.records[0].step else ""
    return f"{first}Ended at step {last.step}: {why}. Kept: step {kept}."


def _summary(run: Run) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows of each table; the set's name goes from the rows into the title."""
    rows = rows_of(run.tree["summary"].to_dataset(), name="measure")
    for (about, prefix), title in _TITLES.items():
        own = [row for row in rows if row["about"] == about and str(row["measure"]).startswith(prefix)]
        if own:
            with_twin = run.wanted.twin is not None and about != "kept"
            yield title, [_summary_row(row, prefix, with_twin=with_twin) for row in own]


def _summary_row(row: dict[str, Any], prefix: str, *, with_twin: bool) -> Row:
    label = str(row["measure"]).removeprefix(prefix).removeprefix(": ").removeprefix(", ")
    for long, short in _SHORTER.items():
        label = label.replace(long, short)
    digits = next((n for start, n in _DECIMALS.items() if row["unit"].startswith(start)), 3)
    cells = Row({"": label, "before": _cell(row["before"][:1], digits), "after": _cell(row["after"], digits)})
    cells["change"] = _cell(row["change"], digits, sign="+")
    return cells | ({"twin": _cell(row["twin"][:1], digits)} if with_twin else {})


def _cell(ends: list[float | None], digits: int, *, sign: str = "") -> str:
    """A mean and its interval; one cluster has no interval, and one of no width is not worth a place."""
    mean, *interval = ["-" if end is None else f"{end:.{digits}f}" for end in ends]
    mean = f"+{mean}" if sign and ends[0] is not None and not mean.startswith("-") else mean
    useful = interval and "-" not in interval and set(interval) != {mean}
    return f"{mean} [{','.join(interval)}]" if useful else mean


def _goal(goal: Row) -> str:
    verdict = "met" if goal["met"] else "NOT met, try more --steps, another --lr or a larger --fraction"
    limit = (
        f"at most {goal['at_most']:.3g}" if "at_most" in goal else f"at least {goal['at_least']:.3g} ({goal['why']})"
    )
    return f"Goal, {goal['goal']} {limit}: {verdict}; it is {goal['value']:.3g} {goal['unit']}."


def _next(run: Run, saved: Path | None) -> list[str]:
    if saved is None:
        return [
            "The model's files are as they were; --delta change.safetensors saves the change, to apply or to attack."
        ]
    return [
        f"Next: memhooks apply {saved} --model {run.wanted.model} --out FOLDER",
        f"      memhooks attack --delta {saved} --model {run.wanted.model} --paragraphs {run.wanted.sets.paragraphs}",
    ]
