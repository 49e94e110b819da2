"""Options that commands share, and checks that need no torch, so that --help and refusals come at once."""

from pathlib import Path
from typing import Annotated

import typer

from memhooks.errors import InputError

MODELS = ("organism", "organism-twin")
SETS = ("A", "B", "C", "natural", "held_out", "licence_never", "licence_once")
Model = Annotated[
    str,
    typer.Option(
        help="`organism`, `organism-twin`, a Hugging Face folder, or a hub name such as EleutherAI/gpt-neo-125M."
    ),
]


def check_ending(path: Path | None, ending: str) -> None:
    """Refuse a file name that promises another format than is written.

    Raises:
        InputError: it does not end in `ending`.
    """
    if path is not None and path.suffix != ending:
        raise InputError(f"{path} must end in {ending}, which is what will be written")
