"""What does recitation lose without some part of the model, and does it lose more than other text?

1. Every set of paragraphs is measured intact and with the parts ablated, pair by pair.
2. The null: as many other parts of the same kind, drawn at random a few times, ablated the same way.
3. A part matters for recitation if its effect on memorized text exceeds both that of
   random parts and its own effect on text that was never memorized.
"""

from collections.abc import Mapping
from typing import Unpack, cast

import numpy as np
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.recitation import recitation
from memhooks.model.ablated import How, ablated
from memhooks.model.checks import Rows, tokens_of
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.means import ActivationMeans
from memhooks.model.parts import Parts, checked, random_parts
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.progress import tracked


def ablation_table(
    model: HookedModel,
    sets: Mapping[str, Paragraphs],
    *,
    how: How = "zero",
    means: ActivationMeans | None = None,
    source: Rows | None = None,
    seed: int = 0,
    n_random: int = 3,
    **parts: Unpack[Parts],
) -> xr.Dataset:
    """Recitation with and without some parts of the model, one row per set of paragraphs.

    Args:
        model: a hooked GPT-Neo.
        sets: paragraphs by name, such as memorized and never-seen ones.
        how: as in `ablated`; so are `means` and `source`.
        means: for `how="mean"`.
        source: for `how="resample"`.
        seed: of the ablation, the random parts and the intervals.
        n_random: draws of as many random other parts; 0 leaves the null away.
        **parts: `heads`, `neurons`, `edges`, `mlp_layers`, `attention_layers`.

    Returns:
        Dataset over `row` (the set's name): `n_paragraphs`, `em` and `em_without` (tokens), `nll` and
        `nll_without` (nats per token), `nll_rise` with the ends `low` and `high` of its 95 %
        interval over paragraphs (clusters of near-duplicates count once), and
        `nll_rise_random`, the mean over the random parts (NaN without them).

    Raises:
        InputError: no sets, or as `ablated`.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> sets = {"memorized": memhooks.load_planted("A", at_least=128), "never seen": memhooks.load_controls()}
        >>> few = {name: rows.select(slice(0, 2)) for name, rows in sets.items()}
        >>> table = memhooks.ablation_table(model, few, heads=[(0, 5)], n_random=1, seed=0)
        >>> table[["nll", "nll_without", "nll_rise_random"]].to_dataframe().round(1)
                    nll  nll_without  nll_rise_random
        row
        memorized   0.0          1.8              0.0
        never seen  3.7          4.5              0.0
    """
    if not sets:
        raise InputError('no paragraphs to measure; pass sets={"memorized": ..., "control": ...}')
    if n_random < 0:
        raise InputError(f"n_random must be at least 0, got {n_random}")
    given = cast(Parts, checked(model, cast(Parts, parts)))
    for name, paragraphs in sets.items():
        paragraphs.check(model)
        _check_apart(name, paragraphs, source)
    generator = torch.Generator().manual_seed(seed)
    nulls = [random_parts(model, given, generator=generator) for _ in range(n_random)]
    rows = []
    for paragraphs in sets.values():
        base = recitation(model, paragraphs)
        without = []
        for chosen in tracked([given, *nulls], "ablating"):
            with ablated(model, how=how, means=means, source=source, seed=seed, **chosen):
                without.append(recitation(model, paragraphs))
        rows.append(_row(paragraphs, base, without, seed))
    about = {
        "model_hash": model_hash(model),
        "tokens_hash": {name: tensor_hash(paragraphs.tokens) for name, paragraphs in sets.items()},
        "how": how,
        "means_hash": "" if means is None else means.tokens_hash,
        "source_hash": "" if source is None else tensor_hash(tokens_of(source)),
        "parts": given,
        "seed": seed,
        "n_random": n_random,
    }
    nats, tokens, axis = "nats per continuation token", "tokens before the first miss, mean", ("row",)
    units = {
        "em": tokens,
        "em_without": f"{tokens}, parts ablated",
        "nll": nats,
        "nll_without": f"{nats}, parts ablated",
        "nll_rise": f"{nats}, ablated minus intact; 0 = no effect",
        "low": "lower end of its 95 % interval",
        "high": "upper end of its 95 % interval",
        "nll_rise_random": f"{nats}, mean over {n_random} draws of random parts; 0 = no effect",
        "n_paragraphs": "paragraphs",
    }
    columns = {
        name: Variable(np.array([row[name] for row in rows]), axis, unit, {"row": list(sets)})
        for name, unit in units.items()
    }
    return labelled(about, **columns)


def _check_apart(name: str, paragraphs: Paragraphs, source: Rows | None) -> None:
    """Refuse to replace what a part does on a text by what it does on the same text: that set would seem immune.

    Raises:
        InputError: a paragraph is among the source's rows.
    """
    if source is None:
        return
    known = set(map(tuple, tokens_of(source).tolist()))
    shared = sum(tuple(row) in known for row in paragraphs.tokens.tolist())
    if shared:
        raise InputError(f"{shared} of {len(paragraphs)} {name!r} paragraphs are in source; resample from other texts")


def _row(paragraphs: Paragraphs, base: xr.Dataset, without: list[xr.Dataset], seed: int) -> dict[str, float | int]:
    before = base["nll"].mean("pos").values
    rises = [one["nll"].mean("pos").values - before for one in without]
    mean, low, high = bootstrap_mean(rises[0], seed=seed, clusters=clusters(paragraphs).numpy())
    return {
        "n_paragraphs": len(paragraphs),
        "em": float(base["exact_match"].mean()),
        "em_without": float(without[0]["exact_match"].mean()),
        "nll": float(before.mean()),
        "nll_without": float(without[0]["nll"].mean()),
        "nll_rise": float(mean),
        "low": float(low),
        "high": float(high),
        "nll_rise_random": float(np.mean(rises[1:])) if rises[1:] else float("nan"),
    }
