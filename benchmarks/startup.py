"""How long a user waits before anything happens: help, import, loading. Aims: help 1 s, loading 2 s."""

import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

from memhooks.model.loading import load_model


def main() -> None:
    """Print the table."""
    table = Table(title="Start-up, best of three")
    table.add_column("what")
    table.add_column("seconds")
    table.add_row("memhooks --help", f"{best([sys.executable, '-m', 'memhooks.cli', '--help']):.2f}")
    table.add_row(
        "python -c 'from memhooks import load_model'",
        f"{best([sys.executable, '-c', 'from memhooks import load_model']):.2f}",
    )
    table.add_row("load_model('organism'), imports aside", f"{min(loading() for _ in range(3)):.2f}")
    Console().print(table)


def best(command: list[str]) -> float:
    """Shortest of three runs of a command, in seconds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def loading() -> float:
    """One loading of the bundled model with its comparison to Hugging Face, in seconds."""
    start = time.perf_counter()
    load_model("organism")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
