"""Rows 6 to 8 and the layer sums: the map of the largest |gradient| in every cell, for each EM bin.

1. The first 50 rows of a bin in stored order; the gradient of the mean NLL of their 50 continuation tokens.
2. The largest |gradient| of each of the 12 x 50 cells (4 matrices of 12 heads, W_in and W_out), folded weights.
3. Their sum, by layer and in all, their unbiased variance, and the largest.

Of a substitute for the bin 0-10 four batches are measured; the interval is where a further batch is expected.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
from scipy.stats import t

from memhooks.localize.attribution import weight_gradients, weight_scores
from memhooks.localize.pooling import component_scores
from memhooks.localize.profile import layer_shares, layer_sums
from memhooks.measure.recitation import recitation
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.truth.published.parts import Found, Measured, Part, Quantity
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.targets import BINS, MP, NMP

BATCHES = 4
"""Batches of a substitute."""
_KINDS = {"6.{}": "sum", "6.layers {}": "layers", "7.{}": "variance", "8.{}": "top"}


def gradient_map(setting: Setting, rows: Paragraphs) -> Mapping:
    """The published numbers of one batch, and `top_cell` by name."""
    model = setting.loaded
    scores = component_scores(model, weight_gradients(model, rows, batch_size=4))
    sums, cells = layer_sums(scores), scores["max_gradient"].transpose("layer", "component")
    place = np.unravel_index(int(cells.values.argmax()), cells.shape)
    return {
        "sum": float(sums["grad_sum"]),
        "layers": sums["layer_sum"].values.astype(float).tolist(),
        "variance": float(sums["grad_var"]),
        "top": float(cells.max()),
        "top_cell": f"L{place[0]} {cells['component'].values[place[1]]}",
        "nll": float(recitation(model, rows)["nll"].mean()),
        "n": len(rows),
    }


def own_shares(setting: Setting, rows: Paragraphs) -> Mapping:
    """Share of each layer in each paragraph's own map, for claims about layers with intervals; and the clusters."""
    shares = layer_shares(weight_scores(setting.loaded, rows, batch_size=4)).transpose("paragraph", "layer")
    return {"shares": shares.values.astype(float).tolist(), "clusters": clusters(rows).tolist()}


def part_name(of: str, batch: int = 0) -> str:
    """The part of that bin and batch."""
    return f"gradients-{of}" + (f"-{batch}" if batch else "")


def _parts(setting: Setting, keys: frozenset[str]) -> list[Part]:
    found = []
    for of in BINS:
        if keys.isdisjoint(form.format(of) for form in _KINDS):
            continue
        rows = setting.held.sets[of]
        several = BATCHES if of == NMP and setting.held.substitute else 1
        for batch in range(min(several, max(1, len(rows) // setting.rows))):
            some = rows.select(slice(batch * setting.rows, (batch + 1) * setting.rows))
            found.append(Part(part_name(of, batch), partial(gradient_map, setting, some), 1.4 * len(some)))
    for of in (MP, NMP):
        if f"6.{of}" in keys:
            some = setting.rows_of(of)
            found.append(Part(f"shares-{of}", partial(own_shares, setting, some), 2.0 * len(some)))
    return found


def _rows(setting: Setting, found: Found) -> dict[str, Measured]:
    rows = {}
    for of in BINS:
        batches = [found[name] for name in map(partial(part_name, of), range(BATCHES)) if name in found]
        if not batches:
            continue
        first = batches[0]
        note = f"{first['n']} rows at {first['nll']:.3f} nats; largest cell {first['top_cell']}"
        for form, name in _KINDS.items():
            values = np.array([np.atleast_1d(batch[name]) for batch in batches], dtype=float)
            ends = _next(values[:, 0]) if len(values) > 1 and values.shape[1] == 1 else (None, None)
            rows[form.format(of)] = Measured(tuple(values.mean(0).tolist()), *ends, note=note, n=first["n"])
    return rows


def _next(values: np.ndarray) -> tuple[float, float]:
    """Where 95 % of further batches are expected (a prediction interval of normal data)."""
    n = len(values)
    width = t.ppf(0.975, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n)
    return float(values.mean() - width), float(values.mean() + width)


GRADIENTS = Quantity(tuple(form.format(of) for form in _KINDS for of in BINS), _parts, _rows)
