import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from memhooks import cli
from memhooks.errors import InputError
from memhooks.model.labelled import load_result
from memhooks.organism.paragraphs import load_planted


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "memhooks.cli", *arguments], capture_output=True, text=True, check=False
    )


def test_help_lists_the_commands_without_loading_torch():
    done = run("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("study", "measure", "inspect"))
    heavy = "{'torch', 'transformers', 'plotly', 'numpy'} & set(sys.modules)"
    script = f"import sys, memhooks, memhooks.cli; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure", "--paragraphs", "none.pt"], "no paragraph file at none.pt"),
        (["measure", "--paragraphs", "A", "--model", "nowhere"], "no model folder at nowhere"),
        (["inspect", "one"], "at least 2 are needed"),
        (["inspect", "@Z9"], "no bundled paragraph 'Z9'"),
    ],
)
def test_unusable_input_ends_in_one_line_and_code_2(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert done.stdout == ""


def test_an_unwritable_output_folder_is_found_before_any_work():
    with pytest.raises(InputError, match="cannot write to /proc"):
        CliRunner().invoke(cli.app, ["study", "--out", "/proc/nowhere"], catch_exceptions=False)


def test_measure_reports_levels_as_json_and_writes_the_labelled_result(tmp_path):
    done = CliRunner().invoke(cli.app, ["measure", "--paragraphs", "A", "--json", "--out", str(tmp_path / "a.nc")])
    rows = json.loads(done.stdout)
    assert [row["count"] for row in rows] == ["all", "1", "2", "4", "8", "16", "32", "64", "128"]
    assert rows[-1]["EM"] > rows[1]["EM"]
    assert load_result(tmp_path / "a.nc").sizes["paragraph"] == rows[0]["paragraphs"]


def test_measure_reads_the_users_own_files(tmp_path):
    torch.save(load_planted("A").tokens[-6:], tmp_path / "mine.pt")
    np.save(tmp_path / "mine.npy", load_planted("A").tokens[-6:].numpy())
    for name in ("mine.pt", "mine.npy"):
        done = CliRunner().invoke(
            cli.app, ["measure", "--paragraphs", str(tmp_path / name), "--json", "--after", "end_of_text"]
        )
        assert json.loads(done.stdout)[0]["paragraphs"] == 6


def test_inspect_names_tokens_and_heads_and_draws(tmp_path):
    done = CliRunner().invoke(cli.app, ["inspect", "@A383", "--figure", str(tmp_path / "f.html")])
    assert done.exit_code == 0, done.output
    assert "exact match" in done.output
    assert (tmp_path / "f.html").stat().st_size > 1e5
