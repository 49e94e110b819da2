"""How many bits of a paragraph does a model hold? The drop of its code length against the twin that never read it.

1. A model is a code: a text costs the sum of -log2 p over its tokens, each predicted from those before it.
2. The twin's code length is what the text costs one who knows the language and not the text.
3. What the model saves against that is memorized: bits of this text that are in its weights (the unintended
   memorization of Morris et al., 2025, arXiv:2505.24832, with a twin in place of their reference model).
4. A paragraph that neither read must come out at 0, and one that the twin alone read at as much below 0.

Sums are of raw values. A paragraph that the twin happens to code better counts below 0; setting it to 0 would give
bits to text that nobody read.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean, bootstrap_ratio
from memhooks.measure.membership import membership_p
from memhooks.measure.recitation import recitation
from memhooks.model.components import component_parameters
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters

Scored = Literal["all", "continuation"]
_NOT_IN_GPT_NEO = ("attn.b_Q", "attn.b_K", "attn.b_V", "unembed.b_U")  # zeros that TransformerLens adds


def memorized_bits(
    model: HookedModel,
    twin: HookedModel,
    paragraphs: Paragraphs,
    *,
    tokens: Scored = "all",
    batch_size: int = 32,
) -> xr.Dataset:
    """Bits of each paragraph that the model saves against the twin.

    Args:
        model: a hooked GPT-Neo.
        twin: a model like it that never read the paragraphs.
        paragraphs: those that the model may hold, or a control.
        tokens: `all` but the first, which nothing predicts; or the `continuation` alone, given the prefix.
        batch_size: rows per pass.

    Returns:
        Dataset over `paragraph`: `bits` (0 = the model holds no more of it than the twin, negative = less),
        `model_bits` and `twin_bits` (code lengths), `share` (of the twin's code length that is gone, 1 = the model
        needs no bits at all); `count`, where the paragraphs have counts.
        Attributes: `n_scored` tokens per paragraph, and the model's `n_parameters` and `n_matrix_parameters`.

    Raises:
        InputError: `tokens` is something else, the twin has another vocabulary, a batch size below one, or
            paragraphs that a model cannot read.
    """
    if tokens not in get_args(Scored):
        raise InputError(f"tokens must be 'all' or 'continuation', got {tokens!r}")
    if twin.cfg.d_vocab != model.cfg.d_vocab:
        raise InputError(
            f"code lengths compare over one vocabulary; the twin has {twin.cfg.d_vocab} tokens, the model "
            f"{model.cfg.d_vocab}"
        )
    own, other = (code_length(one, paragraphs, tokens=tokens, batch_size=batch_size) for one in (model, twin))
    first = 1 if tokens == "all" else paragraphs.n_prefix
    about = provenance(model, paragraphs.tokens) | {"twin_hash": model_hash(twin), "tokens": tokens}
    about |= {"n_scored": paragraphs.tokens.shape[1] - first}
    about |= dict(zip(("n_parameters", "n_matrix_parameters"), n_parameters(model), strict=True))
    label = {"paragraph": paragraphs.ids}
    found = {
        "bits": Variable(other - own, ("paragraph",), "bits held beyond the twin, 0 = no more than it", label),
        "model_bits": Variable(own, ("paragraph",), "bits, code length under the model, 0 = certain"),
        "twin_bits": Variable(other, ("paragraph",), "bits, code length under the twin, 0 = certain"),
        "share": Variable((other - own) / other, ("paragraph",), "share of the twin's code length, 0 = none gone"),
    }
    if paragraphs.counts is not None:
        found["count"] = Variable(np.array(paragraphs.counts), ("paragraph",), "times planted, 0 = never")
    return labelled(about, **found)


def code_length(
    model: HookedModel, paragraphs: Paragraphs, *, tokens: Scored = "all", batch_size: int = 32
) -> Float[np.ndarray, " paragraph"]:
    """Bits that each paragraph costs under the model: the sum of -log2 p over its scored tokens."""
    scored = "all" if tokens == "all" else "continuation"
    nll = recitation(model, paragraphs, scored=scored, batch_size=batch_size)["nll"].values
    return np.asarray(nll.astype(np.float64).sum(1) / np.log(2))


def n_parameters(model: HookedModel) -> tuple[int, int]:
    """Weights of the model as Hugging Face counts them (tied embeddings once), and of its blocks' matrices alone."""
    tied = torch.equal(model.W_E, model.W_U.T)
    left_out = (*_NOT_IN_GPT_NEO, "unembed.W_U") if tied else _NOT_IN_GPT_NEO
    every = sum(one.numel() for name, one in model.named_parameters() if not name.endswith(left_out))
    return every, sum(one.numel() for one in component_parameters(model).values())


def capacity_table(
    results: Mapping[str, xr.Dataset],
    *,
    sets: Mapping[str, Paragraphs],
    seed: int,
    memorized: str = "memorized",
    control: str | None = "control",
) -> xr.Dataset:
    """One row per set, and one per level of repetition of the memorized set.

    Args:
        results: of `memorized_bits` by set.
        sets: the paragraphs of each result; near-duplicates among them count once in intervals.
        seed: of the intervals.
        memorized: which of the sets is broken up by how often its paragraphs were planted, if it says so.
        control: a set that neither model read: what it has is subtracted in `above_control`. None if there is none.

    Returns:
        Dataset over `row` (the set, or `<memorized> k=8`): `level` (k; 0 for a whole set), `n`; with `_low` and
        `_high`, the ends of 95 % intervals: `bits` per paragraph, `bits_per_token`, `share` (of the twin's code
        length of the set), `above_control` (bits per paragraph; NaN for the control itself), `growth` (bits per
        paragraph for every doubling of k since the level before; NaN without one), `total` (bits of all its
        paragraphs), `per_parameter` and `per_matrix_parameter` (total bits over the model's weights), `clipped`
        (mean with values below 0 set to 0: biased, to be seen beside `bits`); `ceiling` (the twin's code length,
        bits per paragraph); `p_control` (two-sided, against the control, sets' names dealt anew; those of levels are
        times the number of levels).

    Raises:
        InputError: no results, sets that are not theirs, or no such memorized set or control.
    """
    _check(results, sets, memorized, control)
    rows = {name: (one, sets[name], 0) for name, one in results.items()}
    whole, own = results[memorized], sets[memorized]
    for k in levels(whole):
        at = np.nonzero(whole["count"].values == k)[0]
        rows[f"{memorized} k={k}"] = (whole.isel(paragraph=at), own.select(at), k)
    base = None if control is None else (results[control], sets[control])
    cells, before = [], None
    for name, (one, some, k) in rows.items():
        cells.append(_cell(one, some, seed=seed, base=None if name == control else base))
        cells[-1]["growth"] = _growth((one, some, k), before, seed=seed)
        before = (one, some, k) if k else None
        if k:
            p = cells[-1]["p_control"][0] * len(levels(whole))
            cells[-1]["p_control"] = (min(p, 1.0), np.nan, np.nan)
    return labelled(_about(whole, seed), **_columns(rows, cells))


def levels(result: xr.Dataset) -> list[int]:
    """How often paragraphs of the set were planted, each number once; none where it does not say or all are alike."""
    found = sorted(set(result["count"].values.tolist())) if "count" in result else []
    return found if len(found) > 1 else []


_Ends = tuple[float, float, float]
_NONE = (np.nan, np.nan, np.nan)
_UNITS = {
    "bits": "bits per paragraph, 0 = no more than the twin",
    "bits_per_token": "bits per scored token, 0 = no more than the twin",
    "share": "share of the twin's code length that is gone, 0 = none",
    "above_control": "bits per paragraph beyond the control's, 0 = as text that nobody read",
    "growth": "bits per paragraph for every doubling of k from the level before, 0 = none",
    "total": "bits of the whole row, 0 = no more than the twin",
    "per_parameter": "bits per weight of the model, 0 = no more than the twin",
    "per_matrix_parameter": "bits per weight of the blocks' matrices, 0 = no more than the twin",
    "clipped": "bits per paragraph with negative ones set to 0 (biased upwards)",
}


def _cell(
    one: xr.Dataset, some: Paragraphs, *, seed: int, base: tuple[xr.Dataset, Paragraphs] | None
) -> dict[str, _Ends]:
    label, bits = clusters(some).numpy(), one["bits"].values
    mean = _floats(bootstrap_mean(bits, seed=seed, clusters=label))
    above, p = _NONE, np.nan
    if base is not None:
        pair, both = (bits, base[0]["bits"].values), (label, clusters(base[1]).numpy())
        above = _floats(bootstrap_difference(*pair, seed=seed, clusters=both))
        p = float(membership_p(pair[0][:, None], pair[1][:, None], clusters=both, seed=seed)[0])
    n = len(bits)
    return {
        "bits": mean,
        "bits_per_token": _times(mean, 1 / one.attrs["n_scored"]),
        "share": _floats(bootstrap_ratio(bits, one["twin_bits"].values, seed=seed, clusters=label)),
        "above_control": above,
        "total": _times(mean, float(n)),
        "per_parameter": _times(mean, n / one.attrs["n_parameters"]),
        "per_matrix_parameter": _times(mean, n / one.attrs["n_matrix_parameters"]),
        "clipped": _floats(bootstrap_mean(bits.clip(min=0), seed=seed, clusters=label)),
        "ceiling": (float(one["twin_bits"].mean()), np.nan, np.nan),
        "p_control": (p, np.nan, np.nan),
    }


def _growth(
    now: tuple[xr.Dataset, Paragraphs, int], before: tuple[xr.Dataset, Paragraphs, int] | None, *, seed: int
) -> _Ends:
    if before is None or not now[2] or not before[2]:
        return _NONE
    both = clusters(now[1]).numpy(), clusters(before[1]).numpy()
    rise = bootstrap_difference(now[0]["bits"].values, before[0]["bits"].values, seed=seed, clusters=both)
    return _times(_floats(rise), 1 / np.log2(now[2] / before[2]))


def _columns(rows: Mapping[str, tuple], cells: Sequence[Mapping[str, _Ends]]) -> dict[str, Variable]:
    columns = {
        "level": Variable(np.array([k for _, _, k in rows.values()]), ("row",), "k, 0 = a set", {"row": list(rows)}),
        "n": Variable(np.array([one.sizes["paragraph"] for one, _, _ in rows.values()]), ("row",), "paragraphs"),
    }
    for name, unit in _UNITS.items():
        mean, low, high = np.array([cell[name] for cell in cells]).T
        columns[name] = Variable(mean, ("row",), unit)
        columns[f"{name}_low"] = Variable(low, ("row",), f"{unit}; lower end of the 95 % interval")
        columns[f"{name}_high"] = Variable(high, ("row",), f"{unit}; upper end")
    for name, unit in (("ceiling", "bits per paragraph, the twin's code length"), ("p_control", "against the control")):
        columns[name] = Variable(np.array([cell[name][0] for cell in cells]), ("row",), unit)
    return columns


def _about(whole: xr.Dataset, seed: int) -> dict[str, object]:
    kept = ("model_hash", "twin_hash", "tokens", "n_scored", "n_parameters", "n_matrix_parameters")
    found: dict[str, object] = {key: whole.attrs[key] for key in kept}
    return found | {"seed": seed}


def _floats(ends: tuple[np.ndarray, np.ndarray, np.ndarray]) -> _Ends:
    mean, low, high = (float(one) for one in ends)
    return mean, low, high


def _times(ends: _Ends, factor: float) -> _Ends:
    return ends[0] * factor, ends[1] * factor, ends[2] * factor


def _check(
    results: Mapping[str, xr.Dataset], sets: Mapping[str, Paragraphs], memorized: str, control: str | None
) -> None:
    for name in (memorized, control):
        if name is not None and name not in results:
            raise InputError(f"no result for {name!r}; results are of {', '.join(results) or 'nothing'}")
    for name, one in results.items():
        if name not in sets or sets[name].ids != tuple(map(str, one["paragraph"].values)):
            raise InputError(f"sets must hold the {one.sizes['paragraph']} paragraphs of {name!r}, in their order")
