"""The widget in a real browser: the very explore.js and explore.css, with the real Python widget behind them.

JupyterLab is replaced by a small page that gives explore.js the `model` of an anywidget (get, set, save_changes,
on, off, send) and carries each message to Python and the changed traits back by HTTP.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from playwright.sync_api import expect

from memhooks.explorer import widget as widget_file
from memhooks.explorer.explore import explore
from memhooks.measure.recitation import recitation
from memhooks.model.ablated import ablated
from memhooks.organism.paragraphs import load_controls, load_planted
from memhooks.paragraphs.paragraphs import Paragraphs

FOLDER = Path(widget_file.__file__).parent
TRAITS = ("setup", "suggestions", "view")
PAGE = """<!doctype html><meta charset="utf-8"><title>explore</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="/explore.css"><body><div id="here"></div>
<script type="module">
import widget from "/explore.js";
const traits = await (await fetch("/traits")).json();
const heard = {};
let last = Promise.resolve(); // answers come in the order of the messages, as they do from a kernel
const model = {
  get: (name) => traits[name],
  set: (name, value) => (traits[name] = value),
  save_changes: () => {},
  on: (event, run) => (heard[event] ??= new Set()).add(run),
  off: (event, run) => heard[event]?.delete(run),
  send: (message) => (last = last.then(() => exchange(message))),
};
async function exchange(message) {
  const changed = await (await fetch("/send", { method: "POST", body: JSON.stringify(message) })).json();
  Object.assign(traits, changed);
  for (const name of Object.keys(changed)) for (const run of heard[`change:${name}`] ?? []) run();
}
window.heard = heard;
window.leave = widget.render({ model, el: document.getElementById("here") });
</script>"""


@contextmanager
def served(widget):
    """The address of a page with the widget; every message is handled one after another, as a kernel does."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body, kind):
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.end_headers()
            self.wfile.write(body.encode("utf-8", "replace"))

        def do_GET(self):
            kinds = {".js": "text/javascript", ".css": "text/css"}
            if self.path == "/":
                self.answer(PAGE, "text/html")
            elif self.path == "/traits":
                self.answer(json.dumps({name: getattr(widget, name) for name in TRAITS}), "application/json")
            else:
                path = FOLDER / self.path[1:]
                self.answer(path.read_text("utf8"), kinds[path.suffix])

        def do_POST(self):
            before = {name: getattr(widget, name) for name in TRAITS}
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            widget._handle_custom_msg(message, [])
            changed = {name: getattr(widget, name) for name in TRAITS if getattr(widget, name) is not before[name]}
            self.answer(json.dumps(changed, allow_nan=False), "application/json")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def opened(page, model, paragraphs):
    """The widget of the tiny model, which has no tokenizer, and its page."""
    widget = explore(model, paragraphs)
    with served(widget) as address:
        page.goto(address)
        yield widget, page


def settled(page):
    """Wait until everything that was asked has come, the free continuation included."""
    expect(page.locator(".memhooks-explore:not([aria-busy])")).to_be_visible()
    expect(page.locator(".now .said .token").first).not_to_have_text("…")
    return shown(page)


def shown(page):
    """EM and NLL as they stand in the table."""
    return int(page.locator("tr.em td.now").inner_text()), float(page.locator("tr.nll td.now").inner_text())


def measured(model, rows, **changes):
    """EM and NLL of the first paragraph by the public functions, with some tokens and heads changed."""
    tokens = rows.tokens[:1].clone()
    for position, token in changes.get("tokens", {}).items():
        tokens[0, position] = token
    changed = Paragraphs(tokens, rows.n_prefix)
    if "heads" not in changes:
        found = recitation(model, changed)
    else:
        with ablated(model, heads=changes["heads"]):
            found = recitation(model, changed)
    return int(found["exact_match"][0]), pytest.approx(float(found["nll"].mean()), abs=6e-4)


def replace(page, position, text):
    page.locator(".prefix .token").nth(position).click()
    page.get_by_label("the new token").fill(text)
    page.get_by_label("the new token").press("Enter")


def test_tokens_and_heads_change_what_is_shown_as_they_change_recitation(opened, paragraphs):
    widget, page = opened
    model = widget.exploration.model
    start = settled(page)
    assert start == measured(model, paragraphs)
    replace(page, 4, "17")
    expect(page.locator(".prefix .token.replaced")).to_have_text("17")
    assert settled(page) == measured(model, paragraphs, tokens={4: 17})
    page.get_by_role("button", name="L2H3", exact=True).click()
    expect(page.get_by_role("button", name="L2H3", exact=True)).to_have_attribute("aria-pressed", "true")
    assert settled(page) == measured(model, paragraphs, tokens={4: 17}, heads=[(2, 3)])
    said = [token.inner_text() for token in page.locator(".now .said .token").all()]
    assert said == [str(token) for token in widget.exploration.rest().said.tolist()]
    rise = widget.exploration.rest().control_rise
    expect(page.locator(".control")).to_contain_text(f"{abs(float(rise.mean())):.3f} on average")
    expect(page.locator(".control")).to_contain_text("5 other paragraphs")
    page.get_by_role("button", name="all heads of layer 2").click()
    every = [(2, head) for head in range(4)]
    expect(page.locator(".head[aria-pressed=true]")).to_have_count(4)
    assert settled(page) == measured(model, paragraphs, tokens={4: 17}, heads=every)


def test_changes_are_taken_back_one_by_one_and_all_at_once(opened, paragraphs):
    widget, page = opened
    model, start = widget.exploration.model, settled(page)
    page.get_by_role("button", name="all heads of layer 2").click()
    replace(page, 4, "17")
    expect(page.locator(".prefix .token.replaced")).to_have_text("17")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".prefix .token.replaced")).to_have_count(0)
    every = [(2, head) for head in range(4)]
    assert settled(page) == measured(model, paragraphs, heads=every)
    page.get_by_role("button", name="to its mean").click()
    expect(page.locator(".python pre")).to_contain_text('how="mean"')
    assert settled(page) != measured(model, paragraphs, heads=every)
    page.get_by_role("button", name="Reset all").click()
    expect(page.locator(".head[aria-pressed=true]")).to_have_count(0)
    assert settled(page) == start
    page.locator(".tried .chip").nth(1).click()
    expect(page.locator(".head[aria-pressed=true]")).to_have_count(4)
    assert settled(page) == measured(model, paragraphs, heads=every)


def test_what_cannot_be_done_is_said_in_one_line_and_the_widget_goes_on(opened, paragraphs):
    widget, page = opened
    start = settled(page)
    replace(page, 4, "1000")
    expect(page.get_by_role("alert")).to_have_text("'1000' is no token id; without a tokenizer type a number in 0..100")
    assert settled(page) == start
    page.locator(".offered .chip").first.click()
    expect(page.get_by_role("alert")).to_be_hidden()
    token = widget.suggestions["tokens"][0]["token"]
    assert settled(page) == measured(widget.exploration.model, paragraphs, tokens={4: token})


def test_everything_can_be_done_with_the_keyboard(opened, paragraphs):
    widget, page = opened
    start, keys = settled(page), page.keyboard
    page.get_by_role("button", name="Reset all").focus()
    keys.press("Tab")  # to the first prefix token, and no further one has a tab stop
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        keys.press(key)
    expect(page.locator(".detail")).to_contain_text("Token 2 ")
    keys.press("Enter")
    keys.type("33")
    keys.press("Enter")
    expect(page.locator(".prefix .token.replaced")).to_have_text("33")
    assert settled(page) == measured(widget.exploration.model, paragraphs, tokens={2: 33})
    keys.press("Escape")
    expect(page.locator(".editor")).to_be_hidden()
    expect(page.locator(".prefix .token").nth(2)).to_be_focused()
    keys.press("Delete")
    expect(page.locator(".prefix .token.replaced")).to_have_count(0)
    page.get_by_role("button", name="all heads of layer 0").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Space"):
        keys.press(key)
    expect(page.get_by_role("button", name="L1H1", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="L1H1", exact=True)).to_be_focused()
    assert settled(page) == measured(widget.exploration.model, paragraphs, heads=[(1, 1)])
    keys.press("Space")
    expect(page.locator(".head[aria-pressed=true]")).to_have_count(0)
    assert settled(page) == start


def test_the_snippet_can_be_copied_the_theme_follows_and_a_closed_view_stops_listening(opened):
    widget, page = opened
    page.get_by_role("button", name="L2H3", exact=True).click()
    settled(page)
    page.locator(".python summary").click()
    assert page.locator(".python pre").text_content() == widget.exploration.snippet()
    page.get_by_role("button", name="Copy").click()
    expect(page.locator(".copy")).to_have_text("Copied")
    page.context.grant_permissions(["clipboard-read"])
    assert page.evaluate("navigator.clipboard.readText()") == widget.exploration.snippet()
    check_theme(page)
    page.evaluate("leave()")
    assert page.evaluate("Object.values(heard).every((runs) => runs.size === 0)")


def check_theme(page):
    """Light or dark as the system is, unless the notebook says which."""
    ground = "getComputedStyle(document.querySelector('.memhooks-explore')).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(28, 28, 30)"
    for system, lab, seen in (
        ("light", "unset", light),
        ("light", "false", dark),
        ("dark", "unset", dark),
        ("dark", "true", light),
    ):
        page.emulate_media(color_scheme=system)
        page.evaluate(f"document.body.setAttribute('data-jp-theme-light', '{lab}')")
        assert page.evaluate(ground) == seen, (system, lab)


class Hostile:
    """A tokenizer of the worst texts."""

    padding_side = "right"
    TEXTS = (
        "<img src=x onerror=\"document.title='run'\">",
        "</script><script>document.title='run'</script>",
        "\u202e turned",
        "\ufffd",
        "a\nb",
        "",
    )

    def decode(self, tokens):
        return "".join(self.TEXTS[int(token) % len(self.TEXTS)] for token in tokens)

    def encode(self, text, **_):
        return [self.TEXTS.index(text)] if text in self.TEXTS else [0, 1]


def test_hostile_text_is_shown_and_never_run(page, model, paragraphs):
    model.tokenizer = Hostile()
    rows = Paragraphs(paragraphs.tokens, 12, ids=("<b>bold</b>", *paragraphs.ids[1:]))
    with served(explore(model, rows)) as address:
        page.goto(address)
        settled(page)
        replace(page, 2, Hostile.TEXTS[0])
        expect(page.locator(".prefix .token.replaced")).to_have_text(Hostile.TEXTS[0])
        replace(page, 3, "<b>two tokens</b>")
        expect(page.get_by_role("alert")).to_contain_text("'<b>two tokens</b>' is 2 tokens (")
        settled(page)
        for found in ("img", "script", "b"):
            expect(page.locator(f"#here {found}")).to_have_count(0)
        assert page.title() == "explore"
        assert "<b>bold</b>" in page.locator("h3").inner_text()
        assert not set("\u202e\n") & set(page.locator(".prefix .token").all_inner_texts()[0])


def test_the_organism_loses_what_it_recites_and_other_text_does_not(page, organism):
    widget = explore(organism, load_planted("A", at_least=128), control=load_controls("prose"), n_control=2)
    with served(widget) as address, torch.set_grad_enabled(False):
        page.goto(address)
        assert settled(page)[0] == 50
        page.get_by_role("button", name="all heads of layer 0").click()
        expect(page.locator(".head[aria-pressed=true]")).to_have_count(8)
        assert settled(page)[0] < 25
        expect(page.locator(".control")).to_contain_text("more than in 2 of 2")
