"""`memhooks score-localizers` refuses before any work."""

import json

import pytest

from tests.command_line import assert_refused, invoke


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--regions", "nowhere"], "regions are random, neurons"),
        (["--model", "mine"], "needs --paragraphs FILE of text that it never read"),
        (["--paragraphs", "missing.jsonl"], "no paragraph file at missing.jsonl"),
        (["--figure", "figure.png"], "must end in .html"),
    ],
)
def test_unusable_input_is_refused(monkeypatch, capsys, arguments, message):
    assert_refused(monkeypatch, capsys, ["score-localizers", *arguments], message)


def test_natural_paragraphs_on_the_organism(tmp_path, monkeypatch):
    from memhooks.localize.localizers import gradient
    from memhooks.truth.injection import bench

    monkeypatch.setattr(bench.Plan, "n_natural", 1)
    monkeypatch.setattr(bench, "CANDIDATES", ())
    arguments = ["--regions", "natural", "--n-injections", 1, "--workers", 1, "--folder", tmp_path / "f", "--json"]
    assert gradient
    found = json.loads(invoke("score-localizers", *arguments).stdout)
    names = [row["localizer"] for row in found["deletion"]]
    assert "gradient_times_weight" in names
    assert found["verdict"][0].startswith("natural: deletion:")
