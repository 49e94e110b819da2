"""Row 21: the NLL of every memorized paragraph over all of its 99 tokens, against the published file's.

The best test of the whole pipeline beside the gradient sums: one number for each of 442 paragraphs, to three digits.
It also tells whose weights they are: without it no row that needs the model is compared. The examples are rows of the
same file, found by the published number, and add nothing to it.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np

from memhooks.measure.recitation import recitation
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.published.parts import Found, Measured, Part, Quantity
from memhooks.truth.published.setting import PUBLISHED_ROWS, Setting
from memhooks.truth.published.targets import MP, target

_PART = "likelihoods"
_SAME = 0.0006  # rounding of either side, when an example is looked for in the file


def likelihoods(setting: Setting, rows: Paragraphs) -> Mapping:
    """Mean NLL of each paragraph over all tokens but the first and over the continuation, and its EM."""
    found = recitation(setting.loaded, rows, scored="all")
    nll = found["nll"].values.astype(float)
    return {
        "all": nll.mean(1).tolist(),
        "continuation": nll[:, -rows.n_continuation :].mean(1).tolist(),
        "em": found["exact_match"].values.tolist(),
    }


def _parts(setting: Setting, keys: frozenset[str]) -> list[Part]:
    if not keys:
        return []
    rows = setting.held.sets[MP]
    if setting.rows < PUBLISHED_ROWS:
        rows = setting.rows_of(MP)
    return [Part(_PART, partial(likelihoods, setting, rows), 0.4 * len(rows))]


def _rows(setting: Setting, found: Found) -> dict[str, Measured]:
    strings = setting.held.strings
    if _PART not in found or strings is None or np.isnan(strings.nll).all():  # the organism has none
        return {}
    ours, em = np.array(found[_PART]["all"]), np.array(found[_PART]["em"])
    theirs = strings.nll[: len(ours)]
    full = setting.held.sets[MP].n_continuation
    rows = {
        "21.all": Measured(
            (float(np.abs(ours - theirs).max()),),
            beside={
                "continuation alone": float(np.abs(np.array(found[_PART]["continuation"]) - theirs).max()),
                "recited in full": float((em == full).mean()),
            },
            note=f"{len(ours)} of {len(strings.nll)} rows",
            n=len(ours),
        )
    }
    places = [np.nonzero(np.abs(theirs - one) < _SAME)[0] for one in target("21.examples").published]
    if all(len(one) for one in places):
        first = [int(one[0]) for one in places]
        found_at = f"rows {first} of the file"
        rows["21.examples"] = Measured(tuple(float(ours[one]) for one in first), note=found_at, n=len(ours))
    return rows


LIKELIHOODS = Quantity(("21.examples", "21.all"), _parts, _rows)
