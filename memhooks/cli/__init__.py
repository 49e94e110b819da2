"""The command line, one file per command; `COMMANDS` has them in the order and the groups of `memhooks --help`."""

import os
import sys
from typing import Annotated

import typer

from memhooks.cli.ablate import ablate
from memhooks.cli.attack import attack
from memhooks.cli.attention import attention
from memhooks.cli.audit import audit
from memhooks.cli.capacity import capacity
from memhooks.cli.count import count
from memhooks.cli.deltas import apply, revert
from memhooks.cli.dose import dose
from memhooks.cli.endings import CODES, ended
from memhooks.cli.equal_loss import equal_loss
from memhooks.cli.extract import extract
from memhooks.cli.forks import forks
from memhooks.cli.gradients import gradients
from memhooks.cli.guide import Guide, GuideGroup
from memhooks.cli.hooks import hooks
from memhooks.cli.inspect import inspect
from memhooks.cli.leak import leak
from memhooks.cli.lens import lens
from memhooks.cli.measure import measure
from memhooks.cli.patch import patch
from memhooks.cli.perturb import perturb
from memhooks.cli.reproduce import reproduce
from memhooks.cli.scan import scan
from memhooks.cli.score_localizers import score_localizers
from memhooks.cli.sinks import sinks
from memhooks.cli.study import study
from memhooks.cli.unlearn import unlearn

COMMANDS = {
    "Run it all": (study,),
    "Search a corpus": (scan, count),
    "Measure": (measure, inspect, extract, capacity, dose, leak),
    "Intervene and look": (perturb, patch, ablate, lens, gradients, attention, sinks),
    "Unlearn": (unlearn, attack, apply, revert),
    "Check the truth": (score_localizers, forks, equal_loss, reproduce),
    "Tools": (hooks, audit),
}
SHORT = {study: "What does it all say? The whole study, on one page."}
"""Of commands whose first line is too long for a list."""

app = typer.Typer(
    cls=GuideGroup,
    epilog=f"**Exit codes**: {'; '.join(f'{code} {meaning}' for code, meaning in CODES.items())}. A failure is one "
    "line on stderr that says what came, what is allowed and what to do.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(cls=Guide, rich_help_panel=panel, short_help=SHORT.get(command))(command)


def _print_version(asked: bool) -> bool:  # noqa: FBT001 - as typer calls it
    if asked:
        from importlib.metadata import version

        parts = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "transformer-lens"))
        sys.stdout.write(f"memhooks {version('memhooks')} (Python {sys.version.split()[0]}, {parts})\n")
        raise typer.Exit
    return asked


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Show the traceback of a failure; may stand behind the command. So does MEMHOOKS_DEBUG=1."
        ),
    ] = False,
) -> None:
    """Where does a language model keep a paragraph that it can recite, and can we remove just that?

    memhooks measures how much a GPT-Neo recites, finds the weights behind it, unlearns single paragraphs and puts a
    control beside every claim. A small model whose training text is known comes with it, so that every command
    runs as it stands; `--model` and `--paragraphs` take your own. `memhooks COMMAND --help` explains a command.

    Examples:
    - `memhooks measure --paragraphs A`
    - `memhooks inspect @A340`
    - `memhooks study --out runs/mine`
    """


def main() -> None:
    """Run the command line and end with its exit code: see `memhooks.cli.endings`."""
    arguments, asked = _without_debug(sys.argv[1:])
    debug = asked or os.environ.get("MEMHOOKS_DEBUG", "0") not in ("", "0")
    sys.exit(ended(lambda: app(arguments, prog_name="memhooks", standalone_mode=False), debug=debug))


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without `--debug`, which may stand anywhere before `--`, and whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [one for one in arguments[:end] if one != "--debug"]
    return kept + arguments[end:], len(kept) < end
