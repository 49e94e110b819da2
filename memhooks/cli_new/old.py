"""The command line: `memhooks study`, `memhooks measure`, `memhooks inspect`."""

# Heavy imports stay inside the commands, so that --help answers at once.
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from memhooks.errors import InputError

if TYPE_CHECKING:
    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

MODELS = ("organism", "organism-twin")
SETS = ("A", "B", "C", "natural", "held_out", "licence_never", "licence_once")
app = typer.Typer(
    help="Where does a language model keep a paragraph that it can recite, and can we remove just that?",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
Model = Annotated[
    str,
    typer.Option(
        help="`organism`, `organism-twin`, a Hugging Face folder, or a hub name such as EleutherAI/gpt-neo-125M."
    ),
]


@app.command()
def study(
    out: Annotated[Path, typer.Option(help="Run folder: manifest, results/*.nc, report.html.")] = Path("runs/study"),
    full: Annotated[
        bool, typer.Option("--full/--quick", help="More paragraphs at every stage, or a study of a few minutes.")
    ] = False,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")] = 0,
) -> None:
    """Run the whole study on the bundled model and write one HTML report.

    Recitation, prefix perturbation, gradients, attention to rare tokens, activation
    patching and unlearning, each on memorized paragraphs beside never-seen ones and
    beside the twin that never read them.

    Example: `memhooks study --out runs/mine`
    """
    from memhooks.model.export import check_writable

    check_writable(out)

    import torch

    from memhooks.report.findings import findings, recited_in_full, unlearning_summary
    from memhooks.report.theme import NAMES
    from memhooks.study import FULL, STAGES, Settings, Study
    from memhooks.terminal import print_table, say

    if threads:
        torch.set_num_threads(threads)
    run = Study(out, FULL if full else Settings())
    start = time.perf_counter()
    say(f"stages: {', '.join(STAGES)}")
    for number, (stage, seconds) in enumerate(run.run(), start=1):
        say(f"[{number}/{len(STAGES)}] {stage:<13} {seconds:6.1f} s")
    path = run.write_report()
    print_table("Which paragraphs are recited?", recited_in_full(run.results["recitation"]))
    columns = ("fingerprint", NAMES["memorized"], NAMES["control"], NAMES["twin"], "differs from the twin")
    rows = [{name: row[name] for name in columns} for row in findings(run.results)]
    print_table("Fingerprints of memorized text: mean [95 % interval]", rows)
    aside = ("never seen: EM", "other memorized: NLL")  # in the report; eighty columns are few
    summary = [{k: v for k, v in row.items() if k not in aside} for row in unlearning_summary(run.unlearned)]
    print_table("Unlearning one paragraph", summary)
    say(f"{time.perf_counter() - start:.0f} s in all; open {path}")


@app.command()
def measure(
    paragraphs: Annotated[
        str,
        typer.Option(
            help="A .pt, .npy, .jsonl, .csv or .parquet file; or a bundled set: A, B, C, natural, held_out, "
            "licence_never, licence_once."
        ),
    ],
    model: Model = "organism",
    n_prefix: Annotated[
        int | None, typer.Option(help="Tokens given to the model; by default the file's own, else 50.")
    ] = None,
    n_tokens: Annotated[int, typer.Option(help="Text is cut to this many tokens; token files are not.")] = 100,
    reference: Annotated[
        Literal["text", "model"],
        typer.Option(help="Compare with the text, or with the model's own greedy continuation."),
    ] = "text",
    scored: Annotated[
        Literal["continuation", "all"],
        typer.Option(help="Tokens that NLL covers: the continuation, or all but the first."),
    ] = "continuation",
    after: Annotated[
        Literal["nothing", "end_of_text", "text"],
        typer.Option(
            help="What stands before each paragraph (bundled models): nothing, end-of-text, 10 unrelated tokens."
        ),
    ] = "nothing",
    out: Annotated[Path | None, typer.Option(help="Write the labelled result to this .nc file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """How much of each paragraph does the model recite?

    Rows are read raw: no BOS or EOS is added. EM is the number of tokens before the first mistake.

    Examples: `memhooks measure --paragraphs A`;
    `memhooks measure --model path/to/gpt-neo --paragraphs mine.jsonl --out mine.nc`
    """
    _check_paragraphs(paragraphs, model, after)
    _check_ending(out, ".nc")

    from memhooks.model.export import check_output_file

    if out is not None:
        check_output_file(out)

    from memhooks.measure.recitation import recitation
    from memhooks.measure.summary import by_count
    from memhooks.model.labelled import save_result
    from memhooks.model.loading import load_model
    from memhooks.organism.paragraphs import lead_tokens, load_bundled
    from memhooks.paragraphs.files import load_paragraphs
    from memhooks.terminal import print_table

    loaded = load_model(model)
    rows = load_bundled(paragraphs) or load_paragraphs(
        paragraphs, tokenizer=loaded.tokenizer, n_tokens=n_tokens, n_prefix=n_prefix
    )
    if n_prefix is not None:
        rows = replace(rows, n_prefix=n_prefix)
    if after != "nothing":
        rows = rows.after(lead_tokens(after, len(rows)))
    result = recitation(loaded, rows, reference=reference, scored=scored)
    if out is not None:
        save_result(result, out)
        sys.stderr.write(f"written: {out}\n")
    summary = by_count(result, rows.counts)
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
    else:
        print_table(f"Recitation of {paragraphs} by {model}", summary)


@app.command()
def inspect(
    text: Annotated[
        str,
        typer.Argument(help="The paragraph, prefix and what may be recited; or @ID for a bundled one, such as @A340."),
    ],
    model: Model = "organism",
    n_prefix: Annotated[
        int | None, typer.Option(help="Tokens given to the model; by default half of the text.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Write the per-token figure to this .html file.")] = None,
) -> None:
    """One paragraph at a glance: EM, NLL per token, heads that matter, prefix tokens that carry it.

    Example: `memhooks inspect @A340 --figure a340.html`
    """  # noqa: DOC501 - the docstring is the command's help
    _check_ending(figure, ".html")
    if re.fullmatch(r"[ABCN]\d+", text):
        raise InputError(f"{text!r} looks like a bundled paragraph's id; did you mean @{text}?")

    from memhooks.model.export import check_output_file

    if figure is not None:
        check_output_file(figure)

    from memhooks.inspection import inspect_paragraph
    from memhooks.model.loading import load_model
    from memhooks.report.plots import plot_token_nll
    from memhooks.terminal import print_inspection, say

    loaded = load_model(model)
    found = inspect_paragraph(loaded, _one_paragraph(text, model, loaded, n_prefix))
    print_inspection(found)
    if figure is not None:
        drawing = plot_token_nll(found.tokens, found.recited["nll"].values[0], found.n_prefix)
        partial = figure.with_name(figure.name + ".partial")
        drawing.write_html(partial)
        partial.replace(figure)
        say(f"figure: {figure}")


def _check_paragraphs(paragraphs: str, model: str, after: str) -> None:
    """Check the arguments as far as can be done before torch is loaded.

    Raises:
        InputError: no such set or file, or bundled paragraphs for a foreign model.
    """
    if paragraphs not in SETS and not Path(paragraphs).is_file():
        raise InputError(f"no paragraph file at {paragraphs}; bundled sets are {', '.join(SETS)}")
    if model not in MODELS and (paragraphs in SETS or after != "nothing"):
        raise InputError(f"bundled paragraphs and --after belong to {' and '.join(MODELS)}; give {model} its own file")


def _check_ending(path: Path | None, ending: str) -> None:
    if path is not None and path.suffix != ending:
        raise InputError(f"{path} must end in {ending}, which is what will be written")


def _one_paragraph(text: str, model_name: str, model: "HookedModel", n_prefix: int | None) -> "Paragraphs":
    from memhooks.model.loading import tokenizer_of
    from memhooks.organism.paragraphs import find_bundled
    from memhooks.paragraphs.files import load_paragraphs

    if text.startswith("@"):
        if model_name not in MODELS:
            raise InputError(f"{text} belongs to {' and '.join(MODELS)}; give {model_name} a text")
        found = find_bundled(text[1:])
        return found if n_prefix is None else replace(found, n_prefix=n_prefix)
    tokenizer = tokenizer_of(model)
    length = len(tokenizer.encode(text, add_special_tokens=False))
    if not 2 <= length <= model.cfg.n_ctx:
        raise InputError(
            f"the text has {length} tokens; at least 2 are needed, a prefix and something to recite, "
            f"and at most {model.cfg.n_ctx}, the model's context"
        )
    half = length // 2 if n_prefix is None else n_prefix
    return load_paragraphs([text], tokenizer=tokenizer, n_tokens=length, n_prefix=half)


def main() -> None:
    """Run the command line; unusable input ends in one line and exit code 2."""
    try:
        app()
    except InputError as error:
        sys.stderr.write(f"memhooks: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
