"""`memhooks inspect`."""

# Heavy imports stay inside the commands, so that --help answers at once.
import json
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memhooks.cli.options import FIGURES, MODELS, Figure, Json, Model, Threads, check_ending
from memhooks.cli.tables import check_outputs, plain, save_images
from memhooks.errors import InputError

if TYPE_CHECKING:
    from memhooks.inspection import Inspection
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
    threads: Threads = 0,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """Is this paragraph recited, and what carries it?

    One paragraph at a glance: exact match (EM), NLL per token, the heads whose silencing hurts most, and the prefix
    tokens whose replacement does. There is no control here: to say what is special, compare sets with the other
    commands.

    Example:
    - `memhooks inspect @A340 --figure a340.html`
    """  # noqa: DOC501 - the docstring is the command's help
    check_ending(figure, FIGURES)
    if re.fullmatch(r"[ABCN]\d+", text):
        raise InputError(f"{text!r} looks like a bundled paragraph's id; did you mean @{text}?")

    check_outputs({FIGURES: [figure]})

    from memhooks.inspection import inspect_paragraph
    from memhooks.model.loading import load_model
    from memhooks.report.plots import plot_token_nll
    from memhooks.terminal import print_inspection

    loaded = load_model(model)
    found = inspect_paragraph(loaded, _one_paragraph(text, model, loaded, n_prefix))
    if figure is not None:
        save_images(figure, [plot_token_nll(found.tokens, found.recited["nll"].values[0], found.n_prefix)])
    if as_json:
        sys.stdout.write(json.dumps(_plain(found)) + "\n")
    else:
        print_inspection(found)


def _plain(found: "Inspection") -> dict[str, Any]:
    """What is printed, with the NLL of every token."""
    return {
        "exact_match": int(found.recited["exact_match"].values[0]),
        "n_prefix": found.n_prefix,
        "tokens": found.tokens,
        "nll": plain(found.recited["nll"].values[0]),
        "heads": [{"head": head, "nll_rise": rise} for head, rise in found.heads],
        "prefix_tokens": [
            {"position": position, "token": token, "nll_rise": rise} for position, token, rise in found.prefix_tokens
        ],
    }


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
