"""`memhooks audit`."""

# Heavy imports stay inside the commands, so that --help answers at once.
import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from memhooks.cli.options import Model


def audit(
    model: Model = "organism",
    failures: Annotated[bool, typer.Option("--failures", help="Show only the checks that failed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Do edits at this model's hook points do what they say? Exit code 1 if not.

    At every kind of site, in a global and a local layer, returned and in place: putting an activation
    back changes nothing, a real edit reaches the logits, a full patch gives the clean logits.

    Example: `memhooks audit --model path/to/gpt-neo`
    """  # noqa: DOC501 - the docstring is the command's help
    from rich.box import SIMPLE_HEAD

    from memhooks.model.audit import audit as run_audit
    from memhooks.model.audit import shown
    from memhooks.model.loading import load_model
    from memhooks.terminal import print_table, say

    result = run_audit(load_model(model))
    rows = [row for row in result.rows if row.failed or not failures]
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
    else:
        if rows:
            print_table(f"Audit of {model}: largest change of a logit", [shown(row) for row in rows], box=SIMPLE_HEAD)
        say(str(result))
    if not result:
        raise typer.Exit(1)
