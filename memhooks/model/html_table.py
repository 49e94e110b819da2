"""A table for notebooks: plain HTML with a search box, in the page's own colours, every cell escaped."""

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = (
    "<style>.memhooks-table{max-height:30em;overflow:auto;font-size:85%}"
    ".memhooks-table table{border-collapse:collapse}"
    ".memhooks-table th{position:sticky;top:0;background:Canvas;color:CanvasText;text-align:left}"
    ".memhooks-table td,.memhooks-table th{padding:.15em .8em;white-space:nowrap}"
    ".memhooks-table tbody tr:nth-child(odd){background:rgba(128,128,128,.12)}</style>"
)
# Every word typed must stand in the row's text; one or two letters must be a word of it.
_SEARCH = (
    "const words=this.value.toLowerCase().split(/\\s+/).filter(word=>word);"
    "for(const row of this.nextElementSibling.querySelectorAll('tbody tr')){"
    "const text=row.dataset.text,whole=text.split(/[^a-z0-9]+/);"
    "row.hidden=!words.every(word=>word.length>2?text.includes(word):whole.includes(word))}"
)


def html_table(rows: Sequence[Mapping[str, object]], *, caption: str, searched: Sequence[str] | None = None) -> str:
    """Rows of equal keys as an HTML fragment with a search box above them.

    `searched` is the text of each row in which the box looks for words; all of its cells by default.
    """
    if not rows:
        return f"<p>{escape(caption)}: no rows</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    texts = searched or [" ".join(map(str, row.values())) for row in rows]
    body = "".join(
        f'<tr data-text="{escape(text.lower())}">'
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in row.values())
        + "</tr>"
        for text, row in zip(texts, rows, strict=True)
    )
    return (
        f'{_STYLE}<div>{escape(caption)} <input type="search" placeholder="search" aria-label="search" '
        f'oninput="{escape(_SEARCH)}"><div class="memhooks-table" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )
