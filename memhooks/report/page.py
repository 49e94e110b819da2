"""One self-contained HTML page from a run's figures, tables, verdicts, paragraphs and provenance.

1. Everything shown is put into the template `web/page.html`, which escapes all text.
2. Figures are data in the page: `web/page.js` draws each one when it comes near, in light or dark colours.
3. Paragraphs are data, too: `web/viewer.js` shows them, token by token.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from memhooks.report.theme import DARK, ON_DARK, TEMPLATE
from memhooks.writing import whole_file

if TYPE_CHECKING:
    from memhooks.report.claim import Claim
    from memhooks.report.estimates import Estimate

_DEFAULT_HEIGHT = 450
_ESCAPES = str.maketrans({one: f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"})


@dataclass(frozen=True)
class Section:
    """A heading with, in this order, sentences, a table, example texts and figures."""

    heading: str
    text: Sequence[str] = ()
    rows: Sequence[Mapping[str, object]] = ()
    examples: Sequence[Mapping[str, str]] = ()
    figures: Sequence[go.Figure] = field(default_factory=tuple)

    @property
    def anchor(self) -> str:
        """What links to this section point to."""
        return anchor_of(self.heading)

    @property
    def html(self) -> list[Markup]:
        """The figures as places on the page with their data, drawn when they come near."""
        return [_placed(one, f"{self.anchor}-{number}") for number, one in enumerate(self.figures, start=1)]


@dataclass(frozen=True)
class Extras:
    """What a study's page has beside its sections: verdicts on top, paragraphs after the figures, the rest folded."""

    claims: Sequence["Claim"] = ()
    claims_heading: str = "What was found"
    claims_text: Sequence[str] = ()
    viewer: Mapping[str, object] | None = None
    viewer_heading: str = "Paragraphs, token by token"
    viewer_text: Sequence[str] = ()
    folded: Sequence[Section] = ()


def write_report(path: Path, *, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page, whole or not at all; all text is escaped, no network is needed to open it."""
    write_whole_page(path, title=title, lead=lead, sections=sections, extras=Extras())


def write_whole_page(path: Path, *, title: str, lead: str, sections: Sequence[Section], extras: Extras) -> None:
    """Write a page that also has verdicts, a paragraph viewer and folded sections, whole or not at all."""
    # Text that is no valid Unicode (half a surrogate pair) becomes a question mark rather than an error.
    html = page_html(title=title, lead=lead, sections=sections, extras=extras).encode("utf8", "replace").decode("utf8")
    with whole_file(path) as partial:
        partial.write_text(html, encoding="utf8")


def page_html(*, title: str, lead: str, sections: Sequence[Section], extras: Extras) -> str:
    """The page as text."""
    anchors = {"claims": anchor_of(extras.claims_heading), "viewer": anchor_of(extras.viewer_heading)}
    there = {one.anchor for one in sections}
    headings = [
        *([extras.claims_heading] if extras.claims else ()),
        *(one.heading for one in sections),
        *([extras.viewer_heading] if extras.viewer else ()),
        *(one.heading for one in extras.folded),
    ]
    viewer = extras.viewer
    return _template().render(
        title=title,
        lead=lead,
        sections=sections,
        folded=extras.folded,
        anchors=anchors,
        links=[{"anchor": anchor_of(one), "words": one} for one in headings],
        claims=[_card(one, there) for one in extras.claims],
        claims_heading=extras.claims_heading,
        claims_text=extras.claims_text,
        viewer=None if viewer is None else safe_json(viewer),
        viewer_heading=extras.viewer_heading,
        viewer_text=extras.viewer_text,
        themes=safe_json({"light": _plain(TEMPLATE), "dark": _plain(DARK), "swapped": ON_DARK}),
        css=Markup(_file("page.css")),
        script=Markup(_file("page.js") + ("\n" + _file("viewer.js") if viewer else "")),
        plotly=Markup(get_plotlyjs()),
    )


def anchor_of(heading: str) -> str:
    """A heading as the name that links point to."""
    return re.sub(r"\W+", "-", heading.lower()).strip("-") or "section"


def safe_json(value: object) -> Markup:
    """JSON that can stand in a page's script element: nothing in it can end the element or be taken for markup."""
    return Markup(json.dumps(value, allow_nan=False).translate(_ESCAPES))


def _card(claim: "Claim", there: set[str]) -> dict[str, object]:
    """A claim as the template wants it; it links to its figures if these are on the page."""
    anchor = anchor_of(claim.section)
    groups: dict[tuple[str, str], list] = {}
    for one in claim.estimates:
        groups.setdefault((one.of, one.unit), []).append(one)
    shown = {name: getattr(claim, name) for name in ("claim", "verdict", "sign", "kind", "why", "section")}
    tables = [{"of": of, "unit": unit, "estimates": _aligned(own)} for (of, unit), own in groups.items()]
    return shown | {"groups": tables, "anchor": anchor if anchor in there else ""}


def _aligned(estimates: Sequence["Estimate"]) -> list[dict[str, str]]:
    """Numbers of one kind with equally many digits."""
    digits = sorted(one.digits for one in estimates)[(len(estimates) - 1) // 2]
    return [{"name": one.name, "words": one.words(digits), "n": one.n, "role": one.role} for one in estimates]


def _placed(figure: go.Figure, name: str) -> Markup:
    """A figure's place, as high as the figure will be, and its data without the template that all share."""
    data = json.loads(str(figure.to_json()))
    layout = data["layout"]
    height = layout.setdefault("height", _DEFAULT_HEIGHT)
    layout.pop("template", None)  # all share one, and the page has it in light and dark
    title = re.sub("<[^>]*>", " ", layout.get("title", {}).get("text") or "figure")
    panels = sum(key.startswith("xaxis") for key in layout) > 1
    return Markup(
        '<figure class="{}" aria-label="{}"><div class="plotly-graph-div" id="{}" style="height:{:.0f}px"></div>'
        '<script type="application/json">{}</script></figure>'
    ).format("panels" if panels else "single", escape(title), name, height, safe_json(data))


def _plain(template: go.layout.Template) -> object:
    return template.to_plotly_json()


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["marked"] = _marked
    return environment.from_string(_file("page.html"))


def _marked(text: str) -> Markup:
    """Escaped text, with `words in backticks` as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _file(name: str) -> str:
    return (files("memhooks.report") / "web" / name).read_text("utf8")
