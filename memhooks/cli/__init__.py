"""The command line, one file per command.

`memhooks study | measure | inspect | perturb | patch | ablate | lens | gradients | attention | unlearn | attack |
apply | revert | score-localizers | forks | dose | equal-loss | leak | capacity | sinks | extract | reproduce |
hooks | audit`.
"""

import sys

import typer

from memhooks.cli.ablate import ablate
from memhooks.cli.attack import attack
from memhooks.cli.attention import attention
from memhooks.cli.audit import audit
from memhooks.cli.capacity import capacity
from memhooks.cli.deltas import apply, revert
from memhooks.cli.dose import dose
from memhooks.cli.equal_loss import equal_loss
from memhooks.cli.extract import extract
from memhooks.cli.forks import forks
from memhooks.cli.gradients import gradients
from memhooks.cli.hooks import hooks
from memhooks.cli.inspect import inspect
from memhooks.cli.leak import leak
from memhooks.cli.lens import lens
from memhooks.cli.measure import measure
from memhooks.cli.patch import patch
from memhooks.cli.perturb import perturb
from memhooks.cli.reproduce import reproduce
from memhooks.cli.score_localizers import score_localizers
from memhooks.cli.sinks import sinks
from memhooks.cli.study import study
from memhooks.cli.unlearn import unlearn
from memhooks.errors import InputError

app = typer.Typer(
    help="Where does a language model keep a paragraph that it can recite, and can we remove just that?",
    epilog="Exit codes: 0 done, 1 an audit failed, 2 unusable input (one line says what to do).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
# In the order of --help.
COMMANDS = (
    *(study, measure, inspect, perturb, patch, ablate, lens, gradients, attention),
    *(unlearn, attack, apply, revert),
    *(score_localizers, forks, dose, equal_loss, leak, capacity, sinks, extract, reproduce),
    *(hooks, audit),
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command line; unusable input ends in one line and exit code 2."""
    try:
        app()
    except InputError as error:
        sys.stderr.write(f"memhooks: {error}\n")
        sys.exit(2)
