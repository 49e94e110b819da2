"""`memhooks unlearn`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from memhooks.cli.options import FIGURES, Control, Figure, Ids, Json, Memorized, Model, Out, Seed, Threads, Twin, ids_of
from memhooks.cli.tables import save_tree
from memhooks.cli.unlearn_checks import check_files, check_numbers, check_texts
from memhooks.cli.unlearn_sets import Asked

# The names of LOCALIZERS, OBJECTIVES and RETAIN, which would load torch.
Localizer = Literal[
    "gradient",
    "gradient_times_weight",
    "activation_norm",
    "balanced_subnet",
    "fisher_ratio",
    "consistency",
    "all",
    "random",
]
Objective = Literal[
    "gradient_ascent",
    "gradient_difference",
    "paper_unlearn",
    "paper_edit",
    "paper_edit_misaligned",
    "npo",
    "simnpo",
    "dpo",
    "weighted_ascent",
    "bounded_ascent",
]
RETAIN_WEIGHTS = {"kl": 100.0, "nll": 1.0, "none": 0.0}
"""Of each retain term: a KL grows from nothing, an NLL pulls from the first step on."""


def unlearn(
    model: Model = "organism",
    paragraphs: Memorized = "A",
    ids: Ids = None,
    n: Annotated[
        int | None,
        typer.Option("--n", min=1, help="How many to draw instead of --ids; by default 1."),
    ] = None,
    control: Control = "C",
    retained: Annotated[
        int,
        typer.Option(min=1, help="How many other recited paragraphs, and how many never-seen ones, hold the model."),
    ] = 12,
    others: Annotated[
        int, typer.Option(min=1, help="Further recited paragraphs, never used in training: do they stay?")
    ] = 16,
    held_out: Annotated[int, typer.Option(min=1, help="Further never-seen ones, to see what language lost.")] = 12,
    twin: Twin = None,
    localizer: Annotated[
        Localizer,
        typer.Option(help="Which weights may move: the top of these scores, `all` of them, or as many at `random`."),
    ] = "gradient",
    fraction: Annotated[float, typer.Option(help="Share of the weights of all layers, over 0 to 1.")] = 0.001,
    objective: Annotated[Objective, typer.Option(help="What is minimised to forget.")] = "gradient_ascent",
    retain: Annotated[
        Literal["kl", "nll", "none"],
        typer.Option(help="What holds the model: KL to the untouched one, NLL of the text to keep, or nothing."),
    ] = "kl",
    retain_weight: Annotated[
        float | None, typer.Option(help="Its weight beside the objective; by default 100 for kl, 1 for nll.")
    ] = None,
    optimizer: Annotated[Literal["adam", "adamw", "sgd"], typer.Option(help="Of the chosen weights alone.")] = "adam",
    lr: Annotated[float, typer.Option(help="Step size; all weights at once need about 1e-4.")] = 4e-3,
    steps: Annotated[int, typer.Option(min=1, help="Updates, at most.")] = 24,
    goal_em: Annotated[float, typer.Option(help="Stop where the mean EM is at most this, ...")] = 2.0,
    goal_run: Annotated[
        float, typer.Option(help="... and the mean longest verbatim run, from any start, too, ...")
    ] = 10.0,
    goal_nll: Annotated[
        float | None,
        typer.Option(
            help="... and the mean NLL at least this; by default half of the twin's, without a twin half of never-seen "
            "text's under the model; 0 = do not ask."
        ),
    ] = None,
    most_kl: Annotated[
        float | None,
        typer.Option(
            help="Stop, too, where KL on the step's retained text, nats per token, is more; no limit by default."
        ),
    ] = None,
    measures: Annotated[
        Literal["core", "all"],
        typer.Option(help="`all` also tries other prompts and sampling, lets the model speak, and attacks membership."),
    ] = "core",
    seed: Seed = 0,
    threads: Threads = 0,
    delta: Annotated[Path | None, typer.Option(help="Save the change to this .safetensors file.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A .safetensors file with which a killed run goes on where it was.")
    ] = None,
    out: Out = None,
    figure: Figure = None,
    as_json: Json = False,
    allow_shared: Annotated[
        bool, typer.Option(help="Accept near-duplicates of the text to forget among the text to keep.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            help="Instead, compare ten ways to unlearn on the organism (about an hour); a killed one goes on."
        ),
    ] = False,
    runs_folder: Annotated[Path, typer.Option(help="Of --compare: where its trials and tables go.")] = Path(
        "runs/comparison"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Of --compare: processes, of one thread each.")] = 2,
) -> None:
    """Can a few paragraphs be unlearned, and at what cost?

    Few weights are moved until the text is no longer recited; then it is measured what that cost.

    Four sets, which share no near-duplicates: the text to forget; text that holds the model while it forgets (other
    recited paragraphs and never-seen ones); other recited paragraphs and never-seen ones that took no part, on which
    the cost is measured. The chosen weights alone move: every other one is compared bit by bit. The run stops where
    all goals are met, and the best step is kept.

    EM counts the tokens recited before the first miss, so breaking one token meets it: the longest verbatim run from
    any start and the NLL stand beside it. "Twin" is a model that never read the text: what forgetting should end in.

    Caveats: a paragraph that is not recited may still be there; `memhooks attack` tries to bring it back. With one
    paragraph to forget there is no interval.

    Examples:
    - `memhooks unlearn --delta change.safetensors --figure unlearn.html`
    - `memhooks unlearn --ids A300 --localizer random --lr 0.02`
    - `memhooks unlearn --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --twin none`
    - `memhooks unlearn --compare`
    """
    if compare:
        _compare(runs_folder, workers, as_json=as_json)
        return
    chosen = ids_of(ids)
    goals = {"--goal-em": goal_em, "--goal-run": goal_run, "--goal-nll": goal_nll, "--most-kl": most_kl}
    check_numbers(fraction, lr, {"--retain-weight": retain_weight, **goals}, ids=chosen, n=n)
    other = check_texts(model, paragraphs, control, twin)
    check_files({".safetensors": [delta, checkpoint], ".nc": [out], FIGURES: [figure]})

    from memhooks.cli.unlearn_found import step_table, to_json
    from memhooks.cli.unlearn_run import Wanted, run_unlearning
    from memhooks.cli.unlearn_shown import draw, print_run
    from memhooks.unlearn.delta import save_delta

    weight = RETAIN_WEIGHTS[retain] if retain_weight is None else retain_weight
    recipe = {"objective": objective, "retain": retain, "retain_weight": weight, "optimizer": optimizer}
    recipe |= {"lr": lr, "n_steps": steps, "seed": seed}
    asked = Asked(paragraphs, control, tuple(chosen), n or 1, retained, others, held_out, seed, allow_shared)
    wanted = Wanted(
        model,
        other,
        asked,
        localizer,
        fraction,
        recipe,
        goal_em,
        goal_run,
        goal_nll,
        most_kl,
        measures,
        checkpoint,
    )
    run = run_unlearning(wanted)
    if delta is not None:
        save_delta(run.change, delta)
        sys.stderr.write(f"written: {delta}\n")
    save_tree(out, {name: one.to_dataset() for name, one in run.tree.children.items()} | {"steps": step_table(run)})
    draw(figure, run)
    if as_json:
        sys.stdout.write(json.dumps(to_json(run, delta)) + "\n")
    else:
        print_run(run, delta)


def _compare(folder: Path, workers: int, *, as_json: bool) -> None:
    from memhooks.study.comparison.comparison import Comparison
    from memhooks.study.comparison.report import write_comparison

    comparison = Comparison(folder, n_workers=workers)
    comparison.run()
    page = str(write_comparison(comparison))
    sys.stdout.write((json.dumps({"page": page}) if as_json else page) + "\n")
