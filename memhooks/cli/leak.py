"""`memhooks leak`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memhooks.cli.options import FIGURES, MODELS, Figure, Json, Model, Out, Seed, Threads
from memhooks.cli.sets import check_set, load_set
from memhooks.cli.tables import check_outputs, save_tree
from memhooks.errors import InputError

if TYPE_CHECKING:
    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs
    from memhooks.truth.leak.leak import Leak

_N_HELD_OUT = 48


def leak(
    paragraphs: Annotated[
        str, typer.Option(help="The text to fine-tune on: C (which nobody read), or a file as for `memhooks measure`.")
    ] = "C",
    repetitions: Annotated[
        str, typer.Option(help="How often paragraphs are read, dealt at random; 0 = never, the control.")
    ] = "0,1,2,4,8,16",
    model: Model = "organism",
    background: Annotated[
        str | None,
        typer.Option(
            help="Other text read beside them: a bundled set, a file, or `none`. By default bundled models read "
            "held-out prose, others nothing."
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Paragraphs drawn from --paragraphs, over all levels.")] = 48,
    lr: Annotated[float, typer.Option(help="Step size of AdamW on all weights.")] = 3e-4,
    queries: Annotated[int, typer.Option(min=1, help="Samples at temperature 1 that an attacker may draw.")] = 100,
    seed: Seed = 0,
    threads: Threads = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Go on from this .safetensors file if it is there, and write to it meanwhile.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Save the fine-tuned model in this new folder.")] = None,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """After how many readings does fine-tuning leak a text?

    The model is fine-tuned on it: what becomes extractable, after how many readings, and does it last?

    Paragraphs of one file are dealt at random to levels of repetition. Those of level 0 are never read: whatever else
    fine-tuning does, the difference from them is due to reading. Near-duplicates share a level. The readings of each
    paragraph are spread over the training, among background text; then come steps on background alone.

    Before some updates all paragraphs are measured: recited in full (greedy), and extractable: among --queries samples
    at temperature 1 with probability one half. p deals the levels anew. What was recited before any reading is said.
    The model itself stays as it is; --save keeps the fine-tuned one.

    Caveats: thresholds depend on the step size, on the number of steps between readings and on what is read
    beside; a level of few paragraphs that leaks nothing may leak in one of five (see the intervals, which are exact).

    Examples:
    - `memhooks leak --paragraphs mine.jsonl --model path/to/gpt-neo --background other.jsonl`
    - `memhooks leak --repetitions 0,1,32 --n 30 --figure leak.html`
    """
    levels = _levels(repetitions)
    check_set(paragraphs, model)
    given = background or ("held_out" if model in MODELS else "none")
    check_set(given, model)
    check_outputs({FIGURES: [figure], ".nc": [out], ".safetensors": [checkpoint]})

    from memhooks.cli.leak_shown import draw, print_tables, tables
    from memhooks.model.loading import load_model
    from memhooks.truth.leak.recipe import LeakRecipe

    recipe = LeakRecipe(repetitions=levels, lr=lr, seed=seed).check()
    loaded = load_model(model)
    rows = load_set(loaded, paragraphs).sample(n, seed=seed)
    read, held_out = _others(loaded, given, seed)
    how = {"recipe": recipe, "background": read, "held_out": held_out, "checkpoint": checkpoint, "save": save}
    found = _tuned(loaded, rows, how)
    save_tree(out, found.groups)
    about = f"{model}; {len(rows)} paragraphs of {paragraphs}; background: {given}; lr {lr:g}; seed {seed}"
    draw(figure, about, found, queries=queries, seed=seed)
    shown = tables(found, queries=queries, seed=seed)
    if as_json:
        sys.stdout.write(json.dumps(shown) + "\n")
    else:
        print_tables(about, shown)


def _tuned(loaded: "HookedModel", rows: "Paragraphs", how: dict[str, Any]) -> "Leak":
    """The run.

    Raises:
        InputError: whatever `leak` refuses, or a step size at which the loss is no number.
    """
    from memhooks.truth.leak.leak import leak as fine_tune
    from memhooks.unlearn.run import NotFiniteError

    try:
        return fine_tune(loaded, rows, **how)
    except NotFiniteError as error:
        raise InputError(str(error)) from error


def _levels(repetitions: str) -> tuple[int, ...]:
    """The numbers in the option.

    Raises:
        InputError: something else than numbers.
    """
    try:
        return tuple(sorted(int(one) for one in repetitions.split(",")))
    except ValueError as error:
        raise InputError(
            f"--repetitions must be whole numbers with commas between them, such as 0,1,4,16; got {repetitions}"
        ) from error


def _others(model: "HookedModel", name: str, seed: int) -> "tuple[Paragraphs | None, Paragraphs | None]":
    """Text to read beside the paragraphs, and text of the same set that is never read.

    Raises:
        InputError: too little text for both.
    """
    if name == "none":
        return None, None
    rows = load_set(model, name)
    n_held_out = min(_N_HELD_OUT, len(rows) // 4)
    if not n_held_out:
        raise InputError(f"--background needs at least 4 rows, a quarter of which is held out; {name} has {len(rows)}")
    order = rows.sample(len(rows) - n_held_out, seed=seed)
    read = set(order.ids)
    return order, rows.select([place for place, one in enumerate(rows.ids) if one not in read])
