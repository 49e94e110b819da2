"""The command line: `memhooks study`, `memhooks measure`, `memhooks inspect`."""

# Heavy imports stay inside the commands, so that --help answers at once.
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.inspection import Inspection

app = typer.Typer(
    help="Where does a language model keep a paragraph that it can recite, and can we remove just that?",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
console = Console()
Model = Annotated[
    str, typer.Option(help="`organism`, `organism-twin`, a Hugging Face folder, or a hub name such as EleutherAI/gpt-neo-125M.")
]


@app.command()
def study(
    out: Annotated[Path, typer.Option(help="Run folder: manifest, results/*.nc, report.html.")] = Path("runs/study"),
    full: Annotated[bool, typer.Option("--full/--quick", help="More paragraphs at every stage (about an hour), or a few minutes.")] = False,  # noqa: FBT002
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's choice.")] = 0,
) -> None:
    """Run the whole study on the bundled model and write one HTML report.

    Recitation, prefix perturbation, gradients, attention to rare tokens, activation
    patching and unlearning, each on memorized paragraphs beside never-seen ones and
    beside the twin that never read them.

    Example: `memhooks study --out runs/mine`
    """
    from memhooks.report.findings import findings, recited_in_full, unlearning_summary
    from memhooks.study import FULL, STAGES, Settings, Study

    _set_threads(threads)
    run = Study(out, FULL if full else Settings())
    start = time.perf_counter()
    for number, (stage, seconds) in enumerate(run.run(), start=1):
        console.print(f"[{number}/{len(STAGES)}] {stage:<13} {seconds:6.1f} s", highlight=False)
    path = run.write_report()
    _print_table("Which paragraphs are recited?", recited_in_full(run.results["recitation"]))
    _print_table("Fingerprints of memorized text: mean [95 % interval]", findings(run.results))
    _print_table("Unlearning one paragraph", unlearning_summary(run.unlearned))
    console.print(f"{time.perf_counter() - start:.0f} s in all; open {path}", highlight=False, soft_wrap=True)


@app.command()
def measure(
    paragraphs: Annotated[str, typer.Option(help="A .pt, .npy, .jsonl, .csv or .parquet file; or A, B, C, natural, licence_never, licence_once.")],
    model: Model = "organism",
    n_prefix: Annotated[int | None, typer.Option(help="Tokens given to the model; by default the file's own, else 50.")] = None,
    n_tokens: Annotated[int, typer.Option(help="Text is cut to this many tokens.")] = 100,
    reference: Annotated[
        Literal["text", "model"], typer.Option(help="Compare with the text, or with the model's own greedy continuation.")
    ] = "text",
    out: Annotated[Path | None, typer.Option(help="Write the labelled result to this .nc file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,  # noqa: FBT002
) -> None:
    """How much of each paragraph does the model recite?

    Examples: `memhooks measure --paragraphs A`;
    `memhooks measure --model path/to/gpt-neo --paragraphs mine.jsonl --out mine.nc`
    """
    from memhooks.measure.recitation import recitation
    from memhooks.model.export import check_writable
    from memhooks.model.labelled import save_result
    from memhooks.model.loading import load_model
    from memhooks.paragraphs.files import load_paragraphs

    if out is not None:
        check_writable(out.parent)
    loaded = load_model(model)
    rows = bundled_paragraphs(paragraphs) or load_paragraphs(
        paragraphs, tokenizer=loaded.tokenizer, n_prefix=n_prefix, n_tokens=n_tokens
    )
    result = recitation(loaded, rows, reference=reference)
    if out is not None:
        save_result(result, out)
    levels = summarize(result, rows.counts if reference == "text" else None)
    if as_json:
        sys.stdout.write(json.dumps(levels) + "\n")
    else:
        _print_table(f"Recitation of {len(rows)} paragraphs by {model}", [{k: _short(v) for k, v in row.items()} for row in levels])


@app.command()
def inspect(
    text: Annotated[str, typer.Argument(help="The paragraph, at least prefix and one more token; or @NAME for a bundled one, such as @A300.")],
    model: Model = "organism",
    n_prefix: Annotated[int | None, typer.Option(help="Tokens given to the model; by default half of the text.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Write the per-token figure to this .html file.")] = None,
) -> None:
    """One paragraph at a glance: EM, NLL per token, heads that matter, prefix tokens that carry it.

    Example: `memhooks inspect @A340 --figure a340.html`
    """
    from memhooks.inspection import inspect_paragraph
    from memhooks.model.export import check_writable
    from memhooks.model.loading import load_model
    from memhooks.report.plots import plot_token_nll

    if figure is not None:
        check_writable(figure.parent)
    loaded = load_model(model)
    found = inspect_paragraph(loaded, _one_paragraph(text, loaded, n_prefix))
    _print_inspection(found)
    drawing = plot_token_nll(found.tokens, found.recited["nll"].values[0], found.n_prefix)
    if figure is not None:
        drawing.write_html(figure)
        console.print(f"figure: {figure}", highlight=False, soft_wrap=True)


def bundled_paragraphs(name: str):  # noqa: ANN201 - Paragraphs or None; the import would be heavy
    """The bundled set of that name, or None if it is not one."""
    from memhooks.organism.paragraphs import load_controls, load_natural, load_planted

    match name:
        case "A" | "B":
            return load_planted(name)
        case "C":
            return load_controls("prose")
        case "natural":
            return load_natural()
        case "licence_never" | "licence_once":
            return load_controls(name)
        case _:
            return None


def summarize(result: "xr.Dataset", counts: tuple[int, ...] | None) -> list[dict[str, object]]:
    """Means over all paragraphs and, where counts are few and known, for each count."""
    import numpy as np

    groups = {"all": np.ones(result.sizes["paragraph"], bool)}
    if counts is not None and 1 < len(set(counts)) <= 40:
        groups |= {str(count): np.array(counts) == count for count in sorted(set(counts))}
    return [
        {
            "count": name,
            "paragraphs": int(rows.sum()),
            "recited in full": int(result["full_match"].values[rows].sum()),
            "EM": float(result["exact_match"].values[rows].mean()),
            "EM <= 10": float((result["exact_match"].values[rows] <= 10).mean()),
            "matches": float(result["matches"].values[rows].mean()),
            "longest run": float(result["longest_run"].values[rows].mean()),
            "NLL": float(result["nll"].values[rows].mean()),
            "near ties": int(result["near_ties"].values[rows].sum()),
        }
        for name, rows in groups.items()
    ]


def _one_paragraph(text: str, model, n_prefix: int | None):  # noqa: ANN001, ANN202
    from memhooks.organism.paragraphs import load_controls, load_natural, load_planted
    from memhooks.paragraphs.files import load_paragraphs

    if text.startswith("@"):
        for rows in (load_planted("A"), load_planted("B"), load_controls("prose"), load_natural()):
            if text[1:] in rows.ids:
                return rows.select([rows.ids.index(text[1:])])
        raise InputError(f"no bundled paragraph {text[1:]!r}; names run like A000, B000, C000, N000")
    if model.tokenizer is None:
        raise InputError("text needs a tokenizer, and this model folder has none")
    length = min(len(model.tokenizer.encode(text, add_special_tokens=False)), model.cfg.n_ctx)
    if length < 2:
        raise InputError(f"the text has {length} tokens; at least 2 are needed, a prefix and something to recite")
    return load_paragraphs([text], tokenizer=model.tokenizer, n_tokens=length, n_prefix=n_prefix or length // 2)


def _print_inspection(found: "Inspection") -> None:
    em, of = int(found.recited["exact_match"][0]), len(found.tokens) - found.n_prefix
    nll = found.recited["nll"].values[0]
    console.print(f"exact match {em} of {of}; NLL of the continuation {nll[-of:].mean():.2f} nats per token", highlight=False)
    _print_table("Heads whose silencing hurts most", [{"head": head, "NLL rise": f"{rise:+.2f}"} for head, rise in found.heads])
    tokens = [{"position": pos, "token": repr(token), "NLL rise": f"{rise:+.2f}"} for pos, token, rise in found.prefix_tokens]
    _print_table("Prefix tokens whose replacement hurts most", tokens)
    hardest = nll[-of:].argsort()[::-1][:5]
    surprises = [{"position": int(pos) + found.n_prefix, "token": repr(found.tokens[pos + found.n_prefix]), "NLL": f"{nll[-of:][pos]:.2f}"} for pos in hardest]
    _print_table("Most surprising continuation tokens", surprises)


def _print_table(title: str, rows: list[dict]) -> None:
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row.values()))  # Text: corpus text is not markup
    console.print(table)


def _short(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _set_threads(threads: int) -> None:
    import torch

    if threads < 0:
        raise InputError(f"threads must not be negative, got {threads}")
    if threads:
        torch.set_num_threads(threads)


def main() -> None:
    """Run the command line; unusable input ends in one line and exit code 2."""
    try:
        app()
    except InputError as error:
        Console(stderr=True).print(f"memhooks: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
