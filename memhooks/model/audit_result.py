"""What an audit of hook points found, and how people read it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from memhooks.model.html_table import html_table

Way = Literal["returned", "in place"]


@dataclass(frozen=True)
class AuditRow:
    """One hook point edited in one way; effects are the largest change of a logit.

    Attributes:
        site: hook name without its layer.
        name: full hook name.
        attention: type of the layer, "" outside the blocks.
        way: whether the hook returned a tensor or edited in place.
        identity: effect of putting the activation back; 0 expected. None = the edit raised an error; so below.
        edit: effect of a real edit; above 0 expected.
        full_patch: distance from the clean logits after a full patch; 0 expected, None = not defined here.
        failed: which of the three did not come out as expected.
    """

    site: str
    name: str
    attention: str
    way: Way
    identity: float | None
    edit: float | None
    full_patch: float | None
    failed: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Audit:
    """What an audit found; truthy if every check passed."""

    rows: tuple[AuditRow, ...]
    tolerance: float

    def __bool__(self) -> bool:
        return not self.failed_sites

    @property
    def failed_sites(self) -> list[str]:
        """Short names of the sites at which some edit did not do what it says, in forward order."""
        return list(dict.fromkeys(row.site.rsplit("hook_", 1)[-1] for row in self.rows if row.failed))

    def __repr__(self) -> str:
        if self:
            n_sites, n_points = (len({getattr(row, of) for row in self.rows}) for of in ("site", "name"))
            return f"audit passed: {n_points} hook points of {n_sites} kinds, returned and in place"
        return f"audit failed at {', '.join(self.failed_sites)}"

    def _repr_html_(self) -> str:
        return html_table([shown(row) for row in self.rows], caption=str(self))


def summarized(result: Audit) -> list[dict[str, object]]:
    """One line per kind of site: the worst of its layers and ways, and where it failed."""
    sites: dict[str, list[AuditRow]] = {}
    for row in result.rows:
        sites.setdefault(row.site, []).append(row)
    return [
        {
            "site": site,
            "layers": len({row.name for row in rows if row.attention}) or "",
            "identity, at most": _worst(max, [row.identity for row in rows]),
            "edit, at least": _worst(min, [row.edit for row in rows]),
            "full patch, at most": _worst(max, [row.full_patch for row in rows]),
            "verdict": "; ".join(dict.fromkeys(f"{row.way}: {', '.join(row.failed)}" for row in rows if row.failed))
            or "ok",
        }
        for site, rows in sites.items()
    ]


def shown(row: AuditRow) -> dict[str, object]:
    """A row as people read it."""
    return {
        "site": row.site,
        "layer": f"{row.name.split('.')[1]} {row.attention}" if row.attention else "",
        "way": row.way,
        "identity": _number(row.identity),
        "edit": _number(row.edit),
        "full patch": _number(row.full_patch),
        "verdict": "ok" if not row.failed else "FAILED: " + ", ".join(row.failed),
    }


def _number(effect: float | None) -> str:
    return "-" if effect is None else f"{effect:.1e}"


def _worst(of: Callable[[list[float]], float], effects: list[float | None]) -> str:
    there = [effect for effect in effects if effect is not None]
    return _number(of(there) if there else None)
