import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from memhooks import cli
from memhooks.errors import InputError
from memhooks.model.audit_result import Audit, AuditRow
from memhooks.model.labelled import load_result
from memhooks.organism.paragraphs import load_planted
from tests.command_line import assert_refused
from tests.conftest import tiny_neo

ROWS = torch.arange(60).repeat(2, 1)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "memhooks.cli", *arguments], capture_output=True, text=True, check=False
    )


def test_help_lists_the_commands_without_loading_torch():
    done = run("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("study", "measure", "inspect", "hooks", "audit"))
    heavy = "{'torch', 'transformers', 'plotly', 'numpy'} & set(sys.modules)"
    script = f"import sys, memhooks, memhooks.cli; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure", "--paragraphs", "none.pt"], "no paragraph file at none.pt"),
        (["measure", "--paragraphs", "README.md", "--model", "nowhere"], "no model folder at nowhere"),
        (["inspect", "one"], "at least 2 are needed"),
        (["inspect", "@Z9"], "no bundled paragraph 'Z9'"),
        (["inspect", "A383"], "did you mean @A383?"),
        (["measure", "--paragraphs", "A", "--out", "a.csv"], "a.csv must end in .nc"),
        (["hooks", "patern"], "no hook point has 'patern'; did you mean 'hook_pattern'"),
        (["hooks", "--length", "500"], "length must lie in 1..128"),
        (["audit", "--model", "nowhere"], "no model folder at nowhere"),
    ],
)
def test_unusable_input_ends_in_one_line_and_code_2(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, arguments, message)


def test_the_installed_command_exits_with_code_2():
    done = run("study", "--out", "/proc/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot write to /proc/nowhere" in done.stderr


@pytest.fixture
def folder(tmp_path, neo):
    neo.save_pretrained(tmp_path / "neo")
    return tmp_path


def nan_weights(folder):
    neo = tiny_neo()
    with torch.no_grad():
        neo.transformer.wte.weight[0, 0] = float("nan")
    neo.save_pretrained(folder / "neo")


def pickle_weights(folder):
    (folder / "neo" / "model.safetensors").unlink()
    torch.save({"trap": Path}, folder / "neo" / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("prepare", "tokens", "message"),
    [
        (lambda f: (f / "neo" / "config.json").write_text('{"model_type": "gpt2"}'), ROWS, "holds a 'gpt2' model"),
        (lambda f: (f / "neo" / "model.safetensors").write_bytes(b"\0" * 99), ROWS, "damaged or truncated"),
        (nan_weights, ROWS, "NaN or infinite weights"),
        (pickle_weights, ROWS, "only plain tensors are loaded"),
        (lambda f: None, ROWS + 99, "token ids must lie in 0..100"),
        (lambda f: None, torch.zeros(2, 65, dtype=torch.long), "65 tokens do not fit the model's context of 64"),
        (lambda f: None, torch.zeros(2, 20, dtype=torch.long), "n_prefix must lie in 1..19"),
        (lambda f: None, torch.zeros(2, 60), "tokens must be integers"),
        (lambda f: None, torch.zeros(0, 60, dtype=torch.long), "expected a non-empty"),
    ],
)
def test_each_kind_of_bad_input_is_one_line_and_code_2(folder, monkeypatch, capsys, prepare, tokens, message):
    prepare(folder)
    torch.save(tokens, folder / "p.pt")
    arguments = ["measure", "--model", str(folder / "neo"), "--paragraphs", str(folder / "p.pt")]
    assert_refused(monkeypatch, capsys, arguments, message)


def test_bundled_paragraphs_are_refused_to_foreign_models(folder):
    with pytest.raises(InputError, match="belong to organism and organism-twin"):
        CliRunner().invoke(
            cli.app, ["measure", "--model", str(folder / "neo"), "--paragraphs", "A"], catch_exceptions=False
        )


def test_a_folder_is_refused_as_output_file(tmp_path):
    (tmp_path / "a.nc").mkdir()
    with pytest.raises(InputError, match="is a folder; give the name of a file"):
        CliRunner().invoke(
            cli.app, ["measure", "--paragraphs", "A", "--out", str(tmp_path / "a.nc")], catch_exceptions=False
        )


def test_text_longer_than_the_context_is_refused():
    with pytest.raises(InputError, match="at most 128, the model's context"):
        CliRunner().invoke(cli.app, ["inspect", "we the people " * 200], catch_exceptions=False)


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


def test_hooks_lists_what_fires_and_what_is_switched_off():
    done = CliRunner().invoke(cli.app, ["hooks", "--layer", "1"])
    assert done.exit_code == 0
    assert "layer 1, local, window 32" in done.stdout
    assert "use_attn_result" in done.stdout
    rows = json.loads(CliRunner().invoke(cli.app, ["hooks", "pattern local", "--json", "--batch", "4"]).stdout)
    assert [row["layer"] for row in rows] == [1, 3, 5, 7]
    assert rows[0]["shape"] == [4, 8, 100, 100]
    silent = json.loads(CliRunner().invoke(cli.app, ["hooks", "--silent", "--json"]).stdout)
    assert all(row["flag"] and not row["fires"] for row in silent)


def test_audit_passes_on_the_bundled_model_and_its_exit_code_says_otherwise(monkeypatch):
    done = CliRunner().invoke(cli.app, ["audit"])
    assert done.exit_code == 0
    assert "audit passed: 140 hook points of 21 kinds, returned and in place" in done.stdout
    bad = AuditRow("attn.hook_pattern", "blocks.0.attn.hook_pattern", "global", "returned", 0.0, 0.0, 1.0, ("edit",))
    monkeypatch.setattr("memhooks.model.audit.audit", lambda model: Audit((bad,), 1e-5))
    failed = CliRunner().invoke(cli.app, ["audit", "--all"])
    assert failed.exit_code == 1
    assert "audit failed at pattern" in failed.stdout
    rows = json.loads(CliRunner().invoke(cli.app, ["audit", "--json"]).stdout)
    assert rows[0]["failed"] == ["edit"]
