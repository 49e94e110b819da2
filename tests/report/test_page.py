from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from memhooks.report.page import Section, write_report
from memhooks.report.plots import plot_token_nll

HOSTILE = "<script>alert('x')</script> \"quoted\" & \u202ereversed \ufffd"


def test_corpus_text_is_escaped_wherever_it_is_shown(tmp_path):
    section = Section(
        HOSTILE,
        [HOSTILE],
        [{HOSTILE: HOSTILE}],
        [{"name": HOSTILE, "prefix": HOSTILE, "continuation": HOSTILE}],
        [plot_token_nll([HOSTILE, HOSTILE, "</script>"], np.array([1.0, 2.0]), 1)],
    )
    write_report(tmp_path / "r.html", title=HOSTILE, lead=HOSTILE, sections=[section])
    html = (tmp_path / "r.html").read_text("utf8")
    assert "<script>alert" not in html
    assert "alert(&#39;x&#39;)" in html
    assert html.count("</script>") == html.count("<script")


def test_the_page_needs_no_network(tmp_path):
    write_report(tmp_path / "r.html", title="t", lead="l", sections=[Section("h", figures=[go.Figure()])])
    html = (tmp_path / "r.html").read_text("utf8")
    assert 'src="http' not in html
    assert "Plotly.newPlot" in html


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    write_report(path, title="old", lead="", sections=[])
    written = Path.write_text

    def full_disk(self, text, **settings):
        written(self, text[:100], **settings)
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(path, title="new", lead="", sections=[])
    assert path.read_text("utf8").endswith("</html>")
    assert "<title>old</title>" in path.read_text("utf8")
