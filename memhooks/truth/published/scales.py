"""Rows 17, 19 and 20, whose numbers are read off colour bars: activation gradients and patching of pairs.

- 17: the largest |gradient| on a value of layer 1, of the NLL of the first continuation token, over heads and the
  first 49 tokens; the published picture is of one paragraph, here the median over the first memorized ones.
- 19: run the memorized paragraph, insert q, k or v of its perturbed twin at the perturbed token; 20: the reverse.
  Change of the NLL of the run's own first differing token, mean over pairs; the largest of all layers and heads.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from memhooks.localize.activation_gradients import activation_gradients
from memhooks.localize.objectives import SpanNLL
from memhooks.localize.patch_pairs import patch_pairs
from memhooks.localize.patching import Direction
from memhooks.measure.pairs import Pairs
from memhooks.truth.published.parts import Found, Measured, Part, Quantity
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.targets import MP

_LAYER = 1
_DIRECTIONS: dict[str, tuple[Direction, str]] = {
    "19": ("noising", "impact_nll_change"),
    "20": ("denoising", "new_nll_change"),
}
_SITES = ("q", "k", "v")


def value_gradients(setting: Setting) -> Mapping:
    """The largest gradient on the values of layer 1, for each paragraph."""
    rows = setting.rows_of(MP)
    first = rows.n_prefix
    found = activation_gradients(
        setting.loaded, rows, sites=("v",), objective=SpanNLL(first, first + 1), at=list(range(first - 1))
    )
    largest = found["max_gradient"].sel(layer=_LAYER, site="v")
    return {"largest": largest.max(("head", "pos")).values.astype(float).tolist()}


def patched(setting: Setting, direction: Direction, variable: str) -> Mapping:
    """The mean change of every layer and head, and the largest of them."""
    pairs = usable(setting)
    change = patch_pairs(setting.loaded, pairs, sites=_SITES, direction=direction)[variable].mean("paragraph")
    change = change.transpose("site", "layer", "head")
    values = np.abs(change.values.astype(float))
    site, layer, head = np.unravel_index(int(values.argmax()), values.shape)
    return {
        "largest": float(values.max()),
        "above layer 0": float(values[:, 1:].max(initial=0.0)),
        "cell": f"{_SITES[site]} L{layer}H{head}",
        "n": len(pairs),
    }


def usable(setting: Setting) -> Pairs:
    """The first pairs with an impact token, cut after the last impact token: nothing behind it is read."""
    pairs = setting.held.pairs
    assert pairs is not None  # parts without their files are never made
    pairs = pairs.select(pairs.changed.nonzero().flatten()[: setting.rows])
    length = int(pairs.impact.max()) + 1
    clean, perturbed = (
        replace(one, tokens=one.tokens[:, :length], text=None) for one in (pairs.clean, pairs.perturbed)
    )
    return Pairs(clean, perturbed, pairs.position, pairs.impact)


def _parts(setting: Setting, keys: frozenset[str]) -> list[Part]:
    found = []
    if "17" in keys and setting.loaded.cfg.n_layers > _LAYER:
        found.append(Part("value-gradients", partial(value_gradients, setting), 0.6 * setting.rows))
    pairs = setting.held.pairs
    if pairs is not None and pairs.changed.any():
        found += [
            Part(
                f"patched-{direction}",
                partial(patched, setting, direction, variable),
                12.0 * min(setting.rows, len(pairs)),
            )
            for key, (direction, variable) in _DIRECTIONS.items()
            if key in keys
        ]
    return found


def _rows(setting: Setting, found: Found) -> dict[str, Measured]:
    rows = {}
    if "value-gradients" in found:
        largest = np.array(found["value-gradients"]["largest"])
        rows["17"] = Measured(
            (float(np.median(largest)),), beside={"largest of all": float(largest.max())},
            note=f"median over {len(largest)} paragraphs", n=len(largest),
        )  # fmt: skip
    for key, (direction, _) in _DIRECTIONS.items():
        if (one := found.get(f"patched-{direction}")) is not None:
            rows[key] = Measured(
                (one["largest"],), beside={"above layer 0": one["above layer 0"]},
                note=f"{one['cell']}, mean over {one['n']} pairs", n=one["n"],
            )  # fmt: skip
    return rows


SCALES = Quantity(("17", *_DIRECTIONS), _parts, _rows)
