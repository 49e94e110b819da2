"""`memhooks scan`."""

# Heavy imports stay inside the commands, so that --help answers at once.
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.options import (
    FIGURES,
    Address,
    Column,
    Device,
    EndOfText,
    EngineOption,
    Figure,
    Json,
    Model,
    OnError,
    PieceMb,
    PrecisionOption,
    Restart,
    Workers,
    WorkerThreads,
    check_ending,
)

if TYPE_CHECKING:
    from memhooks.scale.found import Found


def scan(
    corpus: Annotated[
        list[Path],
        typer.Argument(
            help="Files (.jsonl, .txt, these also as .zst or .gz; .parquet; token .npy), folders of such files, or "
            "folders of `Dataset.save_to_disk`."
        ),
    ],
    model: Model = "organism",
    folder: Annotated[Path, typer.Option("--out", help="Folder of the run; the same command goes on there.")] = Path(
        "runs/scan"
    ),
    n_prefix: Annotated[int, typer.Option(min=1, help="Tokens given to the model.")] = 50,
    n_tokens: Annotated[int, typer.Option(min=2, help="Tokens of a window, prefix and continuation.")] = 100,
    stride: Annotated[
        int, typer.Option(min=1, help="Tokens between the starts of windows; every document begins anew.")
    ] = 50,
    least: Annotated[
        int | None, typer.Option(help="Keep windows with so many tokens recited at least; by default all of them.")
    ] = None,
    most: Annotated[
        int | None, typer.Option(help="... and so many at most. The paper's bins: 0-10, 11-29, 30-49, 50.")
    ] = None,
    queries: Annotated[
        int | None, typer.Option(help="Keep windows that so many samples hold with probability --p, whatever their EM.")
    ] = None,
    p: Annotated[float, typer.Option(help="That probability.")] = 0.5,
    min_unique: Annotated[float, typer.Option(help="Drop windows with a smaller share of distinct tokens.")] = 0.5,
    similar: Annotated[
        float, typer.Option(help="Merge windows that share this much of their 5-grams; 1: copies alone.")
    ] = 0.5,
    column: Column = None,
    end_of_text: EndOfText = None,
    on_error: OnError = "stop",
    engine: EngineOption = "local",
    workers: Workers = 1,
    address: Address = None,
    worker_threads: WorkerThreads = 1,
    device: Device = "cpu",
    precision: PrecisionOption = "fp32",
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per pass.")] = 32,
    piece_mb: PieceMb = 1.0,
    restart: Restart = False,
    figure: Figure = None,
    as_json: Json = False,
) -> None:
    """What does the model recite of a corpus?

    Documents are cut into windows, and the model reads each no further than its first miss: most windows cost no more
    than their prefix. What is kept goes to `found.parquet`, one row per text, which every other command takes as
    `--paragraphs`; copies and near-copies are counted, not repeated. `summary.json` has the exact matches of all
    windows and what could not be read.

    Killed or stopped, the same command goes on where it was, and finds the same. So do more workers, and Ray.

    Caveat: a window that a filter drops, or that begins elsewhere than a recited text, is not found; --stride 1 tries
    every place at 50 times the cost.

    Examples:
    - `memhooks scan corpus/ --out runs/scan`
    - `memhooks scan pile/*.jsonl.zst --model EleutherAI/gpt-neo-125M --workers 2 --on-error skip`
    - `memhooks scan tokens.npy --end-of-text 0 --least 30 --most 49 --engine ray --workers 8`
    """
    check_ending(figure, FIGURES)

    from memhooks.scale.engine import Engine
    from memhooks.scale.rules import Rule
    from memhooks.scale.scan import Source
    from memhooks.scale.scan import scan as run
    from memhooks.scale.scan_settings import ScanSettings

    settings = ScanSettings(
        n_prefix=n_prefix,
        n_tokens=n_tokens,
        stride=stride,
        min_unique=min_unique,
        rule=Rule(least=least, most=most, queries=queries, p=p),
        column=column,
        end_of_text=end_of_text,
        batch_size=batch_size,
        piece_mb=piece_mb,
        similar=similar,
    )
    found = run(
        corpus,
        folder,
        source=Source(model, device, precision),
        settings=settings,
        engine=Engine(engine, workers, worker_threads, address, gpus=1 if device.startswith("cuda") else 0),
        on_error=on_error,
        restart=restart,
    )
    if figure is not None:
        from memhooks.report.export import save_figure
        from memhooks.report.scan_plots import plot_scan

        save_figure(plot_scan(found.tally.matches), figure)
    _print(found, folder, as_json=as_json)


def _print(found: "Found", folder: Path, *, as_json: bool) -> None:
    from memhooks.terminal import print_table, say

    summary = found.summary()
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
        return
    matches = summary.pop("exact_match")
    faults = summary.pop("faults")
    print_table("Windows", [{**summary, "faults": len(faults)}])
    for fault in faults[:10]:
        say(f"skipped {fault['source']}: {fault['what']}")
    if len(faults) > 10:
        say(f"... and {len(faults) - 10} more: {folder / 'summary.json'}")
    if sum(matches):
        say(f"of {sum(matches)} windows that the model read, {matches[-1]} are recited in full")
    if found.paragraphs is None:
        say("nothing was found that the rule keeps")
    else:
        _print_best(found)
        say(f"written: {folder / 'found.parquet'}")


def _print_best(found: "Found") -> None:
    """The texts that stand there most often."""
    from memhooks.terminal import print_table

    rows = found.paragraphs
    assert rows is not None
    counts, texts = rows.counts or (), rows.text or ("",) * len(rows)
    often = sorted(range(len(rows)), key=lambda row: (-counts[row] - int(found.near[row]), row))[:5]
    print_table(
        "Most frequent",
        [
            {
                "id": rows.ids[row],
                "copies": counts[row],
                "near": int(found.near[row]),
                "EM": int(found.exact_match[row]),
                "source": (rows.sources or ())[row],
                "text": " ".join(texts[row].split())[:60],
            }
            for row in often
        ],
    )
