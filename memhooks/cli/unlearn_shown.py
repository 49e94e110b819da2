"""What `memhooks unlearn` prints, writes as JSON and draws."""

# Heavy imports stay inside the functions, as in the other commands.
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.tables import Row, plain, rows_of, write_page
from memhooks.cli.unlearn_sets import Drawn

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.localize.masks.weight_mask import WeightMask
    from memhooks.model.loading import HookedModel
    from memhooks.unlearn.delta import Delta
    from memhooks.unlearn.recipe import Budget
    from memhooks.unlearn.steps import UnlearningStep

_MOST_STEPS = 10  # rows of the table of steps
_SHORTER = {  # so that a row's name and three numbers with their intervals fit 80 columns
    "forget: ": "",
    "forget, ": "",
    "exact match": "EM",
    " of its own continuation": ", own words",
    "99th percentile of tokens": "99th percentile",
    "same most likely token": "same top token",
}


@dataclass(frozen=True)
class Run:
    """Everything there is to say about a run.

    Attributes:
        name: of the model.
        twin: its name, if there is one.
        localizer: that chose the weights.
        model: as it was.
        sets: the paragraphs.
        mask: the chosen weights.
        budget: the goals.
        whence: where the goal of the NLL comes from.
        change: of the weights.
        records: of the steps.
        tree: the evaluation.
        saved: where the change was saved, if it was.
    """

    name: str
    twin: str | None
    localizer: str
    model: "HookedModel"
    sets: Drawn
    mask: "WeightMask"
    budget: "Budget"
    whence: str
    change: "Delta"
    records: "list[UnlearningStep]"
    tree: "xr.DataTree"
    saved: Path | None


def step_table(run: Run) -> "xr.Dataset":
    """The records over `step`."""
    import numpy as np

    from memhooks.model.labelled import Variable, labelled

    units = {
        "loss": "what is minimised",
        "forget_nll": "nats per token, 0 = certain",
        "forget_em": "tokens, 0 = none",
        "longest_run": "tokens, 0 = none",
        "retain_kl": "nats per token, 0 = unchanged; of this step's retained paragraphs",
        "best": "whether it was the best step so far",
    }
    labels = {"step": [record.step for record in run.records]}
    columns = {
        name: Variable(np.array([getattr(record, name) for record in run.records]), ("step",), unit, labels)
        for name, unit in units.items()
    }
    return labelled({"model_hash_before": run.change.before, **run.change.about}, **columns)


def to_json(run: Run) -> dict[str, Any]:
    """Everything that is printed, as plain values."""
    return {
        "model": run.name,
        "twin": run.twin,
        "forget": list(run.sets.forget.ids),
        "paragraphs": {name: len(rows) for name, rows in run.sets._asdict().items()},
        "mask": {"localizer": run.localizer, **_whereabouts(run.mask)},
        "steps": [{name: _number(value) for name, value in asdict(record).items()} for record in run.records],
        "kept_step": _kept(run)["step"],
        "summary": rows_of(run.tree["summary"].to_dataset(), name="measure"),
        "goals": goals(run),
        "frozen_outside": True,  # `unlearn` raises otherwise
        "delta": {
            "before": run.change.before,
            "after": run.change.after,
            "moved": run.change.moved,
            "norm": run.change.norm,
            "file": None if run.saved is None else str(run.saved),
        },
    }


def goals(run: Run) -> list[Row]:
    """Each goal: its name, what was reached, the limit, and whether it is met."""
    after = run.tree["summary"].to_dataset()["after"]
    n = run.sets.forget.n_continuation
    limits = {
        "exact match": ("forget EM", run.budget.forget_em),
        "longest run": ("longest run", run.budget.longest_run),
    }
    found = []
    for measure, (name, limit) in limits.items():
        value = float(after.sel(row=f"forget: {measure}"))
        unit = f"of {n} tokens"
        found.append(Row(goal=name, value=value, unit=unit, at_most=limit, met=value <= limit))
    if (least := run.budget.forget_nll) is not None:
        value = float(after.sel(row="forget: NLL"))
        unit = "nats per token"
        found.append(Row(goal="forget NLL", value=value, unit=unit, at_least=least, why=run.whence, met=value >= least))
    return found


def print_run(run: Run) -> None:
    """What was forgotten, by moving what, on which way, at which cost, and what to do next."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    for line in (*_about(run), *_mask_lines(run)):
        say(line)
    print_table("Steps", _step_rows(run), box=SIMPLE_HEAD)
    say(_ended(run))
    summary = rows_of(run.tree["summary"].to_dataset(), name="measure")
    for about, title in (("forgotten", "Forgotten"), ("kept", "Kept"), ("privacy", "Privacy")):
        rows = [_summary_row(row, twin=run.twin is not None) for row in summary if row["about"] == about]
        if rows:
            print_table(f"{title} [95 % interval over paragraphs]", rows, box=SIMPLE_HEAD)
    say("own words: what the untouched model says after the same prefixes. NLL and KL: nats per token.")
    for line in (*map(_goal, goals(run)), *_next(run)):
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
    lines = [f"{run.name}; {sizes.replace('_', ' ')} paragraphs; twin: {run.twin or 'none'}", f"to forget: {few}"]
    if run.model.tokenizer is not None and len(forget) == 1:
        text = " ".join(str(run.model.tokenizer.decode(forget.continuation[0])).split())
        lines.append(printable(f"  ... {text[:100]} ..."))
    return lines


def _whereabouts(mask: "WeightMask") -> dict[str, Any]:
    """How many weights, which share, and the shares of the layers and matrices in it, the largest first."""
    layers, matrices = Counter[str](), Counter[str]()
    for name, own in mask.indices.items():
        _, layer, _, matrix = name.split(".")
        layers[f"L{layer}"] += len(own)
        matrices[matrix] += len(own)
    shares = [{name: count / len(mask) for name, count in one.most_common() if count} for one in (layers, matrices)]
    return {"weights": len(mask), "share": mask.fraction, "layers": shares[0], "matrices": shares[1]}


def _mask_lines(run: Run) -> list[str]:
    where = _whereabouts(run.mask)
    layers, matrices = (
        ", ".join(f"{name} {share:.0%}" for name, share in list(where[part].items())[:4])
        for part in ("layers", "matrices")
    )
    return [
        f"may move ({run.localizer}): {where['weights']:,} weights, {100 * where['share']:.2g} % of "
        f"{sum(run.mask.sizes.values()):,}; most in {layers}; {matrices}",
        f"moved: {run.change.moved:,} of them; every other weight of the model is bit-identical (compared)",
    ]


def _kept(run: Run) -> Mapping[str, Any]:
    """The record of the step whose weights were kept."""
    record: Any = run.change.about["record"]
    return record


def _step_rows(run: Run) -> list[Row]:
    """The first, the last, the kept and some evenly spaced steps between."""
    last = len(run.records) - 1
    n = min(last, _MOST_STEPS - 2)
    places = {round(place * last / n) for place in range(n + 1)} if n else {0}
    kept = _kept(run)["step"]
    shown = [record for place, record in enumerate(run.records) if place in places or record.step == kept]
    return [
        {
            "step": record.step,
            "forget EM": f"{record.forget_em:.1f}",
            "longest run": f"{record.longest_run:.1f}",
            "forget NLL": f"{record.forget_nll:.2f}",
            "retain KL": f"{record.retain_kl:.4f}",
            "best": "kept" if record.step == kept else "so far" if record.best else "",
        }
        for record in shown
    ]


def _ended(run: Run) -> str:
    kept, last = _kept(run)["step"], run.records[-1]
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


def _summary_row(row: Row, *, twin: bool) -> Row:
    label = str(row["measure"])
    for long, short in _SHORTER.items():
        label = label.replace(long, short)
    cells = Row({"": label, "before": _cell(row["before"]), "after": _cell(row["after"])})
    cells["change"] = _cell(row["change"], sign="+")
    return cells | ({"twin": _cell(row["twin"][:1])} if twin and row["about"] != "kept" else {})  # pyright: ignore[reportIndexIssue]


def _cell(ends: Any, sign: str = "") -> str:  # noqa: ANN401 - a list of JSON's numbers
    """A mean and its interval, in three digits; one cluster has no interval."""
    texts = [None if end is None else f"{end:{sign}.3g}" for end in ends]
    mean, *interval = ["-" if text is None else text for text in texts]
    return mean if None in texts or not interval else f"{mean} [{','.join(interval)}]"


def _goal(goal: Row) -> str:
    verdict = "met" if goal["met"] else "NOT met, try more --steps, another --lr or a larger --fraction"
    limit = (
        f"at most {goal['at_most']:.3g}" if "at_most" in goal else f"at least {goal['at_least']:.3g} ({goal['why']})"
    )
    return f"Goal, {goal['goal']} {limit}: {verdict}; it is {goal['value']:.3g} {goal['unit']}."


def _next(run: Run) -> list[str]:
    if run.saved is None:
        return [
            "The model's files are as they were; --delta change.safetensors saves the change, to apply or to attack."
        ]
    return [
        f"Next: memhooks apply {run.saved} --model {run.name} --out FOLDER",
        f"      memhooks attack {run.saved} --model {run.name}",
    ]


def _number(value: object) -> object:
    """None for NaN."""
    return plain(value) if isinstance(value, float) else value
