"""Figures as files: a page that needs no network, or an image drawn by a browser that is at hand.

1. The endings are checked, and for images kaleido and the browser, before anything is drawn.
2. All images are drawn by one browser: to start it takes seconds, to draw takes less than one.
3. Each file is written whole or not at all.
"""

import asyncio
import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from memhooks.errors import InputError, in_short
from memhooks.writing import whole_file

PAGES, IMAGES = (".html",), (".png", ".svg", ".pdf")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
VARIABLES = ("MEMHOOKS_CHROMIUM", "BROWSER_PATH")
_TIMEOUT = 60  # seconds for one image


def save_figure(
    figure: go.Figure, path: str | Path, *, width: int = 1100, height: int | None = None, scale: float | int = 2
) -> Path:
    """Save a figure as its file's ending says: .html (interactive, self-contained), .png, .svg or .pdf.

    Args:
        figure: any plotly figure; its template and colours are kept.
        path: the file; one that exists is replaced, folders that do not are made.
        width: of an image, in pixels before scaling; a page is as wide as its window.
        height: the same; by default the figure's own, else 500.
        scale: how many pixels of a .png there are for each of these.

    Returns:
        The path.

    Raises:
        InputError: no figure, another ending, a folder, a size out of range, no kaleido, or no browser that can draw.

    Example:
        >>> import tempfile, memhooks
        >>> from memhooks.report.theme import figure
        >>> drawing = figure(title="EM", x="paragraph", y="tokens").add_bar(y=[50, 3])
        >>> memhooks.save_figure(drawing, tempfile.mkdtemp() + "/em.html").name
        'em.html'
    """
    save_figures({path: figure}, width=width, height=height, scale=scale)
    return Path(path)


def save_figures(
    figures: Mapping[str | Path, go.Figure] | Mapping[Path, go.Figure],
    *,
    width: int = 1100,
    height: int | None = None,
    scale: float | int = 2,
) -> None:
    """Save figures by path as `save_figure` does, all images by one start of the browser.

    Raises:
        InputError: as there.
    """
    paths = {Path(path): figure for path, figure in figures.items()}
    for path, figure in paths.items():
        if not isinstance(figure, go.Figure):
            raise InputError(f"expected a plotly figure to save as {path}, got a {type(figure).__name__}")
        check_figure_file(path)
    for name, value in (("width", width), ("height", height), ("scale", scale)):
        if value is not None and not 0 < value <= 20_000:
            raise InputError(f"{name} must be over 0 and at most 20000, got {value}")
    images = {path: figure for path, figure in paths.items() if path.suffix in IMAGES}
    size = {"width": width, "height": height, "scale": scale}
    drawn = dict(zip(images, _drawn(images, size), strict=True)) if images else {}
    for path, figure in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            if path in drawn:
                partial.write_bytes(drawn[path])
            else:
                figure.write_html(partial, config={"displaylogo": False, "responsive": True})


def check_figure_file(path: Path) -> None:
    """Refuse, before any work, a file that could not be drawn.

    Raises:
        InputError: another ending, a folder, or an image and no kaleido or no browser.
    """
    if path.suffix not in PAGES + IMAGES:
        raise InputError(f"{path} must end in {' or '.join(PAGES + IMAGES)}, which is what will be written")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file")
    if path.suffix in IMAGES:
        if importlib.util.find_spec("kaleido") is None:
            raise InputError(f"{path.name} is drawn by kaleido: pip install 'memhooks[images]', or end it in .html")
        find_browser()


def find_browser() -> str:
    """The browser that draws images: the one that a variable names, one on the path, or where it usually is.

    Raises:
        InputError: there is none, or not where the variable says.
    """
    for variable in VARIABLES:
        if named := os.environ.get(variable):
            if (found := shutil.which(named)) is None:
                raise InputError(f"{variable} names {named}, which cannot be run; name a Chrome or Chromium")
            return found
    on_path = (shutil.which(name) for name in BROWSERS)
    found = next((one for one in on_path if one), None) or _usual_place()
    if found is None:
        raise InputError(
            "images are drawn by Chrome or Chromium, and none was found; install one, name it in MEMHOOKS_CHROMIUM, "
            "or end the file in .html"
        )
    return found


def _usual_place() -> str | None:
    """Where Chrome stands on other systems, as kaleido's own search knows."""
    from choreographer.browsers.chromium import Chromium

    return Chromium.find_browser(skip_local=False)


def _drawn(images: Mapping[Path, go.Figure], size: Mapping[str, float | int | None]) -> Sequence[bytes]:
    """The images' bytes, in order; in a thread of its own, as notebooks have an event loop already.

    Raises:
        InputError: the browser fails.
    """
    browser = find_browser()
    given = {name: value for name, value in size.items() if value is not None}
    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(asyncio.run, _draw(browser, images, given)).result()
        except Exception as error:  # whatever the browser or kaleido raise
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                raise  # of the disk
            raise InputError(
                f"{browser} could not draw {next(iter(images)).name} ({in_short(error)}); "
                "name another browser in MEMHOOKS_CHROMIUM, or end the file in .html"
            ) from error


async def _draw(browser: str, images: Mapping[Path, go.Figure], size: Mapping[str, float | int]) -> list[bytes]:
    from kaleido import Kaleido

    drawn = []
    async with Kaleido(path=browser, mathjax=False, timeout=_TIMEOUT) as drawing:
        for path, figure in images.items():
            scale = size["scale"] if path.suffix == ".png" else 1  # the others have no pixels
            options: Any = {**size, "scale": scale, "format": path.suffix[1:]}
            drawn.append(await drawing.calc_fig(figure, opts=options))
    return drawn
