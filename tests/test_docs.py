import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import memhooks
from memhooks.cli import app

ROOT = Path(__file__).parents[1]
SOURCE = "\n".join(path.read_text("utf8") for path in (ROOT / "memhooks").rglob("*.py"))

PLACES = {path.stem for path in (ROOT / "memhooks").rglob("*")} | {
    "memhooks",
    "make",
    "torch",
    "cuda",
    "memory_summary",
}


def defined(name):
    """As a function, class, argument, field, module or string of the package."""
    patterns = (rf"(def|class) {name}\b", rf"^ *{name}\b *[:=]", rf"\b{name}=", rf"\b{name}: ", rf'"{name}"')
    return name in PLACES or any(re.search(one, SOURCE, re.MULTILINE) for one in patterns)


@pytest.mark.parametrize("page", ["coverage.md", "findings.md"])
def test_what_the_page_names_exists(page):
    text = re.sub(r"```.*?```", "", (ROOT / "docs" / page).read_text("utf8"), flags=re.DOTALL)
    quoted = re.findall(r"`([^`]+)`", text)
    assert len(quoted) >= 4
    commands = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    for words in quoted:
        if words.startswith("memhooks ") and " " in words:
            assert words.split()[1] in commands, words
            continue
        for name in re.findall(r"[A-Za-z_]{4,}", re.split(r"[(=]", words)[0]):
            assert defined(name), words


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_the_code_of_a_page_names_what_there_is(page):
    """Run whole it takes too long for a test; its parts have tests of their own."""
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text("utf8"), flags=re.DOTALL):
        tree = ast.parse(code, page)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("memhooks"):
                for alias in node.names:
                    assert hasattr(import_module(node.module), alias.name), (node.module, alias.name)
        for name in re.findall(r"memhooks\.(\w+)\(", code):
            assert name in memhooks.__all__, name
