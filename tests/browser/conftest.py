"""A real browser for the pages and widgets: Debian's Chromium, or the one that MEMHOOKS_CHROMIUM names."""

import os
import shutil

import pytest

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def browser():
    path = os.environ.get("MEMHOOKS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None and not os.environ.get("CI"):
        pytest.skip("no Chromium here; name one in MEMHOOKS_CHROMIUM (under CI this is a failure)")
    assert path, "under CI the browser tests must run: install Chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """An empty page; whatever it reports as an error, or asks of the network, fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    opened, faults = context.new_page(), []
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda request: faults.append(request.url) if not is_local(request.url) else None)
    yield opened
    context.close()
    assert not faults, faults


def is_local(url):
    return url.startswith(("file:", "data:", "blob:", "about:", "http://127.0.0.1", "http://localhost", "ws://"))
