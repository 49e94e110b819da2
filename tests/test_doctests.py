"""Every public name has an example in its docstring, and every example runs as it stands."""

import ast
import doctest
import inspect
from itertools import pairwise
from pathlib import Path

import pytest

import memhooks

ROOT = Path(memhooks.__file__).parent
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def documentation(name):
    """The docstring of a function or class; of a constant, the text that stands after it in its file."""
    value = getattr(memhooks, name)
    if callable(value):
        return inspect.getdoc(value)
    path = ROOT / f"{memhooks._HOME[name].replace('.', '/')}.py"
    statements = ast.parse(path.read_text("utf8")).body
    for statement, after in pairwise(statements):
        targets = [getattr(statement, "target", None), *getattr(statement, "targets", [])]
        if any(getattr(target, "id", None) == name for target in targets):
            return inspect.cleandoc(after.value.value)
    return ""


@pytest.fixture(scope="module")
def load_once():
    """Examples load the bundled model as a user would; all but the first get the one that is there."""
    load, loaded = memhooks.load_model, {}

    def load_model(source, **settings):
        if source not in ("organism", "organism-twin") or settings:
            return load(source, **settings)
        return loaded.setdefault(source, None) or loaded.update({source: load(source)}) or loaded[source]

    return load_model


@pytest.mark.parametrize("name", memhooks.__all__)
def test_the_example_runs_as_it_stands(name, load_once, monkeypatch):
    parsed = doctest.DocTestParser().get_doctest(documentation(name), {}, f"memhooks.{name}", None, None)
    assert parsed.examples, f"memhooks.{name} has no example"
    assert any(f"memhooks.{name}" in example.source for example in parsed.examples), "the example does not use it"
    monkeypatch.setattr(memhooks, "load_model", load_once, raising=False)
    report = []
    doctest.DocTestRunner(optionflags=FLAGS).run(parsed, out=report.append)
    assert not report, "".join(report)
