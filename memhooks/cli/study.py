"""`memhooks study`."""

# Heavy imports stay inside the commands, so that --help answers at once.
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.errors import InputError

if TYPE_CHECKING:
    from memhooks.study.settings import Settings

_NONE = "By default the bundled organism's."


def study(
    out: Annotated[
        Path, typer.Option(help="Run folder: study.toml, manifest.json, results/*/*.nc, report.html.")
    ] = Path("runs/study"),
    full: Annotated[
        bool, typer.Option("--full/--quick", help="Three times the paragraphs, up to an hour; or a few minutes.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="A Hugging Face folder or hub name to study in place of the organism.")
    ] = None,
    paragraphs: Annotated[
        str | None, typer.Option(help=f"File of text that the model may recite (see `memhooks measure`). {_NONE}")
    ] = None,
    controls: Annotated[
        str | None, typer.Option(help=f"File of like text that it never read: the control. {_NONE}")
    ] = None,
    twin: Annotated[str | None, typer.Option(help="A model like it that never read the paragraphs, if any.")] = None,
    counts: Annotated[
        str | None, typer.Option(help="Token counts of the training text, .npy; without them no rare tokens.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="A study.toml with any of the settings; options given here go before it.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one setting, such as n_steps=8.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all draws; 0 by default.")] = None,
    threads: Annotated[int | None, typer.Option(min=0, help="CPU threads; 0 leaves torch's choice.")] = None,
    stages: Annotated[
        str, typer.Option(metavar="A,B", help="Only these stages and those that they read. `list` names them.")
    ] = "all",
    again: Annotated[
        str, typer.Option(metavar="A,B", help="Run these stages anew although they are done, and what reads them.")
    ] = "",
    restart: Annotated[bool, typer.Option("--restart", help="Forget the study that the folder holds.")] = False,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop in time (exit code 3); the same command goes on.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: every stage and result, at the end the verdicts.")
    ] = False,
    write_settings: Annotated[
        Path | None, typer.Option(help="Write all settings with their meaning to this .toml file, and do no more.")
    ] = None,
) -> None:
    """Run the whole study and write one HTML report: recite, perturb, patch, ablate, look, check, unlearn.

    Every stage measures memorized paragraphs beside never-seen ones, beside the model's own words and, where there is
    one, beside a twin that never read them. The report opens with a verdict on five published claims.

    Every result is on disk before it is used: killed or stopped, the same command goes on where it was and ends as if
    nothing had happened, to the bit. One run at a time works in a folder.

    Examples:
    - `memhooks study`
    - `memhooks study --model my-gpt-neo --paragraphs mine.jsonl --controls unread.jsonl --out runs/mine`
    - `memhooks study --stages gradients,attention --max-minutes 5`
    - `memhooks study --full --set n_unlearned=6 --out runs/full`
    """
    chosen = {"model": model, "paragraphs": paragraphs, "controls": controls, "twin": twin, "counts": counts}
    chosen |= {"seed": seed, "threads": threads}

    from memhooks.study.settings import FULL
    from memhooks.study.settings_file import save_settings

    base = FULL if full else {}
    asked = _settings(base, settings, change or (), {name: one for name, one in chosen.items() if one is not None})
    if write_settings is not None:
        from memhooks.model.export import check_output_file

        check_output_file(write_settings)
        save_settings(asked, write_settings)
        return
    wanted = _names(stages)

    from memhooks.cli.study_shown import Lines, Shown, Silent, shown
    from memhooks.study.stages import STAGES
    from memhooks.study.study import Study
    from memhooks.terminal import say

    if wanted == ["list"]:
        say("\n".join(STAGES))
        return
    run = Study(out, asked)
    display: Shown = Silent() if quiet else Lines() if as_json else shown()
    with display:
        report = run.run(
            STAGES if wanted == ["all"] else wanted,
            again=_names(again),
            restart=restart,
            max_minutes=max_minutes,
            watch=display.watch,
        )
    display.found(run, report)


def _settings(
    base: Mapping[str, object], path: Path | None, changes: Sequence[str], options: Mapping[str, object]
) -> "Settings":
    """The file, then the base (--full), then what stands on the command line."""
    from memhooks.study.settings import Settings
    from memhooks.study.settings_file import check_names, load_settings

    given = {**(load_settings(path) if path else {}), **base, **options, **_changes(changes)}
    check_names(given, "--set")
    return Settings(**given)  # type: ignore[arg-type] - checked by Settings itself


def _changes(changes: Sequence[str]) -> dict[str, object]:
    """NAME=VALUE as TOML; a value that is no number is a text, without quotes, too.

    Raises:
        InputError: there is no = in it.
    """
    import tomllib

    found = {}
    for one in changes:
        name, equals, value = one.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set takes NAME=VALUE, such as n_steps=8; got {one!r}")
        try:
            found[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name.strip()] = value
    return found


def _names(listed: str) -> list[str]:
    return [name for one in listed.split(",") if (name := one.strip())]
