"""How commands end: one line, a hint and the exit code; the traceback only when asked for."""

import errno
import io
import os
import subprocess
import sys

import pytest
import typer

from memhooks import cli
from memhooks.cli import endings
from memhooks.errors import InputError, Stopped
from memhooks.terminal import console


def raising(error):
    def command():
        raise error

    return command


def from_another(error, cause):
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a.nc")
CASES = [
    (InputError("a.csv must end in .nc"), 2, "a.csv must end in .nc", ""),
    (InputError("two\nlines\x1b[31m"), 2, "two lines\ufffd[31m", ""),
    (Stopped("stopped after 5 minutes; run again to go on"), 3, "stopped after 5 minutes; run again to go on", ""),
    (FULL, 4, "there is no space left at runs/a.nc; free some, or write to another disk, then run again", "run folder"),
    (OSError(errno.EDQUOT, "x"), 4, "your disk quota is used up; free some space", "run folder"),
    (PermissionError(errno.EACCES, "x", "a.nc"), 4, "permission was denied at a.nc; allow it", "run folder"),
    (OSError(errno.EROFS, "x", b"a"), 4, "the file system is read-only at a; write to another place", "run folder"),
    (from_another(RuntimeError("writing failed"), FULL), 4, "there is no space left at runs/a.nc", "run folder"),
    (RuntimeError("IoError(Os { code: 28, kind: StorageFull })"), 4, "there is no space left; free some", "run folder"),
    (OSError(errno.ENOENT, "No such file", "x"), 70, "FileNotFoundError: [Errno 2] No such file: 'x'; this", "--debug"),
    (KeyError("head"), 70, "KeyError: 'head'; this is a fault in memhooks", "--debug"),
    (KeyboardInterrupt(), 130, "interrupted; whatever was written is whole", ""),
    (typer.Abort(), 130, "interrupted; ", ""),
]


@pytest.mark.parametrize(("error", "code", "line", "hint"), CASES)
def test_each_failure_is_one_line_its_hint_and_its_code(capsys, error, code, line, hint):
    assert endings.ended(raising(error), debug=False) == code
    assert code in endings.CODES
    printed = capsys.readouterr()
    said, *hints = printed.err.splitlines()
    assert said.startswith(f"memhooks: {line}")
    assert len(hints) == bool(hint)
    assert all(one.startswith("hint: ") and hint in one for one in hints)
    assert printed.out == ""


@pytest.mark.parametrize("asked", ["before", "behind", "environment"])
def test_the_traceback_comes_when_asked_for(monkeypatch, capsys, asked):
    words = {"before": ["--debug", "hooks"], "behind": ["hooks", "--debug"], "environment": ["hooks"]}[asked]
    monkeypatch.setenv("MEMHOOKS_DEBUG", "1" if asked == "environment" else "0")
    monkeypatch.setattr("memhooks.model.loading.load_model", lambda name: raising(KeyError("a fault"))())
    monkeypatch.setattr(sys, "argv", ["memhooks", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 70
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last)")
    assert "raise error" in printed
    assert printed.splitlines()[-1].startswith("memhooks: KeyError: 'a fault'")


def test_debug_behind_two_dashes_is_text_and_no_option():
    assert cli._without_debug(["inspect", "--", "--debug"]) == (["inspect", "--", "--debug"], False)
    assert cli._without_debug(["inspect", "--debug", "--", "x"]) == (["inspect", "--", "x"], True)


@pytest.mark.parametrize(
    ("words", "code"), [(["--version"], 0), (["--help"], 0), (["hooks", "-h"], 0), ([], 2), (["nothing"], 2)]
)
def test_calls_that_run_no_command_end_with_their_code(monkeypatch, capsys, words, code):
    monkeypatch.setattr(sys, "argv", ["memhooks", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    printed = capsys.readouterr()
    assert caught.value.code == code
    assert bool(printed.out) == (words != ["nothing"])
    assert bool(printed.err) == (words == ["nothing"])
    if words == ["--version"]:
        assert printed.out.startswith("memhooks 0.")
        assert "torch 2." in printed.out


@pytest.mark.parametrize("raised", [KeyboardInterrupt, typer.Exit(1), None])
def test_what_a_command_ends_with_is_the_exit_code(monkeypatch, capsys, raised):
    """An interrupt, an audit's own code, and none."""

    def load_model(name):
        raise KeyboardInterrupt if raised is None else raised

    monkeypatch.setattr("memhooks.model.loading.load_model", load_model)
    monkeypatch.setattr(sys, "argv", ["memhooks", *(["--version"] if raised is None else ["hooks"])])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == {None: 0, KeyboardInterrupt: 130}.get(raised, 1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in lines] == (["memhooks: interrupted"] if raised is KeyboardInterrupt else [])


def test_a_reader_that_closes_early_is_no_failure():
    """As `memhooks hooks | head -1`, where the rest finds nobody to read it."""
    script = (
        "import sys\nfrom memhooks.cli.endings import ended\n"
        "def command():\n    for _ in range(100_000): sys.stdout.write('a line of a long table\\n')\n"
        "sys.exit(ended(command, debug=False))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        started.stdout.readline()
        started.stdout.close()
        assert started.stderr.read() == b""
        assert started.wait(60) == 0


def test_tables_leave_a_closed_pipe_to_the_command_line(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(console, "_file", Closed())
    with pytest.raises(BrokenPipeError):
        console.print("a table")
