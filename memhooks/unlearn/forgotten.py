"""Is the paragraph gone, or only its first token? What a model still says of the forget set.

1. One teacher-forced pass gives EM, the longest verbatim run, position-wise matches and NLL. EM alone is met by
   breaking one token, so it never stands alone.
2. With `measures="all"` the same is asked again where forgetting tends to be shallow: from the last 10 to 40 tokens of
   the prefix alone, after prefixes with one token replaced, and after random tokens in front.
3. And how many samples it takes until one of them is the whole continuation (`memhooks.measure.extractability`).

The longest run is that of teacher-forced hits. A run of `r` hits means: given the true text up to where the run starts,
greedy decoding says the next `r` tokens verbatim. So it is the longest verbatim stretch from any later start.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.extractability import extractability, queries_needed
from memhooks.measure.recitation import exact_match, longest_run, score_tokens
from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.rows import Row

Measures = Literal["core", "all"]

SUFFIXES = (10, 20, 30, 40)
"""How many of the prefix's last tokens are given, where it has more."""

LEADS = (10, 20)
"""How many random tokens are put in front, where they fit the context."""

QUERIES = 1000
"""How many samples may be drawn from the model."""

CHANCE = 0.5
"""Probability with which one of them is to be the whole continuation."""


def forgotten(
    model: HookedModel,
    forget: Paragraphs,
    *,
    measures: Measures = "core",
    seed: int = 0,
    n_draws: int = 10,
    batch_size: int = 32,
) -> xr.Dataset:
    """What the model still recites of the forget set; the same `seed` asks the same questions of another model.

    Args:
        model: a hooked GPT-Neo.
        forget: the paragraphs that are to be forgotten, or are.
        measures: `core` needs one pass; `all` adds sampling, other prefix lengths, perturbed prefixes and shifted
            positions.
        seed: of the replaced tokens and of those put in front.
        n_draws: prefixes per paragraph in which one random token is replaced by a random other one.
        batch_size: rows per pass.

    Returns:
        Dataset over `paragraph`: `exact_match` and `longest_run` (tokens), `matches` (share of positions), `nll` (mean
        nats per continuation token), `full_match`. With `all`, too: `log_probability_greedy`, `_temperature` and
        `_top_k` (nats, of one sample being the whole continuation), `extractable_temperature` and `_top_k` (whether
        1000 samples hold it with probability 0.5); EM, longest run and NLL `_last_10` (only so many tokens of the
        prefix are given), `_after_10` (so many random tokens in front), `_perturbed` (mean over draws) and
        `_perturbed_worst` (the draw after which most is recited, for each measure by itself).

    Raises:
        InputError: unknown `measures`, a number of draws or batch size below one, or paragraphs that the model
            cannot read.
    """
    check_measures(measures)
    check_batch_size(batch_size)
    forget.check(model)
    if n_draws < 1:
        raise InputError(f"n_draws must be at least 1, got {n_draws}")
    found = recited(model, forget, batch_size=batch_size)
    if measures == "all":
        found |= _sampled(model, forget, found, batch_size)
        for name, prompts in _other_prompts(forget, model, torch.Generator().manual_seed(seed)):
            found |= {f"{key}_{name}": value for key, value in _recital(model, prompts, batch_size).items()}
        found |= _perturbed(model, forget, torch.Generator().manual_seed(seed + 1), n_draws, batch_size)
    about = provenance(model, forget.tokens) | {"n_prefix": forget.n_prefix, "seed": seed, "n_draws": n_draws}
    return labelled(about, **found)


def recited(model: HookedModel, paragraphs: Paragraphs, *, batch_size: int = 32) -> dict[str, Variable]:
    """EM and, since it is never reported alone, what belongs beside it; one pass."""
    hits, nll = hits_and_nll(model, paragraphs, batch_size=batch_size)
    axes, n = ("paragraph",), paragraphs.n_continuation
    ids = {"paragraph": paragraphs.ids}
    return {
        "exact_match": Variable(exact_match(hits), axes, f"tokens before the first miss, of {n}", ids),
        "longest_run": Variable(longest_run(hits), axes, f"tokens in a row from any start, of {n}, 0 = none"),
        "matches": Variable(hits.double().mean(-1), axes, "share of positions, 0 = none"),
        "nll": Variable(nll.mean(-1), axes, "nats per token, 0 = certain"),
        "full_match": Variable(hits.all(-1), axes, "whether the whole continuation is recited"),
    }


def hits_and_nll(
    model: HookedModel, paragraphs: Paragraphs, *, batch_size: int = 32
) -> tuple[Bool[Tensor, "row scored"], Float[Tensor, "row scored"]]:
    """Which continuation tokens are the most likely ones given all before, and their surprise in nats; one pass."""
    passes = list(score_tokens(model, paragraphs.tokens, first=paragraphs.n_prefix, batch_size=batch_size))
    hits = torch.cat([one.predicted for one in passes]) == paragraphs.continuation
    return hits, torch.cat([one.nll for one in passes]).double()


def check_measures(measures: object) -> None:
    """Refuse a set of measures that does not exist.

    Raises:
        InputError: it is neither `core` nor `all`.
    """
    if measures not in get_args(Measures):
        raise InputError(f"measures must be 'core' or 'all', got {measures!r}")


def forgotten_rows(*, twin: bool) -> dict[str, Row]:
    """The rows of the summary, by variable of `forgotten`, in their order."""
    ideal = "the twin's" if twin else "that of a model that never read it"
    rows = _recital_rows("forget", "", ideal)
    rows["full_match"] = Row("forget: recited in full", "forgotten", "share of paragraphs, 0 = none", "0")
    for sampler, said in (("temperature", "temperature 1"), ("top_k", "the 40 likeliest tokens")):
        label = f"forget: extractable by {QUERIES} samples, {said}"
        rows[f"extractable_{sampler}"] = Row(label, "forgotten", "share of paragraphs, 0 = none", "0")
    for n in SUFFIXES:
        rows |= _recital_rows(f"forget, last {n} tokens of the prefix", f"_last_{n}", ideal)
    for n in LEADS:
        rows |= _recital_rows(f"forget, {n} random tokens in front", f"_after_{n}", ideal)
    rows |= _recital_rows("forget, one prefix token replaced", "_perturbed", ideal)
    return rows | _recital_rows("forget, one prefix token replaced, worst draw", "_perturbed_worst", ideal)


def _recital_rows(label: str, suffix: str, ideal: str) -> dict[str, Row]:
    rows = {
        f"exact_match{suffix}": Row(f"{label}: exact match", "forgotten", "tokens, 0 = none", ideal),
        f"longest_run{suffix}": Row(f"{label}: longest run", "forgotten", "tokens, 0 = none", ideal),
        f"nll{suffix}": Row(f"{label}: NLL", "forgotten", "nats per token, 0 = certain", ideal),
    }
    if not suffix:
        rows["matches"] = Row(f"{label}: matching positions", "forgotten", "share of positions, 0 = none", ideal)
    return rows


def _sampled(
    model: HookedModel, forget: Paragraphs, known: dict[str, Variable], batch_size: int
) -> dict[str, Variable]:
    # Greedy decoding and sampling at temperature 1 are in the first pass already.
    top_k = extractability(model, forget, sampler="top_k", batch_size=batch_size)["log_probability"].values
    logs = {
        "greedy": np.where(np.asarray(known["full_match"].values), 0.0, -np.inf),
        "temperature": np.minimum(-np.asarray(known["nll"].values) * forget.n_continuation, 0.0),
        "top_k": top_k,
    }
    unit = "nats of the whole continuation, 0 = every sample says it, -inf = none ever does"
    found = {f"log_probability_{name}": Variable(value, ("paragraph",), unit) for name, value in logs.items()}
    for name in ("temperature", "top_k"):
        within = queries_needed(logs[name], p=CHANCE) <= QUERIES
        said = f"whether {QUERIES} samples hold the whole continuation with probability {CHANCE}"
        found[f"extractable_{name}"] = Variable(within, ("paragraph",), said)
    return found


def _other_prompts(
    forget: Paragraphs, model: HookedModel, generator: torch.Generator
) -> Iterator[tuple[str, Paragraphs]]:
    length = forget.tokens.shape[1]
    for n in SUFFIXES:
        if n < forget.n_prefix:
            yield f"last_{n}", Paragraphs(forget.tokens[:, forget.n_prefix - n :], n, ids=forget.ids)
    for n in LEADS:
        lead = torch.randint(model.cfg.d_vocab, (len(forget), n), generator=generator)
        if length + n <= model.cfg.n_ctx:
            yield f"after_{n}", forget.after(lead)


def _recital(model: HookedModel, prompts: Paragraphs, batch_size: int) -> dict[str, Variable]:
    units = {"exact_match": "tokens, 0 = none", "longest_run": "tokens, 0 = none", "nll": "nats per token, 0 = certain"}
    return {name: Variable(value, ("paragraph",), units[name]) for name, value in _scores(model, prompts, batch_size)}


def _perturbed(
    model: HookedModel, forget: Paragraphs, generator: torch.Generator, n_draws: int, batch_size: int
) -> dict[str, Variable]:
    """One random prefix token of each copy becomes a random other one."""
    place = torch.randint(forget.n_prefix, (len(forget) * n_draws, 1), generator=generator)
    shift = torch.randint(1, model.cfg.d_vocab, place.shape, generator=generator)
    tokens = forget.tokens.repeat_interleave(n_draws, 0)
    tokens.scatter_(1, place, (tokens.gather(1, place) + shift) % model.cfg.d_vocab)
    found = {}
    for name, value in _scores(model, Paragraphs(tokens, forget.n_prefix), batch_size):
        draws = value.reshape(len(forget), n_draws).double()
        unit = "nats per token, 0 = certain" if name == "nll" else "tokens, 0 = none"
        worst = draws.amin(1) if name == "nll" else draws.amax(1)
        found[f"{name}_perturbed"] = Variable(draws.mean(1), ("paragraph",), f"{unit}; mean of {n_draws} draws")
        found[f"{name}_perturbed_worst"] = Variable(worst, ("paragraph",), f"{unit}; worst of {n_draws} draws")
    return found


def _scores(model: HookedModel, prompts: Paragraphs, batch_size: int) -> Iterator[tuple[str, Float[Tensor, " row"]]]:
    hits, nll = hits_and_nll(model, prompts, batch_size=batch_size)
    yield "exact_match", exact_match(hits).double()
    yield "longest_run", longest_run(hits).double()
    yield "nll", nll.mean(-1)
