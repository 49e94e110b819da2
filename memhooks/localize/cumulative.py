"""How many parts must go until recitation does? Heads are ablated together, the most important first.

Beside it the same number of heads in random order: if these do as much, the order means nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.each_part import every_head
from memhooks.measure.recitation import recitation
from memhooks.model.ablated import ablated
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.means import ActivationMeans
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

How = Literal["zero", "mean"]


def ablate_cumulatively(
    model: HookedModel,
    sets: Mapping[str, Paragraphs],
    heads: Sequence[tuple[int, int]],
    *,
    how: How = "zero",
    means: ActivationMeans | None = None,
    seed: int = 0,
    n_random: int = 3,
) -> xr.Dataset:
    """Recitation without the first head, the first two, and so on.

    Args:
        model: a hooked GPT-Neo.
        sets: paragraphs to measure, such as memorized and control.
        heads: in the order of their ablation, best first; choose them on other paragraphs than `sets`.
        how: as in `ablated`.
        means: of `activation_means`, for `how="mean"`.
        seed: of the random orders.
        n_random: orders of as many random heads, none of which is in the list.

    Returns:
        Dataset over `row` (heads ablated, from 0): for every set `<set>_em` and `<set>_nll` (means), and
        `<set>_em_random`, `<set>_nll_random` (means over the random orders, NaN without them).

    Raises:
        InputError: no sets, no heads, one twice, or too few others to draw from.
    """
    if how not in ("zero", "mean"):
        raise InputError(f"how must be zero or mean here, got {how!r}")
    if n_random < 0:
        raise InputError(f"n_random must be at least 0, got {n_random}")
    others = sorted(set(every_head(model)) - set(heads))
    if not sets or not heads or len(set(heads)) < len(heads):
        raise InputError("give paragraphs to measure and heads to ablate, each head once")
    if n_random and len(others) < len(heads):
        raise InputError(f"there are only {len(others)} other heads to draw {len(heads)} from; pass n_random=0")
    generator = torch.Generator().manual_seed(seed)
    drawn = [[others[i] for i in torch.randperm(len(others), generator=generator)] for _ in range(n_random)]
    orders = [list(heads), *[one[: len(heads)] for one in drawn]]
    columns: dict[str, Variable] = {}
    labels = {"row": range(len(heads) + 1)}
    for name, rows in sets.items():
        measured = np.array(
            [_measured(model, rows, order, how, means) for order in tracked(orders, f"ablating {name}")]
        )
        random = measured[1:].mean(0) if n_random else np.full_like(measured[0], np.nan)
        for column, unit in enumerate(("tokens before the first miss, mean", "nats per continuation token")):
            short = ("em", "nll")[column]
            columns[f"{name}_{short}"] = Variable(measured[0][:, column], ("row",), unit, labels)
            columns[f"{name}_{short}_random"] = Variable(random[:, column], ("row",), f"{unit}; random heads")
    about = {"model_hash": model_hash(model), "how": how, "heads": [list(one) for one in heads], "seed": seed}
    return labelled(about | {"n_random": n_random}, **columns)


def _measured(
    model: HookedModel, rows: Paragraphs, order: Sequence[tuple[int, int]], how: How, means: ActivationMeans | None
) -> list[tuple[float, float]]:
    """Mean EM and NLL with none, one, two ... heads of the order ablated."""
    found = [_mean(recitation(model, rows))]
    for number in range(1, len(order) + 1):
        with ablated(model, how=how, means=means, heads=order[:number]):
            found.append(_mean(recitation(model, rows)))
    return found


def _mean(result: xr.Dataset) -> tuple[float, float]:
    return float(result["exact_match"].mean()), float(result["nll"].mean())
