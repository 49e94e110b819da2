"""Options that commands share, and checks that need no torch, so that --help and refusals come at once."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from memhooks.errors import InputError

MODELS = ("organism", "organism-twin")
SETS = ("A", "B", "C", "natural", "held_out", "licence_never", "licence_once")
KINDS = f"a bundled set ({', '.join(SETS)}) or a file as for `memhooks measure`"
FIGURES = (".html", ".png", ".svg", ".pdf")
"""Endings of figures, as `memhooks.report.export` has them, which would load plotly."""


def _use_threads(asked: int) -> int:
    """Before torch is loaded, which reads it once; if it is there already, it is told."""
    if asked:
        os.environ["OMP_NUM_THREADS"] = str(asked)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(asked)
    return asked


Model = Annotated[
    str,
    typer.Option(
        help="`organism`, `organism-twin`, a Hugging Face folder, or a hub name such as EleutherAI/gpt-neo-125M."
    ),
]
Memorized = Annotated[
    str, typer.Option("--paragraphs", help=f"What the model may recite: {KINDS}. Only rows recited in full are used.")
]
Control = Annotated[str, typer.Option(help=f"Text the model does not recite, to compare with: {KINDS}, or `none`.")]
Twin = Annotated[
    str | None,
    typer.Option(
        help="A model like --model that never read --paragraphs; these are measured under it, too: same tokens, other "
        "weights. A name or folder as for --model, or `none`. By default the bundled twin for A, none for others."
    ),
]
Size = Annotated[int, typer.Option("--n", min=1, help="Paragraphs drawn from each set.")]
Seed = Annotated[int, typer.Option(help="Of the draw and of everything random.")]
AnyRows = Annotated[bool, typer.Option("--any", help="Use rows of --paragraphs whether they are recited or not.")]
Ids = Annotated[
    list[str] | None,
    typer.Option("--ids", metavar="ID,ID", help="Paragraphs by name: A300,A301, or --ids A300 --ids A301."),
]
Threads = Annotated[
    int,
    typer.Option(min=0, callback=_use_threads, help="CPU threads; 0 leaves torch's choice. The last digits follow it."),
]
Figure = Annotated[
    Path | None,
    typer.Option(help="Write the figures to this file: .html (a page), or .png, .svg, .pdf (several are numbered)."),
]
Out = Annotated[
    Path | None, typer.Option(help="Write the labelled results to this .nc file, which `xarray.open_datatree` opens.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON in place of tables; a mean with its interval is [mean, low, high].")
]

Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, or cuda:N.")]
PrecisionOption = Annotated[
    Literal["fp32", "tf32", "bf16"],
    typer.Option(
        "--precision",
        help="Of the model: single; tf32 (CUDA alone) or bf16, refused if they change what the model says too much.",
    ),
]
EngineOption = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="Processes on this machine, or Ray (`pip install 'memhooks[ray]'`)."),
]
Workers = Annotated[int, typer.Option(min=1, help="How many work at once.")]
WorkerThreads = Annotated[int, typer.Option(min=1, help="CPU threads of each worker.")]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster that shares the run's folder; without it Ray starts here.")
]
OnError = Annotated[
    Literal["stop", "skip"], typer.Option(help="At damaged records and files: stop, or name, count and skip them.")
]
Column = Annotated[str | None, typer.Option(help="Of records; by default the first of tokens, text, content.")]
EndOfText = Annotated[int | None, typer.Option(help="Token id that ends documents in one-dimensional .npy files.")]
PieceMb = Annotated[float, typer.Option(help="Size of the pieces that workers take, in MB; larger means fewer files.")]
Restart = Annotated[bool, typer.Option("--restart", help="Forget what the folder holds of an earlier run.")]


def ids_of(given: Sequence[str] | None) -> list[str]:
    """The names in --ids: between commas, and of every time that it is given."""
    return [name for one in given or () for part in one.split(",") if (name := part.strip())]


def check_ending(path: Path | None, ending: str | Sequence[str]) -> None:
    """Refuse a file name that promises another format than is written.

    Raises:
        InputError: it does not end in `ending`, or in one of several.
    """
    endings = (ending,) if isinstance(ending, str) else tuple(ending)
    if path is not None and path.suffix not in endings:
        raise InputError(f"{path} must end in {' or '.join(endings)}, which is what will be written")
