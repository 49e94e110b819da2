import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = (
    "01_measure",
    "02_perturb",
    "03_gradients",
    "04_patch_and_ablate",
    "05_rare_tokens",
    "06_unlearn",
    "07_hook_points",
    "08_your_own_model",
    "09_truth",
)
SECTIONS = ("**What you will learn**", "**You need**", "## What we saw", "## Try it yourself", "## Next")


@pytest.fixture(params=NAMES)
def notebook(request):
    return nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)


def test_these_are_all_notebooks():
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES


def test_nothing_of_a_run_is_left(notebook):
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in _code(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_none_defines_a_function_or_a_class(notebook):
    for node in _nodes(notebook):
        assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef), ast.unparse(node)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
            assert not isinstance(node.value, ast.Lambda), ast.unparse(node)


def test_each_says_what_it_teaches_what_it_needs_what_was_seen_and_where_to_go_on(notebook):
    text = _text(notebook)
    assert re.match(r"# [1-9]\. \w", text)
    places = [text.find(f"\n{section}") for section in SECTIONS]
    assert all(place > 0 for place in places), dict(zip(SECTIONS, places, strict=True))
    assert places == sorted(places)
    tasks = re.findall(r"^\d\. ", text[places[-2] : places[-1]], flags=re.MULTILINE)
    assert 2 <= len(tasks) <= 3


def test_words_stand_before_every_code_cell(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == kinds[-1] == "markdown"
    for before, cell in zip(kinds, notebook.cells[1:], strict=False):
        assert "markdown" in (before, cell.cell_type), cell.source


def test_paths_are_relative_and_links_lead_somewhere(notebook):
    everything = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"(?<![\w.])/(?:work|home|root|tmp|usr|Users|mnt)\b|[A-Z]:\\", everything)
    for link in re.findall(r"\]\(([^)#:]+)\)", _text(notebook)):
        assert (FOLDER / link).exists(), link


def test_imports_resolve_and_top_level_names_exist(notebook):
    import memhooks

    for node in _nodes(notebook):
        if isinstance(node, ast.ImportFrom):
            home = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(home, name.name), ast.unparse(node)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "memhooks":
            assert node.attr in memhooks.__all__, ast.unparse(node)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _text(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def _nodes(notebook):
    return [node for cell in _code(notebook) for node in ast.walk(ast.parse(cell.source))]
