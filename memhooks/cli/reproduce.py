"""`memhooks reproduce`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.options import FIGURES, Figure, Json, Model, Out, Seed, Threads
from memhooks.cli.tables import check_outputs, save_tree
from memhooks.errors import InputError

if TYPE_CHECKING:
    from memhooks.truth.published.run import Run


def reproduce(
    model: Model = "EleutherAI/gpt-neo-125M",
    paragraphs: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the published files: 50_50_preds.pt, 30_49_preds.pt, 11_29_preds.pt, 0_10_preds.pt, "
            "mem_toks.pt, perturbed_mem_toks.pt, mem_strings.csv. Rows whose files are missing say so."
        ),
    ] = None,
    extraction: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the extraction benchmark (train_prefix.npy, train_suffix.npy): a substitute for "
            "0_10_preds.pt is made of it, and rows that use it become statistical."
        ),
    ] = None,
    stand_in: Annotated[
        bool,
        typer.Option("--stand-in", help="Random weights of the 125M shape: the pipeline runs, nothing is compared."),
    ] = False,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Rows of each bin; by default 50 as published (organism: 20, stand-in: 2)."),
    ] = None,
    only: Annotated[str | None, typer.Option(help="Rows of the table, such as 6,15,21.")] = None,
    folder: Annotated[
        Path, typer.Option(help="Where each part is kept, so that a killed run goes on; one folder per run.")
    ] = Path("runs/reproduce"),
    seed: Seed = 0,
    threads: Threads = 0,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Do the published numbers come out again?

    Every number of the paper (arXiv:2403.19851) that given files allow, published beside measured, with a verdict:
    **reproduced**, **not reproduced**, or **not compared** and why. Deterministic rows (counts, gradient sums of
    the first 50 rows of each file, the NLL of 442 paragraphs) must agree to the published digits plus 0.1 %.
    Statistical ones must have the published value inside a 95 % interval over clusters of near-duplicates: the draws
    behind them were not published. What is read off a colour bar is compared by order of magnitude.

    The controls: for the rare-token correlation, what uniform attention gives by the same statistic, and a corrected
    one; for unlearning and editing, the same steps with a mask that holds (the published weight decay moves
    every weight), and kept text that was not trained on.

    Where the weights cannot be had it says so at once. `--model organism` measures the same on the bundled model's
    own sets: other numbers, but what the paper says in words can be asked of it, yes or no.

    Caveats: 0_10_preds.pt is not to be had, so the rows on non-memorized text need `--extraction`; the paper says ten
    steps of unlearning and its code takes five, which is what is done here. On one core GPT-Neo 125M takes hours.

    Examples:
    - `memhooks reproduce --model path/to/gpt-neo-125M --paragraphs path/to/files`
    - `memhooks reproduce --model organism --folder runs/organism-table`
    """
    check_outputs({FIGURES: [figure], ".nc": [out]})
    numbers = _numbers(only)

    from memhooks.cli.reproduce_shown import draw, measure, print_run
    from memhooks.truth.published.claims import claims
    from memhooks.truth.published.prepare import prepared
    from memhooks.truth.published.run import Run, check_numbers
    from memhooks.truth.published.substitute import Benchmark
    from memhooks.truth.published.tables import as_json as rows_as_json
    from memhooks.truth.published.tables import claims_as_json, layer_sums_of, summary, table_of
    from memhooks.truth.published.targets import NUMBERS

    wanted = NUMBERS if numbers is None else numbers
    check_numbers(wanted)
    benchmark = None if extraction is None else Benchmark(extraction, folder)
    setting = prepared(model, paragraphs, extraction=benchmark, stand_in=stand_in, rows=rows, numbers=wanted, seed=seed)
    run = Run(setting, None if setting.model is None else folder, wanted)
    measure(run, quiet=as_json)
    table = run.rows()
    said = [] if stand_in or setting.model is None else claims(setting, run.found())
    groups = {"rows": table_of(table, setting), "layer_sums": layer_sums_of(table, setting)}
    save_tree(out, {name: one for name, one in groups.items() if one is not None})
    about = _about(run, model)
    draw(figure, about, groups, said)
    if as_json:
        found = {"about": about, "rows": rows_as_json(table), "claims": claims_as_json(said)}
        sys.stdout.write(json.dumps(found | {"summary": summary(table, setting)}) + "\n")
    else:
        print_run(about, table, said, summary(table, setting))


def _numbers(only: str | None) -> tuple[int, ...] | None:
    """The rows of `--only`.

    Raises:
        InputError: they are not numbers between commas.
    """
    if only is None:
        return None
    try:
        return tuple(sorted({int(one) for one in only.split(",")}))
    except ValueError as error:
        raise InputError(f"--only takes rows of the table between commas, such as 6,15,21, got {only!r}") from error


def _about(run: "Run", model: str) -> str:
    """One line: the model, the text, and what is not as published about either."""
    setting, text = run.setting, run.setting.held
    who = "random weights of the 125M shape" if setting.stand_in else model if setting.model else "no model"
    bins = ", ".join(f"EM {name}: {len(rows)}" for name, rows in text.sets.items())
    more = [f"{name} is another file than the published one" for name in text.others]
    more += [text.substitute] if text.substitute else []
    return "; ".join([who, bins, f"{setting.rows} rows of each bin", *more])
