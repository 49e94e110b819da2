import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import plotly
import plotly.graph_objects as go
import pytest

import memhooks.report
from memhooks.report import page
from memhooks.report.page import Section, write_report
from memhooks.report.plots import plot_token_nll
from memhooks.report.theme import COLOURS, DARK, ON_DARK, TEMPLATE

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
    assert "Plotly.react(holder" in html
    assert "plotly.js v" in html


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


def test_one_template_of_ours_is_never_set_globally():
    for one in pkgutil.iter_modules(memhooks.report.__path__):
        importlib.import_module(f"memhooks.report.{one.name}")
    assert plotly.io.templates.default == "plotly"
    assert TEMPLATE not in [plotly.io.templates[name] for name in plotly.io.templates]


def test_text_is_readable_on_every_ground_in_light_and_dark():
    css = (Path(page.__file__).parent / "web" / "page.css").read_text()
    colours = dict(re.findall(r"--(\w+): light-dark\((#\w{6}, #\w{6})\);", css))
    pairs = [(ink, ground) for ink in ("text", "muted", "link") for ground in ("page", "surface")]
    pairs += [(ink, "surface") for ink in ("holds", "fails", "open")]
    pairs += [("text", ground) for ground in ("heat", "blue", "cool")]
    for ink, ground in pairs:
        for one, other in zip(colours[ink].split(", "), colours[ground].split(", "), strict=True):
            assert contrast(one, other) >= 4.5, (ink, one, ground, other)
    for template, paper in ((TEMPLATE, "#ffffff"), (DARK, "#14171a")):
        ink = template.layout.font.color
        assert contrast("#222222" if ink == "#222" else ink, paper) >= 4.5
    for colour in COLOURS.values():  # lines and marks need 3
        assert contrast(ON_DARK.get(colour.lower(), colour), "#14171a") >= 3


def contrast(one, other):
    """By WCAG 2.2."""

    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
