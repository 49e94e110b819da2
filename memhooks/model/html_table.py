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
# Every word typed must stand somewhere in the row.
_SEARCH = (
    "const words=this.value.toLowerCase().split(/\\s+/);"
    "for(const row of this.nextElementSibling.querySelectorAll('tbody tr'))"
    "row.hidden=!words.every(word=>row.textContent.toLowerCase().includes(word))"
)


def html_table(rows: Sequence[Mapping[str, object]], *, caption: str) -> str:
    """Rows of equal keys as an HTML fragment with a search box above them."""
    if not rows:
        return f"<p>{escape(caption)}: no rows</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row.values()) + "</tr>" for row in rows)
    return (
        f'{_STYLE}<div>{escape(caption)} <input type="search" placeholder="search" aria-label="search" '
        f'oninput="{escape(_SEARCH)}"><div class="memhooks-table" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )
