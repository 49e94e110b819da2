"""How much of each paragraph does the model recite?

1. One teacher-forced pass over the paragraphs gives the final residual stream.
2. Norm and unembedding are applied to the scored positions alone, on the device.
3. From them: the most likely token, the surprise at the true one, the gap to the runner-up.
4. Exact match (EM) is the number of leading hits. Until the first miss greedy decoding
   sees the very tokens of the paragraph, so no decoding is needed (EM of Stoehr et al.,
   2024, arXiv:2403.19851).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.model.checks import check_batch_size
from memhooks.model.decoding import greedy_continuation, scored_logits
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

NEAR_TIE = 1e-4
"""Gap in log-probability, in nats, below which rounding might decide which of two tokens is decoded."""


@dataclass(frozen=True)
class Scores:
    """What one teacher-forced pass says about each scored token; column 0 scores the first of them."""

    nll: Float[Tensor, "paragraph scored"]
    predicted: Int[Tensor, "paragraph scored"]
    gap: Float[Tensor, "paragraph scored"]


def recitation(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    reference: Literal["text", "model"] = "text",
    scored: Literal["continuation", "all"] = "continuation",
    batch_size: int = 32,
) -> xr.Dataset:
    """Measure verbatim recitation of every paragraph in one pass.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: what it may recite.
        reference: compare with the text's own continuation, or first replace it by the
            model's greedy one. The published paragraph sets do the latter: then every EM of
            the unedited model is full, and signs of later comparisons can flip.
        scored: which tokens `nll` covers: the continuation, or all but the first.
        batch_size: rows per pass.

    Returns:
        Dataset over `paragraph` (labelled by id) and `pos` (the scored token's index):
        `exact_match`, `matches`, `longest_run` (tokens), `full_match`, `extraction_strength`
        (share), `nll` (nats), `said` (token ids), `log_probability` (nats), `near_ties` (tokens), `loops`.

    Raises:
        InputError: a batch size below one, or paragraphs that the model cannot read.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> read = memhooks.recitation(model, memhooks.load_planted("A", at_least=128).select(slice(0, 2)))
        >>> never_read = memhooks.recitation(model, memhooks.load_controls().select(slice(0, 2)))
        >>> dict(read.sizes)
        {'paragraph': 2, 'pos': 50}
        >>> read["exact_match"].values
        array([50, 50])
        >>> never_read["exact_match"].values < 5
        array([ True,  True])
    """
    paragraphs.check(model)
    check_batch_size(batch_size)
    if reference == "model":
        paragraphs = with_own_continuation(model, paragraphs, batch_size=batch_size)
    first = 1 if scored == "all" else paragraphs.n_prefix
    passes = list(score_tokens(model, paragraphs.tokens, first=first, batch_size=batch_size))
    nll, said = torch.cat([one.nll for one in passes]), torch.cat([one.predicted for one in passes])
    n = paragraphs.n_continuation
    hits = said[:, -n:] == paragraphs.continuation
    ties = (torch.cat([one.gap for one in passes])[:, -n:] < NEAR_TIE).sum(-1)
    about = provenance(model, paragraphs.tokens) | {
        "reference": reference,
        "n_prefix": paragraphs.n_prefix,
        "n_continuation": n,
    }
    loops = torch.tensor([in_loop(row) for row in paragraphs.continuation])
    tokens = "tokens, 0 = none"
    ids = {"paragraph": paragraphs.ids}
    return labelled(
        about,
        exact_match=Variable(exact_match(hits), ("paragraph",), f"tokens before the first miss, of {n}", ids),
        matches=Variable(hits.sum(-1), ("paragraph",), f"{tokens}; of {n}"),
        longest_run=Variable(longest_run(hits), ("paragraph",), f"{tokens}; of {n}"),
        full_match=Variable(hits.all(-1), ("paragraph",), "whether the whole continuation is recited"),
        extraction_strength=Variable(extraction_strength(hits), ("paragraph",), "share recited to the end, 0 = none"),
        nll=Variable(nll, ("paragraph", "pos"), "nats, 0 = certain", {"pos": range(first, paragraphs.tokens.shape[1])}),
        said=Variable(
            said, ("paragraph", "pos"), "id of the token that the model puts first, given the true ones before"
        ),
        log_probability=Variable(-nll[:, -n:].sum(-1), ("paragraph",), "nats of the whole continuation, 0 = certain"),
        near_ties=Variable(ties, ("paragraph",), f"tokens whose best two differ by < {NEAR_TIE} nats"),
        loops=Variable(loops, ("paragraph",), "whether the continuation runs into a loop"),
    )


def score_tokens(
    model: HookedModel, tokens: Int[Tensor, "paragraph pos"], *, first: int, batch_size: int = 32
) -> Iterator[Scores]:
    """Score the tokens from index `first` on, batch by batch; only three numbers a token leave the device."""
    for rows in tracked(tokens.split(batch_size), "scoring"):
        yield _score_batch(model, rows.to(model.cfg.device), first)


@torch.no_grad()
def _score_batch(model: HookedModel, rows: Int[Tensor, "batch pos"], first: int) -> Scores:
    residual = model(rows, stop_at_layer=model.cfg.n_layers)[:, first - 1 : -1]
    logits = scored_logits(model, residual)
    if model.cfg.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # a sum over the vocabulary needs more than half precision
    best = logits.topk(2, dim=-1)
    return Scores(
        nll=(logits.logsumexp(-1) - logits.gather(-1, rows[:, first:, None])[..., 0]).cpu(),
        predicted=logits.argmax(-1).cpu(),  # of equal logits the smaller id, unlike topk
        gap=(best.values[..., 0] - best.values[..., 1]).cpu(),
    )


def with_own_continuation(model: HookedModel, paragraphs: Paragraphs, *, batch_size: int = 32) -> Paragraphs:
    """The same prefixes, each followed by what the model itself says next, greedily."""
    n = paragraphs.n_continuation
    batches = tracked(paragraphs.prefix.split(batch_size), "decoding")
    own = torch.cat([greedy_continuation(model, prefix, n_tokens=n).cpu() for prefix in batches])
    return paragraphs.with_continuation(own)


def exact_match(hits: Bool[Tensor, "*set pos"]) -> Int[Tensor, "*set"]:
    """Tokens recited before the first miss; a hit after it does not count."""
    return hits.long().cumprod(dim=-1).sum(dim=-1)


def longest_run(hits: Bool[Tensor, "*set pos"]) -> Int[Tensor, "*set"]:
    """Length of the longest verbatim stretch, wherever it starts."""
    run = torch.zeros(hits.shape[:-1], dtype=torch.long)
    longest = run.clone()
    for hit in hits.unbind(-1):
        run = (run + 1) * hit
        longest = torch.maximum(longest, run)
    return longest


def extraction_strength(hits: Bool[Tensor, "*set pos"]) -> Float[Tensor, "*set"]:
    """Share of the continuation after the last miss, from 0 to 1 (Carlini et al., 2021, as in open-unlearning)."""
    return exact_match(hits.flip(-1)) / hits.shape[-1]


def em_bins(n_continuation: int) -> dict[str, tuple[int, int]]:
    """The paper's four EM bins (0-10, 11-29, 30-49 and 50 of 50), scaled to any continuation length."""
    low, middle = round(n_continuation * 0.2), round(n_continuation * 0.58)
    edges = [(0, low), (low + 1, middle), (middle + 1, n_continuation - 1), (n_continuation, n_continuation)]
    return {f"{a}-{b}" if a != b else str(a): (a, b) for a, b in edges if a <= b}


def in_loop(tokens: Int[Tensor, " pos"], *, longest_period: int = 10) -> bool:
    """Whether the text ends by repeating a phrase of up to `longest_period` tokens three times or more."""
    n = len(tokens)
    return any(
        bool((tokens[n - 2 * period :] == tokens[n - 3 * period : n - period]).all())
        for period in range(1, min(longest_period, n // 3) + 1)
    )
