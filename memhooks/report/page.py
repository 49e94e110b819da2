"""One self-contained HTML page from a run's figures, tables and provenance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from memhooks.writing import whole_file

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; } .lead { color: #555; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: left; vertical-align: top; }
th { background: #f5f5f5; } pre { white-space: pre-wrap; background: #f7f7f7; padding: .8rem; font-size: 13px; }
.prefix { color: #555; } .continuation { background: #fbe3d3; }
</style><script>{{ plotly }}</script></head><body>
<h1>{{ title }}</h1><p class="lead">{{ lead }}</p>
{% for section in sections %}<section><h2>{{ section.heading }}</h2>
{% for paragraph in section.text %}<p>{{ paragraph }}</p>{% endfor %}
{% if section.rows %}<table>
<thead><tr>{% for name in section.rows[0] %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in section.rows %}<tr>{% for cell in row.values() %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>{% endif %}
{% for example in section.examples %}<p><b>{{ example.name }}</b></p>
<pre><span class="prefix">{{ example.prefix }}</span><span class="continuation">{{ example.continuation }}</span></pre>
{% endfor %}
{% for figure in section.html %}{{ figure }}{% endfor %}</section>{% endfor %}
</body></html>
"""


@dataclass(frozen=True)
class Section:
    """A heading with, in this order, sentences, a table, example texts and figures."""

    heading: str
    text: Sequence[str] = ()
    rows: Sequence[Mapping[str, object]] = ()
    examples: Sequence[Mapping[str, str]] = ()
    figures: Sequence[go.Figure] = field(default_factory=tuple)

    @property
    def html(self) -> list[Markup]:
        """The figures as HTML; plotly itself is in the page's head."""
        settings = {"displaylogo": False, "responsive": True}
        return [Markup(one.to_html(full_html=False, include_plotlyjs=False, config=settings)) for one in self.figures]


def write_report(path: Path, *, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page, whole or not at all; all text is escaped, no network is needed to open it."""
    template = Environment(autoescape=True).from_string(_PAGE)
    html = template.render(title=title, lead=lead, sections=sections, plotly=Markup(get_plotlyjs()))
    with whole_file(path) as partial:
        partial.write_text(html, encoding="utf8")
