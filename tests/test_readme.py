import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text("utf8")


def test_the_quickstart_runs_as_it_stands(capsys):
    quickstart, exploring, intervening, looking, checking = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(quickstart.splitlines()) <= 15
    names = {}
    exec(compile(quickstart, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "forget: longest run" in printed
    assert "others: exact match" in printed
    exec(compile(exploring, "README.md", "exec"), names)
    assert names["store"]["pattern", 1].shape[1] == 8
    exec(compile(intervening, "README.md", "exec"), names)
    assert names["worth"]["memorized"].sizes == {"paragraph": 4, "layer": 8, "head": 8}
    exec(compile(looking, "README.md", "exec"), names)
    assert "head" in capsys.readouterr().out
    exec(compile(checking, "README.md", "exec"), names)
    assert names["swaps"].sizes["row"] == 8
    assert names["line"].attrs["verdict"]


def test_every_linked_file_exists():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parents[1] / link).exists(), link
