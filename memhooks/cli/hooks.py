"""`memhooks hooks`."""

# Heavy imports stay inside the commands, so that --help answers at once.
import json
import sys
from dataclasses import asdict
from itertools import groupby
from typing import Annotated

import typer

from memhooks.cli.options import Json, Model


def hooks(
    search: Annotated[str, typer.Argument(help="Words that must all occur, such as `pattern local` or `z 3`.")] = "",
    model: Model = "organism",
    layer: Annotated[int | None, typer.Option(help="Only this layer; by default all.")] = None,
    batch: Annotated[int, typer.Option(help="Rows, for the sizes.")] = 1,
    length: Annotated[
        int | None, typer.Option(help="Tokens, for the sizes; by default the context's, at most 100.")
    ] = None,
    silent: Annotated[
        bool, typer.Option("--silent", help="Only points that do not fire, with the flag each needs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Which hook points does the model have?

    Each with its name, shape, megabytes, layer type and when it fires. Nothing is measured.

    `recorded`, `patched` and `hooked` take the full name, `blocks.1.attn.hook_z`, or the short one with its
    layer, `("z", 1)`. The column `order` is the place in a forward pass, or the flag that is off.

    Examples:
    - `memhooks hooks --layer 1`
    - `memhooks hooks "pattern local"`
    - `memhooks hooks --silent --layer 0`
    """
    from rich.box import SIMPLE_HEAD

    from memhooks.model.hook_table import hook_table, shown_narrow
    from memhooks.model.loading import load_model
    from memhooks.terminal import print_table, say

    table = hook_table(load_model(model), batch=batch, length=length)
    table = table.find(search, layer=layer, fires=False if silent else None)
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in table]) + "\n")
        return
    for (number, attention), rows in groupby(table, key=lambda row: (row.layer, row.attention)):
        heading = "outside the layers" if number is None else f"layer {number}, {attention}"
        print_table(heading, [shown_narrow(row) for row in rows], box=SIMPLE_HEAD)
    total = sum(row.megabytes for row in table if row.fires)
    say(f"{len(table)} hook points of {model}; recording all that fire takes {total:.1f} MB ({table.caption})")
