"""Rows 4 and 5: how much of the exact match is lost when one prefix token is replaced at random.

1. One random token at each prefix position of each paragraph; the same continuation is scored.
2. The drop of EM, averaged over positions 1 to 49 (as published; position 0 was kept for the untouched run).
3. The interval is over clusters of near-duplicates.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np

from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.perturbation import perturb_exact_match
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.truth.published.parts import Found, Measured, Part, Quantity
from memhooks.truth.published.setting import SHAPE, Setting
from memhooks.truth.published.targets import MP, NMP

EMAIL = 3053
"""The token " email" of GPT-Neo's vocabulary."""
_NEAR = range(27, 34)  # about 20 tokens before the end of a prefix of 50
_DRAWS = 4
SETS = {"4.MP": MP, "4.NMP": NMP}


def drops(setting: Setting, rows: Paragraphs) -> Mapping:
    """EM drop of each paragraph and position, tokens; and the paragraphs' clusters."""
    effect = perturb_exact_match(setting.loaded, rows, seed=setting.seed)
    return {"drop": effect["em_drop"].isel(draw=0).values.tolist(), "clusters": clusters(rows).tolist()}


def email_rows(setting: Setting) -> list[tuple[int, int]]:
    """Row and position of every " email" near the published place, in the memorized paragraphs."""
    model, rows = setting.model, setting.held.sets.get(MP)
    if model is None or model.cfg.d_vocab != SHAPE[3] or rows is None:
        return []
    found = (rows.prefix == EMAIL).nonzero().tolist()
    return [(row, place) for row, place in found if place in _NEAR][: setting.rows]


def _email(setting: Setting, places: list[tuple[int, int]]) -> Mapping:
    rows = setting.held.sets[MP].select([row for row, _ in places])
    effect = perturb_exact_match(setting.loaded, rows, seed=setting.seed, n_draws=_DRAWS)
    drop = effect["em_drop"].transpose("paragraph", "draw", "pos").values
    return {
        "drop": [drop[number, :, place].tolist() for number, (_, place) in enumerate(places)],
        "rows": [row for row, _ in places],
        "places": [place for _, place in places],
    }


def _parts(setting: Setting, keys: frozenset[str]) -> list[Part]:
    found = [
        Part(f"perturbed-{of}", partial(drops, setting, rows), 3.4 * len(rows))
        for key, of in SETS.items()
        if key in keys
        for rows in [setting.drawn(of, setting.rows)]
    ]
    if "5" in keys and (places := email_rows(setting)):
        found.append(Part("perturbed-email", partial(_email, setting, places), 3.0 * _DRAWS * len(places)))
    return found


def _rows(setting: Setting, found: Found) -> dict[str, Measured]:
    rows = {}
    for key, of in SETS.items():
        if (name := f"perturbed-{of}") in found:
            drop, label = np.array(found[name]["drop"], float), np.array(found[name]["clusters"])
            mean, low, high = bootstrap_mean(drop[:, 1:].mean(1), clusters=label, seed=setting.seed)
            rows[key] = Measured(
                (float(mean),), float(low), float(high), {"position 0 too": float(drop.mean())},
                f"{len(drop)} rows, {label.max() + 1} clusters", len(drop),
            )  # fmt: skip
    if "perturbed-email" in found:
        drop = np.array(found["perturbed-email"]["drop"], float)
        rows["5"] = Measured(
            (float(np.median(drop)),), beside={"least": float(drop.min()), "most": float(drop.max())},
            note=f"median of {drop.size} replacements in {len(drop)} paragraphs, {drop.min():.0f} to {drop.max():.0f}",
        )  # fmt: skip
    return rows


PERTURBED = Quantity((*SETS, "5"), _parts, _rows)
