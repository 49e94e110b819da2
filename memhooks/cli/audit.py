"""`memhooks audit`."""

# Heavy imports stay inside the commands, so that --help answers at once.
import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from memhooks.cli.options import Json, Model, Threads


def audit(
    model: Model = "organism",
    every: Annotated[bool, typer.Option("--all", help="Show every layer and way, not the worst of each site.")] = False,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Do edits at the hook points do what they say?

    At every kind of site, in every layer, returned and in place: putting an activation back changes
    nothing, a real edit reaches the logits, a full patch gives the clean logits.

    Example:
    - `memhooks audit --model path/to/gpt-neo`
    """  # noqa: DOC501 - the docstring is the command's help
    from rich.box import SIMPLE_HEAD

    from memhooks.model.audit import audit as run_audit
    from memhooks.model.audit_result import shown, summarized
    from memhooks.model.loading import load_model
    from memhooks.terminal import print_table, say

    result = run_audit(load_model(model))
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in result.rows]) + "\n")
    else:
        rows = [shown(row) for row in result.rows] if every else summarized(result)
        print_table(f"Audit of {model}: largest change of a logit", rows, box=SIMPLE_HEAD)
        say(str(result))
    if not result:
        raise typer.Exit(1)
