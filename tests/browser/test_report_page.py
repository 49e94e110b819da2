"""The study's page in a real browser: it opens fast, its viewer works, and corpus text does nothing."""

import json

import numpy as np
import pytest
import xarray as xr

from memhooks.report.study_page import write_study_report

N_PREFIX, LENGTH, N = 12, 24, 200
HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "\"quoted\" 'single' & &amp; {{ 7 * 7 }} `code`",
    "שלום",
    "\u202ereversed",
    "broken \ufffd\ufffd utf8 \u2028 line",
    "half \ud83d surrogate",
    "line\nfeed",
]
HEBREW = "A3"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    manifest = {"settings": {"seed": 0}, "models": {"organism": "abc"}, "odd": [HOSTILE[0]]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return write_study_report(folder, study_results(), counts=[1, 8] * 75, texts=word).as_uri()


def word(token):
    """Ids below ten are hostile; the others are words."""
    return HOSTILE[token] if token < len(HOSTILE) else f" word{token}"


def study_results():
    rng = np.random.default_rng(0)
    memorized, control = viewed(rng, "A", 150, em=12), viewed(rng, "C", 50, em=1)
    memorized["tokens"][3, :], memorized["said"][3, :] = 3, 3  # all Hebrew
    memorized["tokens"][0, : len(HOSTILE)] = np.arange(len(HOSTILE))
    names = [f"A{row}" for row in range(150)]
    names[1] = HOSTILE[1]
    memorized = memorized.assign_coords(paragraph=names)
    rise = xr.Dataset(
        {"nll_rise": (("paragraph", "draw", "pos"), rng.normal(0.1, 0.1, (16, 2, N_PREFIX)))},
        {"paragraph": names[:16], "draw": [0, 1], "pos": range(N_PREFIX)},
    )
    rise["em_drop"] = rise["nll_rise"].round()
    rise["nll"] = ("paragraph", rng.random(16))
    after = xr.Dataset(
        {
            "nll": (("paragraph", "pos"), np.full((1, LENGTH - N_PREFIX), 7.0)),
            "said": (("paragraph", "pos"), np.full((1, LENGTH - N_PREFIX), 99)),
        },
        {"paragraph": ["A5"]},
    )
    heads = {"nll_rise": (("paragraph", "layer", "head"), rng.normal(0, 1, (16, 8, 8)))}
    ablation = xr.Dataset(heads, {"layer": range(8), "head": range(8)})
    lens = xr.Dataset(
        {
            "nll": (("paragraph", "layer", "pos"), rng.random((16, 9, 12))),
            "decided": (("paragraph", "pos"), rng.integers(0, 8, (16, 12))),
        },
        {"layer": range(9), "pos": range(12)},
    )
    profile = {end: (("pos",), rng.random(N_PREFIX)) for end in ("mean", "low", "high")}
    profile = xr.Dataset(profile, {"pos": range(N_PREFIX)})
    sets = ("memorized", "control", "twin")
    return {
        "recitation": {name: recited(rng, 150) for name in sets},
        "perturbation": {"memorized": rise},
        "drop_by_position": dict.fromkeys(sets, profile),
        "ablation": dict.fromkeys(sets, ablation),
        "lens": dict.fromkeys(sets, lens),
        "viewed": {"memorized": memorized, "control": control},
        "unlearned_tokens": {"before": after, "after": after},
    }


def recited(rng, n):
    em = rng.integers(0, 50, n)
    columns = dict.fromkeys(("exact_match", "matches", "longest_run", "near_ties"), ("paragraph", em))
    return xr.Dataset(
        columns | {"full_match": ("paragraph", em == 50), "nll": (("paragraph", "pos"), rng.random((n, 50)))},
        attrs={"n_continuation": 50},
    )


def viewed(rng, name, n, *, em):
    tokens = rng.integers(20, 90, (n, LENGTH))
    said = tokens.copy()
    said[:, N_PREFIX + em :] += 1
    nll = np.where(np.arange(LENGTH) < N_PREFIX, np.nan, rng.random((n, LENGTH)))
    attention = rng.random((n, 2, N_PREFIX))
    return xr.Dataset(
        {
            "tokens": (("paragraph", "pos"), tokens),
            "said": (("paragraph", "pos"), said),
            "nll": (("paragraph", "pos"), nll),
            "attention": (("paragraph", "row", "key"), attention / attention.sum(-1, keepdims=True)),
        },
        {"paragraph": [f"{name}{row}" for row in range(n)], "row": ["L0H6", "all heads"]},
        {"n_prefix": N_PREFIX},
    )


@pytest.fixture
def opened(page, report):
    page.goto(report)
    return page


def rows(page):
    return page.locator("#viewer-list [role=option]").count()


def chosen(page):
    return page.locator("#viewer-list [aria-selected=true]").inner_text()


def colours(page):
    body = page.evaluate("getComputedStyle(document.body).backgroundColor")
    figure = page.evaluate("getComputedStyle(document.querySelector('.main-svg')).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('.gtitle')).fill")
    return body, figure, ink


def test_the_page_with_200_paragraphs_opens_in_three_seconds_and_leads_to_all_its_parts(opened):
    opened.wait_for_function("performance.getEntriesByName('first-figure').length", timeout=10_000)
    times = opened.evaluate(
        "[performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd,"
        " performance.getEntriesByName('first-figure')[0].startTime]"
    )
    assert max(times) < 3000
    last = opened.locator("figure > .plotly-graph-div").last
    assert last.locator(".main-svg").count() == 0
    last.scroll_into_view_if_needed()
    last.locator(".main-svg").first.wait_for()
    assert rows(opened) == N
    links = opened.locator("nav a").evaluate_all("links => links.map(link => link.hash.slice(1))")
    assert len(links) > 5
    assert all(opened.locator(f"[id='{name}']").count() == 1 for name in links)
    words = opened.locator(".card .verdict").all_inner_texts()
    assert len(words) == 5
    assert any("not run" in one for one in words)


def test_filters_and_search_reduce_the_list(opened):
    opened.locator("#viewer-set").select_option(label="never seen (C)")
    assert rows(opened) == 50
    opened.locator("#viewer-from").fill("2")
    assert rows(opened) == 0
    assert "No paragraph matches" in opened.locator("#viewer-name").inner_text()
    opened.locator("#viewer-set").select_option(label="all")
    assert rows(opened) == 150
    opened.locator("#viewer-search").fill("שלום")
    assert rows(opened) == 2  # the Hebrew one, and the one that holds all hostile words
    assert opened.locator("#viewer-count").inner_text() == "2 of 200 paragraphs"
    opened.locator("#viewer-search").press("Escape")
    assert rows(opened) == 150
    opened.locator("#viewer-sort").select_option(label="NLL, most first")
    first = opened.evaluate("JSON.parse(document.getElementById('viewer-data').textContent).paragraphs")
    most = max((one for one in first if one["em"] >= 2), key=lambda one: one["nll"])
    assert opened.locator("#viewer-list [role=option]").first.inner_text().startswith(most["id"])


def test_keys_move_through_paragraphs_and_to_the_search(opened):
    opened.locator("#viewer-list").focus()
    first = chosen(opened)
    opened.keyboard.press("j")
    second = chosen(opened)
    assert second != first
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("k")
    assert chosen(opened) == second
    opened.keyboard.press("ArrowUp")
    assert chosen(opened) == first
    opened.keyboard.press("/")
    assert opened.evaluate("document.activeElement.id") == "viewer-search"
    opened.keyboard.type("jk")  # typed, not obeyed
    assert rows(opened) == 0
    opened.keyboard.press("Escape")
    assert rows(opened) == N
    assert opened.evaluate("document.activeElement.id") == "viewer-list"


def test_tokens_are_coloured_and_tell_their_numbers_and_what_the_model_says_instead(opened):
    assert chosen(opened).startswith("A5,")  # what most was measured of comes first
    assert "nats or more" in opened.locator("#viewer-legend").inner_text()
    share = "document.querySelector('.token.rest').style.getPropertyValue('--share')"
    before = float(opened.evaluate(share))
    opened.locator("#viewer-rest").select_option(label="NLL after unlearning")
    assert float(opened.evaluate(share)) == 1.0 > before
    assert opened.locator(".token.missed").count() == LENGTH - N_PREFIX
    assert "after unlearning EM 0" in opened.locator("#viewer-about").inner_text()
    opened.locator("#viewer-search").fill("C7")
    opened.locator("#viewer-list [role=option]", has_text="C7,").first.click()
    tip = opened.locator("#viewer-tip")
    assert tip.is_hidden()
    opened.locator(".token[class*=missed]").first.hover()
    said = tip.inner_text()
    assert f"position {N_PREFIX + 1}, continuation token 2" in said
    assert "the model says instead: “ word" in said
    opened.mouse.move(0, 0)
    assert tip.is_hidden()
    opened.locator("#viewer-prefix").select_option(label="attention of L0H6")
    opened.locator(".token").nth(0).focus()
    assert "attention of L0H6: 0." in tip.inner_text()
    opened.keyboard.press("ArrowRight")
    assert "position 1, prefix" in tip.inner_text()


def test_figures_follow_dark_and_light_and_are_saved_as_svg_and_png(page, report):
    page.emulate_media(color_scheme="dark")
    page.goto(report)
    page.locator(".main-svg").first.wait_for()
    dark = colours(page)
    assert dark[0] == dark[1] == "rgb(20, 23, 26)"
    page.locator("#theme").click()
    light = colours(page)
    assert light[0] == light[1] == "rgb(255, 255, 255)"
    assert light[2] != dark[2]
    assert page.locator("#theme").get_attribute("aria-pressed") == "false"
    page.emulate_media(color_scheme="light")
    page.locator("#theme").click()
    assert colours(page) == dark
    figure = page.locator("figure > .plotly-graph-div").first
    figure.locator(".main-svg").first.wait_for()
    figure.hover()
    for title, ending, start in (
        ("Download plot as SVG", ".svg", b"<svg"),
        ("Download plot as a PNG", ".png", b"\x89PNG"),
    ):
        with page.expect_download() as download:
            figure.locator(f"[data-title='{title}']").click(force=True)
        assert download.value.suggested_filename.endswith(ending)
        assert download.value.path().read_bytes().startswith(start)


def test_hostile_text_is_inert_and_readable(opened):
    opened.on("dialog", lambda dialog: pytest.fail(dialog.message))
    for name in ("A0", "img", HEBREW):
        opened.locator("#viewer-search").fill(name)
        opened.locator("#viewer-list [role=option]").first.click()
    assert opened.locator("#viewer-tokens").get_attribute("dir") == "rtl"
    opened.locator("#viewer-search").fill("onerror")
    assert rows(opened) == 2  # in a name, and in a text
    assert any(HOSTILE[1] in one for one in opened.locator("#viewer-list bdi").all_inner_texts())
    opened.locator("#viewer-list [role=option]", has_text="A0,").click()
    shown = opened.locator(".token").all_text_contents()[: len(HOSTILE)]
    assert shown[:6] == HOSTILE[:6]
    assert shown[7] == "line↵\nfeed"
    assert opened.locator("#viewer-tokens").get_attribute("dir") == "ltr"
    opened.locator(".token").nth(0).hover()
    assert HOSTILE[0] in opened.locator("#viewer-tip").inner_text()
    assert opened.evaluate("window.hacked") is None
    assert opened.locator("main img, main section script:not([type='application/json'])").count() == 0
    isolated = "[...document.querySelectorAll('.token')].every(one => getComputedStyle(one).unicodeBidi === 'isolate')"
    assert opened.evaluate(isolated)


def test_nothing_is_wider_than_a_phone(page, report):
    page.set_viewport_size({"width": 420, "height": 800})
    page.goto(report)
    assert page.evaluate("document.documentElement.scrollWidth") == 420
    assert page.locator("nav details").get_attribute("open") is None
