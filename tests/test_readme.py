import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text("utf8")


def test_the_quickstart_runs_as_it_stands(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.splitlines()) <= 12
    exec(compile(code, "README.md", "exec"), {})
    assert "UnlearningStep(step=9" in capsys.readouterr().out


def test_every_linked_file_exists():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parents[1] / link).exists(), link
