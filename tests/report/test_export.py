import inspect
import os
import shutil
import stat
import struct
import xml.etree.ElementTree as ET
import zlib

import plotly.graph_objects as go
import pytest

from memhooks.cli.tables import write_page
from memhooks.errors import InputError
from memhooks.report import export
from memhooks.report.export import find_browser, save_figure, save_figures
from memhooks.report.page import Section


def figure(title="How & why?", colour="#123456"):
    drawn = go.Figure(go.Bar(y=[1, 3, 2], marker_color=colour))
    return drawn.update_layout(title=title, template="plotly_white", paper_bgcolor="#fedcba")


@pytest.fixture(scope="module")
def browser():
    """A browser to draw with; under CI there must be one."""
    try:
        return find_browser()
    except InputError:
        assert not os.environ.get("CI"), "under CI images must be drawn: install Chromium"
        pytest.skip("no Chrome or Chromium here; name one in MEMHOOKS_CHROMIUM (under CI this is a failure)")


@pytest.fixture(scope="module")
def drawn(browser, tmp_path_factory):
    """A .png, an .svg and a .pdf, and how often a browser was started for them."""
    from kaleido import Kaleido

    folder, starts, opened = tmp_path_factory.mktemp("images"), [], Kaleido.open

    async def counted(self):
        starts.append(1)
        await opened(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Kaleido, "open", counted)
        figures = {folder / f"a.{kind}": figure() for kind in ("png", "svg", "pdf")}
        save_figures(figures, width=400, height=300, scale=1.5)
    return folder, len(starts)


def test_all_images_are_drawn_by_one_start_and_nothing_else_is_left(drawn):
    folder, starts = drawn
    assert starts == 1
    assert sorted(path.name for path in folder.iterdir()) == ["a.pdf", "a.png", "a.svg"]
    assert (folder / "a.pdf").read_bytes().startswith(b"%PDF")


def test_a_png_has_the_size_and_the_colours_asked_for(drawn):
    content = (drawn[0] / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", content[16:24]) == (600, 450)
    compressed, place = b"", 8
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        compressed += content[place + 8 : place + 8 + length] if kind == b"IDAT" else b""
        place += length + 12
    # The first pixel of the first row has no neighbours, so it is the same by every filter.
    assert zlib.decompress(compressed)[1:4] == b"\xfe\xdc\xba"


def test_an_svg_is_one_with_the_title_as_text(drawn):
    root = ET.fromstring((drawn[0] / "a.svg").read_text())
    assert root.tag.endswith("svg")
    assert (root.get("width"), root.get("height")) == ("400", "300")
    assert "How & why?" in "".join(root.itertext())
    assert "rgb(18, 52, 86)" in (drawn[0] / "a.svg").read_text()


def test_a_page_needs_no_network_and_keeps_the_figure(tmp_path):
    given = figure()
    before = given.to_json()
    assert save_figure(given, str(tmp_path / "new" / "a.html")) == tmp_path / "new" / "a.html"
    page = (tmp_path / "new" / "a.html").read_text()
    assert "Plotly.newPlot" in page
    assert 'script src="http' not in page
    assert "#123456" in page
    assert given.to_json() == before


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("a.jpg", {}, "a.jpg must end in .html or .png or .svg or .pdf"),
        ("a", {}, "must end in .html"),
        ("a.png", {"width": 0}, "width must be over 0 and at most 20000, got 0"),
        ("a.png", {"height": -1}, "height must be over 0 and at most 20000, got -1"),
        ("a.png", {"scale": float("nan")}, "scale must be over 0 and at most 20000, got nan"),
        ("folder.png", {}, "is a folder; give the name of a file"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, path, settings, message):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=message):
        save_figure(figure(), tmp_path / path, **settings)
    assert [one.name for one in tmp_path.iterdir()] == ["folder.png"]


def test_only_figures_are_saved(tmp_path):
    with pytest.raises(InputError, match=r"expected a plotly figure to save as .*a\.html, got a dict"):
        inspect.unwrap(save_figures)({tmp_path / "a.html": {}})


def test_without_kaleido_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"a.svg is drawn by kaleido: pip install 'memhooks\[images\]'"):
        save_figure(figure(), tmp_path / "a.svg")


def test_without_a_browser_it_says_how_to_name_one(monkeypatch, tmp_path):
    for variable in export.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(export, "_usual_place", lambda: None)
    with pytest.raises(InputError, match="none was found; install one, name it in MEMHOOKS_CHROMIUM"):
        save_figure(figure(), tmp_path / "a.png")


def program(path, does="exit 1"):
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_browser_that_a_variable_names_comes_first(monkeypatch, tmp_path):
    monkeypatch.setenv("BROWSER_PATH", program(tmp_path / "second"))
    monkeypatch.delenv("MEMHOOKS_CHROMIUM", raising=False)
    assert find_browser() == str(tmp_path / "second")
    monkeypatch.setenv("MEMHOOKS_CHROMIUM", program(tmp_path / "first"))
    assert find_browser() == str(tmp_path / "first")
    monkeypatch.setenv("MEMHOOKS_CHROMIUM", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"MEMHOOKS_CHROMIUM names .*nowhere, which cannot be run"):
        find_browser()


def test_a_browser_that_fails_is_named_and_leaves_the_old_file(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMHOOKS_CHROMIUM", program(tmp_path / "broken"))
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(InputError, match=r"broken could not draw a\.png .*; name another browser in MEMHOOKS_CHROMIUM"):
        save_figure(figure(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "old"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.png", "broken"]


def test_a_disk_that_fails_leaves_the_old_file(monkeypatch, tmp_path):
    (tmp_path / "a.png").write_text("old")

    def full(images, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_drawn", full)
    with pytest.raises(OSError, match="No space left"):
        save_figure(figure(), tmp_path / "a.png")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.png", "old")]


def test_commands_number_the_images_of_a_page(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        export, "_drawn", lambda images, size: [one.layout.title.text.encode() for one in images.values()]
    )
    sections = [Section("one", figures=[figure("first"), figure("second")]), Section("two", figures=[figure("third")])]
    write_page(tmp_path / "all.svg", "title", "lead", sections)
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"all-1.svg": "first", "all-2.svg": "second", "all-3.svg": "third"}
    write_page(tmp_path / "only.png", "title", "lead", sections[1:])
    assert (tmp_path / "only.png").read_text() == "third"
    assert [line.rsplit("/", 1)[1] for line in capsys.readouterr().err.splitlines()] == [*sorted(found), "only.png"]
