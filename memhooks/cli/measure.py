"""`memhooks measure`."""

# Heavy imports stay inside the commands, so that --help answers at once.
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from memhooks.cli.options import MODELS, SETS, Json, Model, Out, Threads, check_ending
from memhooks.errors import InputError


def measure(
    paragraphs: Annotated[
        str,
        typer.Option(
            help="A .pt, .npy, .jsonl, .csv, .parquet or .txt file, or a folder that `Dataset.save_to_disk` wrote; "
            "or a bundled set: A, B, C, natural, held_out, "
            "licence_never, licence_once."
        ),
    ],
    model: Model = "organism",
    n_prefix: Annotated[
        int | None, typer.Option(help="Tokens given to the model; by default the file's own, else 50.")
    ] = None,
    n_tokens: Annotated[
        int, typer.Option(help="Text is cut to this many tokens (.txt: into runs of as many); token files are not.")
    ] = 100,
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
    threads: Threads = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """How much of each paragraph does the model recite?

    Rows are read raw: no BOS or EOS is added. EM is the number of tokens before the first mistake.

    Examples:
    - `memhooks measure --paragraphs A`
    - `memhooks measure --model path/to/gpt-neo --paragraphs mine.jsonl --out mine.nc`
    """
    _check_paragraphs(paragraphs, model, after)
    check_ending(out, ".nc")

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


def _check_paragraphs(paragraphs: str, model: str, after: str) -> None:
    """Check the arguments as far as can be done before torch is loaded.

    Raises:
        InputError: no such set or file, or bundled paragraphs for a foreign model.
    """
    if paragraphs not in SETS and not Path(paragraphs).exists():
        raise InputError(f"no paragraph file at {paragraphs}; bundled sets are {', '.join(SETS)}")
    if model not in MODELS and (paragraphs in SETS or after != "nothing"):
        raise InputError(f"bundled paragraphs and --after belong to {' and '.join(MODELS)}; give {model} its own file")
