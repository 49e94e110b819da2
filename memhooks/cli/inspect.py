"""`memhooks inspect`."""

# Heavy imports stay inside the commands, so that --help answers at once.
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.options import MODELS, Model, check_ending
from memhooks.errors import InputError

if TYPE_CHECKING:
    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs


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
    check_ending(figure, ".html")
    if re.fullmatch(r"[ABCN]\d+", text):
        raise InputError(f"{text!r} looks like a bundled paragraph's id; did you mean @{text}?")

    from memhooks.model.export import check_output_file

    if figure is not None:
        check_output_file(figure)

    from memhooks.inspection import inspect_paragraph
    from memhooks.model.loading import load_model
    from memhooks.report.plots import plot_token_nll
    from memhooks.terminal import print_inspection, say
    from memhooks.writing import whole_file

    loaded = load_model(model)
    found = inspect_paragraph(loaded, _one_paragraph(text, model, loaded, n_prefix))
    print_inspection(found)
    if figure is not None:
        drawing = plot_token_nll(found.tokens, found.recited["nll"].values[0], found.n_prefix)
        with whole_file(figure) as partial:
            drawing.write_html(partial)
        say(f"figure: {figure}")


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
