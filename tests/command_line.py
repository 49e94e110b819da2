"""What the tests of the command line share."""

import sys

import pytest
from typer.testing import CliRunner

from memhooks import cli


def invoke(*arguments):
    """Run the command in this process; its errors are raised."""
    return CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)


def assert_refused(monkeypatch, capsys, arguments, message):
    """One line that says what is wrong, a hint at most, nothing else, and exit code 2."""
    monkeypatch.setattr(sys, "argv", ["memhooks", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main()
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert message in printed.err
    said, *hints = printed.err.strip().split("\n")
    assert said.startswith("memhooks: ")
    assert len(hints) <= 1
    assert all(hint.startswith("hint: ") for hint in hints)
    assert printed.out == ""
