"""Rows 1 to 3: how many paragraphs and distinct tokens there are. No weights are needed."""

import torch

from memhooks.truth.published.parts import Found, Measured, Part, Quantity
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.targets import BINS, MP, NMP

_TOTAL = "largest id plus one: a lower bound; the four official files hold 13,441 rows, too"


def _parts(setting: Setting, keys: frozenset[str]) -> list[Part]:
    return []  # they take no time


def _rows(setting: Setting, found: Found) -> dict[str, Measured]:
    sets, strings, rows = setting.held.sets, setting.held.strings, {}
    substitute = setting.held.substitute
    if all(name in sets for name in BINS) and not substitute:
        rows["1.all"] = Measured((float(sum(len(sets[name]) for name in BINS)),), note="sum of the four files")
    elif strings is not None:
        rows["1.all"] = Measured((float(strings.ids.max() + 1),), note=_TOTAL)
    rows |= {f"1.{short}": Measured((float(len(sets[of])),)) for short, of in (("MP", MP), ("NMP", NMP)) if of in sets}
    if strings is not None:
        rows["2"] = Measured((float(strings.counts.max()),))
    if MP in sets:
        own = _distinct(setting, MP)
        if NMP in sets:
            rows["3"] = Measured((_distinct(setting, MP, NMP),), beside={"MP alone": own})
    return rows


def _distinct(setting: Setting, *names: str) -> float:
    return float(len(torch.cat([setting.held.sets[name].tokens.flatten() for name in names]).unique()))


COUNTED = Quantity(("1.all", "1.MP", "1.NMP", "2", "3"), _parts, _rows)
