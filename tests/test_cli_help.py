"""The help of every command: laid out, with examples that parse, and the same options under the same names."""

import inspect
import re
import shlex
import subprocess
import sys
import time
import typing

import pytest
import typer
from typer.testing import CliRunner

from memhooks import cli
from memhooks.cli.guide import examples_of, summary_of
from memhooks.cli.options import FIGURES, ids_of
from memhooks.report.export import IMAGES, PAGES
from tests.command_line import assert_refused

GROUP = typer.main.get_command(cli.app)
COMMANDS = sorted(GROUP.commands)
SHARED = {"model": "--model", "n": "--n", "seed": "--seed", "as_json": "--json", "out": "--out", "figure": "--figure"}
EXAMPLES = [("", call) for call in examples_of(GROUP.help)] + [
    (name, call) for name in COMMANDS for call in examples_of(GROUP.commands[name].help)
]


def page(*arguments, columns=80):
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(cli.app, [*arguments, "--help"]).stdout


def test_help_lists_all_commands_by_what_one_wants_to_do_and_the_exit_codes():
    shown = page()
    titles = ["Run it all", "Measure", "Intervene and look", "Unlearn", "Check the truth", "Tools"]
    places = [shown.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", shown, flags=re.MULTILINE), name
    text = " ".join(shown.split())
    assert "0 done; 1 an audit or a check failed; 2 unusable input or options; 3 stopped by --max-minutes" in text
    assert "4 the disk" in text
    assert "130 interrupted" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_begins_with_a_question_that_fits_one_line(name):
    command = GROUP.commands[name]
    summary = summary_of(command.short_help or command.help)
    assert len(summary) <= 58
    assert "?" in summary


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_page_fits_and_ends_with_its_examples(name, columns):
    lines = [line.rstrip() for line in page(name, columns=columns).splitlines()]
    calls = [f"  {call}" for call in examples_of(GROUP.commands[name].help)]
    assert calls
    assert [line for line in lines if line][-len(calls) :] == calls
    assert all(len(line) <= min(columns, 100) for line in lines if line not in calls)
    assert "…" not in "".join(lines)


def test_an_example_is_a_call_of_its_own_command():
    assert {name for name, _ in EXAMPLES} == {"", *COMMANDS}
    assert len(EXAMPLES) > 40


@pytest.mark.parametrize(("name", "call"), EXAMPLES)
def test_every_example_parses(name, call):
    program, *words = shlex.split(call)
    assert program == "memhooks"
    assert name in ("", words[0])
    command = GROUP.commands[words[0]]
    with command.make_context(words[0], words[1:]) as context:  # parses, checks and converts, runs nothing
        assert set(context.params) == {one.name for one in command.params if one.name != "help"}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "study"])  # its lines are progress, no table
def test_every_command_prints_json_when_asked(name):
    assert "--json" in {option for one in GROUP.commands[name].params for option in one.opts}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("study", "apply", "revert")])
def test_shared_options_are_those_of_one_place(name):
    """By the very objects: spelling and help cannot drift apart."""
    from memhooks.cli import options

    places = {"as_json": options.Json, "out": options.Out, "figure": options.Figure, "model": options.Model}
    places |= {"threads": options.Threads, "control": options.Control, "twin": options.Twin, "ids": options.Ids}
    hints = typing.get_type_hints(inspect.unwrap(GROUP.commands[name].callback), include_extras=True)
    own = {("control", "forks"), ("control", "equal-loss"), ("twin", "capacity")}
    for parameter in set(hints) & set(places):
        if (parameter, name) not in own:
            assert hints[parameter] == places[parameter], parameter
    for parameter, option in SHARED.items():
        found = [one.opts for one in GROUP.commands[name].params if one.name == parameter]
        assert found in ([], [[option]])


def test_help_needs_neither_torch_nor_a_second():
    """In one process, as to start one takes longer than the help itself."""
    script = (
        "import sys, time\nstart = time.perf_counter()\nfrom typer.testing import CliRunner\nfrom memhooks import cli\n"
        "for words in ([], ['study'], ['perturb'], ['unlearn']):\n"
        "    assert CliRunner().invoke(cli.app, [*words, '--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'plotly', 'numpy', 'xarray', 'pandas', 'scipy', 'kaleido'}\n"
        "print(sorted(heavy & set(sys.modules)), time.process_time())"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 60
    heavy, seconds = done.stdout.rsplit(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 4  # of four pages, on any machine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["meassure"], "no such command 'meassure'; did you mean measure?"),
        (["unlern"], "did you mean unlearn"),
        (["measure", "--paragrahs", "A"], "no such option: --paragrahs; did you mean --paragraphs?"),
        (["perturb", "--sed", "1"], "no such option: --sed; did you mean --seed?"),
        (["perturb", "--n", "0"], "'--n'"),
        (["perturb", "--n", "many"], "'--n'"),
        (["perturb", "--replace", "all"], "'--replace'"),
        (["measure"], "missing option '--paragraphs'"),
        (["apply"], "missing argument"),
        (["hooks", "--layer", "1", "more", "words"], "unexpected extra argument"),
    ],
)
def test_what_is_mistyped_is_refused_in_one_line_with_the_nearest_name(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, arguments, message)


def test_ids_may_stand_between_commas_or_be_given_again():
    assert ids_of(None) == []
    assert ids_of(["A300,A301"]) == ids_of(["A300", " A301 "]) == ["A300", "A301"]
    for name in ("attack", "unlearn"):
        words = ["--delta", "x.safetensors", "--ids", "A1,A2", "--ids", "A3"]
        with GROUP.commands[name].make_context(name, words) as context:
            assert ids_of(context.params["ids"]) == ["A1", "A2", "A3"]


def test_figures_end_as_the_command_line_says():
    assert FIGURES == PAGES + IMAGES
