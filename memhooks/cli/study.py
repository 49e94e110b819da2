"""`memhooks study`."""

# Heavy imports stay inside the commands, so that --help answers at once.
import time
from pathlib import Path
from typing import Annotated

import typer


def study(
    out: Annotated[Path, typer.Option(help="Run folder: manifest, results/*.nc, report.html.")] = Path("runs/study"),
    full: Annotated[
        bool, typer.Option("--full/--quick", help="More paragraphs at every stage, or a study of a few minutes.")
    ] = False,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")] = 0,
) -> None:
    """Run the whole study on the bundled model and write one HTML report.

    Recitation, prefix perturbation, activation patching, ablation of heads and layers, logit lens,
    gradients, attention to rare tokens and unlearning, each on memorized paragraphs beside never-seen ones and
    beside the twin that never read them.

    Example: `memhooks study --out runs/mine`
    """
    from memhooks.model.export import check_writable

    check_writable(out)

    import torch

    from memhooks.report.findings import findings, recited_in_full, unlearning_summary
    from memhooks.report.theme import NAMES
    from memhooks.study.settings import FULL, Settings
    from memhooks.study.study import STAGES, Study
    from memhooks.terminal import print_table, say

    if threads:
        torch.set_num_threads(threads)
    run = Study(out, FULL if full else Settings())
    start = time.perf_counter()
    say(f"stages: {', '.join(STAGES)}")
    for number, (stage, seconds) in enumerate(run.run(), start=1):
        say(f"[{number}/{len(STAGES)}] {stage:<13} {seconds:6.1f} s")
    path = run.write_report()
    print_table("Which paragraphs are recited?", recited_in_full(run.results["recitation"]))
    columns = ("fingerprint", NAMES["memorized"], NAMES["control_own"], NAMES["twin"], "A differs from")
    rows = [{name: row[name] for name in columns} for row in findings(run.results)]
    print_table("Fingerprints of memorized text: mean [95 % interval]", rows)
    aside = ("never seen: EM", "other memorized: NLL")  # in the report; eighty columns are few
    summary = [{k: v for k, v in row.items() if k not in aside} for row in unlearning_summary(run.unlearned)]
    print_table("Unlearning one paragraph", summary)
    say(f"{time.perf_counter() - start:.0f} s in all; open {path}")
