"""What --help shows: a page to read, laid out for 80 columns as well as for wide terminals.

1. What is asked and how, in the words of the command's docstring.
2. The options, in groups, each with its default.
3. The examples, last, where the eye is when the page has run through.
"""

# rich is imported inside the functions: a command that runs needs none of this.
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDEST = 100  # columns; longer lines are hard to read
_EXAMPLES = re.compile(r"\n\nExamples?:((?:[-;\s]*`[^`]*`)+)[.\s]*$")
"""The last paragraph of a docstring: calls in a list, or one after another."""
_OWN = "How"
_PANELS = {  # by the names of parameters, so that an option stands in the same place in every command
    "Which model and text": (
        *("text", "search", "model", "other", "twin"),
        *("paragraphs", "other_paragraphs", "mirror", "control", "controls", "held_out", "others", "unrelated"),
        *("natural", "reference", "background", "ids", "n", "any_rows", "n_prefix", "n_tokens"),
    ),
    _OWN: (),
    "What to write": ("figure", "out", "as_json", "pairs", "checkpoint", "save", "folder", "runs_folder"),
    "Running": ("seed", "threads", "workers", "help"),
}
_PLACEHOLDERS = {int: "NUMBER", float: "NUMBER", Path: "FILE", str: "TEXT"}


def examples_of(text: str) -> list[str]:
    """The example calls of a help text, one line each."""
    found = _EXAMPLES.search(_plain(text))
    return [" ".join(one.split()) for one in re.findall(r"`([^`]*)`", found[1])] if found else []


def summary_of(text: str) -> str:
    """The first paragraph of a help text, as one line."""
    return " ".join(_plain(text).split("\n\n")[0].split())


class Guide(TyperCommand):
    """A command whose help reads like a guide."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - the types have no public name
        """Print it; called by --help."""
        console = _console()
        _heading(console, self, ctx)
        kinds, params = _kinds(self.callback), self.get_params(ctx)
        width = max(len(_spelt(one, kinds)) for one in params)
        for title, ones in _grouped(params, _titled):
            console.print(f"[bold]{title}[/]")
            console.print(_options(ones, kinds, width))
            console.print()
        _examples(console, self.help or "")


class GuideGroup(TyperGroup):
    """The command line as a whole, its commands by what one wants to do."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - as above
        """Print it; called by --help, and where no command is given."""
        from rich.table import Table

        console = _console()
        _heading(console, self, ctx)
        commands = [command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))]
        width = max(len(str(command.name)) for command in commands)
        for title, ones in _grouped((one for one in commands if not one.hidden), _panel):
            console.print(f"[bold]{title}[/]")
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(width=width + 2, style="bold cyan", no_wrap=True)
            for one in ones:
                table.add_row(f"  {one.name}", _prose(summary_of(one.short_help or one.help or "")))
            console.print(table)
            console.print()
        console.print("[bold]Options[/], before the command")
        params = self.get_params(ctx)
        console.print(_options(params, {}, max(len(_spelt(one, {})) for one in params)))
        console.print()
        _examples(console, self.help or "")
        if self.epilog:
            console.print(_prose(self.epilog))


def _console() -> "Console":
    """As wide as is good to read."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, WIDEST)
    return console


def _plain(text: str) -> str:
    """The docstring without its indentation."""
    return inspect.cleandoc(text).strip()


def _prose(text: str) -> "RenderableType":
    from rich.markdown import Markdown
    from rich.theme import Theme

    class Words(Markdown):
        def __rich_console__(self, console: "Console", options: Any) -> Iterator[Any]:  # noqa: ANN401
            with console.use_theme(Theme({"markdown.code": "cyan"})):
                yield from super().__rich_console__(console, options)

    return Words(text)


def _heading(console: "Console", command: TyperCommand | TyperGroup, ctx: Any) -> None:  # noqa: ANN401
    """The usage in short, the question, and the answer's way."""
    arguments = [one for one in command.get_params(ctx) if one.param_type_name == "argument"]
    named = "".join(f" {_name(one)}" if one.required else f" [{_name(one)}]" for one in arguments)
    rest = " COMMAND ..." if isinstance(command, TyperGroup) else named
    console.print(f"\nUsage: {ctx.command_path} [options]{rest}\n", style="dim", markup=False)
    question, _, answer = _EXAMPLES.sub("", _plain(command.help or "")).partition("\n\n")
    console.print(_prose(f"**{' '.join(question.split())}**"))
    console.print()
    if answer.strip():
        console.print(_prose(answer.strip()))
        console.print()


def _grouped(ones: Iterable[Any], title_of: Callable[[Any], str]) -> list[tuple[str, list[Any]]]:
    """By title: those of `_PANELS` in its order, then the others as they come."""
    groups: dict[str, list[Any]] = {title: [] for title in _PANELS}
    for one in ones:
        groups.setdefault(title_of(one), []).append(one)
    return [(title, members) for title, members in groups.items() if members]


def _titled(param: Any) -> str:  # noqa: ANN401
    if own := getattr(param, "rich_help_panel", None):
        return str(own)
    return next((title for title, names in _PANELS.items() if param.name in names), _OWN)


def _panel(command: Any) -> str:  # noqa: ANN401
    return str(getattr(command, "rich_help_panel", None) or "Commands")


def _kinds(callback: Any) -> dict[str, Any]:  # noqa: ANN401 - a command's function
    """The annotated type of each parameter, without the option's own settings."""
    hints = typing.get_type_hints(inspect.unwrap(callback), include_extras=True)
    return {name: _bare(hint) for name, hint in hints.items()}


def _bare(hint: Any) -> tuple[Any, Any]:  # noqa: ANN401 - any annotation
    """The type that is inside `Annotated[... | None, option]`, and the option's settings."""
    settings = next((one for one in getattr(hint, "__metadata__", ()) if hasattr(one, "min")), None)
    if settings is not None:
        hint = typing.get_args(hint)[0]
    inner = [one for one in typing.get_args(hint) if one is not type(None)]
    if typing.get_origin(hint) is not typing.Literal and len(inner) == 1:
        return _bare(inner[0])[0], settings
    return hint, settings


def _options(params: Iterable[Any], kinds: dict[str, Any], width: int) -> "RenderableType":
    """Name and placeholder on the left; what it is for, what it takes and its default on the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True, width=width + 2)
    table.add_column(ratio=1)
    for param in params:
        table.add_row(Text(f"  {_spelt(param, kinds)}"), _prose(_said(param, *kinds.get(param.name, (None, None)))))
    return table


def _spelt(param: Any, kinds: dict[str, Any]) -> str:  # noqa: ANN401
    kind = kinds.get(param.name, (None,))[0]
    if param.param_type_name == "argument":
        return _name(param)
    names = ", ".join(sorted(param.opts, key=len))
    if param.secondary_opts:
        opposite = param.secondary_opts[0]
        return names.replace("--", "--[no-]", 1) if opposite.startswith("--no-") else f"{names}, {opposite}"
    if kind is None or kind is bool:
        return names
    return f"{names} {param.metavar or _PLACEHOLDERS.get(kind, 'NAME')}"


def _name(argument: Any) -> str:  # noqa: ANN401
    return str(argument.metavar or argument.name.upper())


def _said(param: Any, kind: Any, settings: Any) -> str:  # noqa: ANN401
    stars = re.compile(r"\*(?=[^`]*(?:`[^`]*`[^`]*)*$)")  # of file patterns; no option's help is set in italics
    words = [stars.sub(r"\\*", str(getattr(param, "help", "") or ""))]
    if typing.get_origin(kind) is typing.Literal:
        words.append(f"One of {', '.join(map(str, typing.get_args(kind)))}.")
    if getattr(settings, "min", None):
        words.append(f"At least {settings.min}.")
    if param.required and param.param_type_name == "option":
        words.append("Needed.")
    elif param.default is not None and param.default is not False and param.default != "":
        words.append(f"*[default: {'yes' if param.default is True else param.default}]*")
    return " ".join(words)


def _examples(console: "Console", text: str) -> None:
    """Each on a line of its own, never broken, so that it can be copied."""
    calls = examples_of(text)
    if calls:
        console.print("[bold]Examples[/]" if len(calls) > 1 else "[bold]Example[/]")
    for call in calls:
        console.print(f"  {call}", markup=False, soft_wrap=True, style="green")
    if calls:
        console.print()
