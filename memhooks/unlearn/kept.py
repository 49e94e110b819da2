"""What else did the model lose? Other memorized paragraphs, text it never read, and its health as a speaker.

1. While the model is as it was, its next-token distributions on the held-out continuations and its own greedy
   continuations of the held-out prefixes are stored: `held_out_reference`.
2. Later, one pass over the held-out text gives KL, top-1 agreement and perplexity, one over the own continuations EM.
3. Other memorized paragraphs are recited in one pass.
4. With `measures="all"` the model speaks: forgetting by noise shows in loops, few different phrases and entropy.

Perplexity is `exp` of the mean surprise in nats over all tokens of the set: batches have no part in it.
"""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.measure.recitation import in_loop, with_own_continuation
from memhooks.model.decoding import at_least_float32, scored_logits
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.forgotten import recited
from memhooks.unlearn.rows import COLUMNS, Estimated, Row, drawn_weights, interval

_MOST_LOGITS = 2**24

OTHERS_ROWS = {
    "exact_match": Row("others: exact match", "kept", "tokens, 0 = none", "as before"),
    "longest_run": Row("others: longest run", "kept", "tokens, 0 = none", "as before"),
    "nll": Row("others: NLL", "kept", "nats per token, 0 = certain", "as before"),
    "full_match": Row("others: recited in full", "kept", "share of paragraphs, 0 = none", "as before"),
}
HELD_OUT_ROWS = {
    "own_exact_match": Row("held out: exact match of its own continuation", "kept", "tokens, 0 = none", "all"),
    "own_longest_run": Row("held out: longest run of its own continuation", "kept", "tokens, 0 = none", "all"),
    "own_nll": Row("held out: NLL of its own continuation", "kept", "nats per token, 0 = certain", "as before"),
    "kl": Row("held out: KL", "kept", "nats per token, 0 = unchanged", "0"),
    "same_top": Row("held out: same most likely token", "kept", "share of tokens, 1 = all", "1"),
    "nll": Row("held out: NLL", "kept", "nats per token, 0 = certain", "as before"),
}
"""Means over paragraphs; the rows that are not (99th percentile, perplexity) are made by `pooled_rows`."""

_TAIL = Row("held out: KL, 99th percentile of tokens", "kept", "nats, 0 = unchanged", "0")
_PERPLEXITY = Row("held out: perplexity", "kept", "1 = certain", "as before")
_RATIO = Row("held out: perplexity ratio", "kept", "after over before, 1 = unchanged", "1")


@dataclass(frozen=True, repr=False)
class HeldOutReference:
    """What the untouched model said of the held-out text.

    Attributes:
        text: the held-out paragraphs.
        own: the same prefixes with the model's own greedy continuations.
        log_probabilities: of every next token at the positions of the text's continuation, in single precision:
            `4 * n_continuation * d_vocab` bytes a paragraph, that is 0.8 MB for the organism and 10 MB for GPT-Neo 125M
            at 50 tokens.
    """

    text: Paragraphs
    own: Paragraphs
    log_probabilities: Float[Tensor, "paragraph scored d_vocab"]


def held_out_reference(model: HookedModel, held_out: Paragraphs, *, batch_size: int = 32) -> HeldOutReference:
    """Store what the model says now, to compare with later.

    Raises:
        InputError: paragraphs that the model cannot read.
    """
    held_out.check(model)
    own = with_own_continuation(model, held_out, batch_size=batch_size)
    return HeldOutReference(held_out, own, continuation_log_probabilities(model, held_out, batch_size=batch_size))


@torch.no_grad()
def continuation_log_probabilities(
    model: HookedModel, paragraphs: Paragraphs, *, batch_size: int = 32
) -> Float[Tensor, "paragraph scored d_vocab"]:
    """Log-probabilities of every next token at the continuation's positions, in single precision, on the CPU."""
    n = paragraphs.n_continuation
    found = torch.empty(len(paragraphs), n, model.cfg.d_vocab)
    for rows in torch.arange(len(paragraphs)).split(batch_size):
        tokens = paragraphs.tokens[rows].to(model.cfg.device)
        residual = model(tokens, stop_at_layer=model.cfg.n_layers)[:, paragraphs.n_prefix - 1 : -1]
        some = max(1, _MOST_LOGITS // (n * model.cfg.d_vocab))
        for row, piece in zip(rows.split(some), residual.split(some), strict=True):
            logits = at_least_float32(scored_logits(model, piece))
            found[row] = logits.log_softmax(-1).float().cpu()
    return found


def others_kept(model: HookedModel, others: Paragraphs, *, batch_size: int = 32) -> xr.Dataset:
    """Recitation of other memorized paragraphs: `exact_match`, `longest_run`, `matches`, `nll`, `full_match`.

    Raises:
        InputError: paragraphs that the model cannot read.
    """
    others.check(model)
    return labelled(provenance(model, others.tokens), **recited(model, others, batch_size=batch_size))


def held_out_kept(model: HookedModel, reference: HeldOutReference, *, batch_size: int = 32) -> xr.Dataset:
    """How far the model is from what it was, on text that it never read; two passes.

    Returns:
        Dataset over `paragraph`: `own_exact_match`, `own_longest_run` (tokens of the untouched model's own greedy
        continuation), `own_nll`, `kl` (KL(untouched || model) in nats per token), `same_top` (share of tokens), `nll`
        (nats per token); and over `pos` (index of the scored token) too: `kl_by_token`.

    Raises:
        InputError: paragraphs that the model cannot read.
    """
    text = reference.text.check(model)
    own = recited(model, reference.own, batch_size=batch_size)
    now = continuation_log_probabilities(model, text, batch_size=batch_size)
    drift = divergence(reference.log_probabilities, now)
    same = now.argmax(-1) == reference.log_probabilities.argmax(-1)
    nll = -now.gather(-1, text.continuation[..., None])[..., 0].double()
    rows, nats = ("paragraph",), "nats per token, 0 = certain"
    ids = {"paragraph": text.ids}
    places = {"pos": range(text.n_prefix, text.tokens.shape[1])}
    of = f"tokens, of {text.n_continuation}"
    return labelled(
        provenance(model, text.tokens) | {"n_prefix": text.n_prefix},
        own_exact_match=Variable(own["exact_match"].values, rows, f"{of}, 0 = none", ids),
        own_longest_run=Variable(own["longest_run"].values, rows, f"{of}, 0 = none"),
        own_nll=Variable(own["nll"].values, rows, nats),
        kl=Variable(drift.mean(-1), rows, "nats per token, 0 = unchanged"),
        same_top=Variable(same.double().mean(-1), rows, "share of tokens, 1 = all"),
        nll=Variable(nll.mean(-1), rows, nats),
        kl_by_token=Variable(drift, (*rows, "pos"), "nats, 0 = unchanged", places),
    )


def divergence(
    reference: Float[Tensor, "paragraph scored d_vocab"], now: Float[Tensor, "paragraph scored d_vocab"]
) -> Float[Tensor, "paragraph scored"]:
    """KL(reference || now) of log-probabilities at each token, in nats; one paragraph at a time saves memory."""
    pairs = zip(reference, now, strict=True)
    return torch.stack([(one.exp() * (one - other)).sum(-1) for one, other in pairs]).double().clamp(min=0)


def generation_health(model: HookedModel, paragraphs: Paragraphs, *, batch_size: int = 32) -> xr.Dataset:
    """What the model says by itself after each prefix, greedily, for as many tokens as the continuation has.

    Returns:
        Dataset over `paragraph`: `distinct_2` (share of different ones among its pairs of neighbouring tokens; 1 = no
        pair twice), `in_loop` (whether it ends by repeating a phrase three times) and `entropy` (of the next-token
        distributions along what it says, mean in nats; 0 = certain).

    Raises:
        InputError: paragraphs that the model cannot read.
    """
    said = with_own_continuation(model, paragraphs.check(model), batch_size=batch_size)
    logs = continuation_log_probabilities(model, said, batch_size=batch_size)
    entropy = torch.stack([-(one.exp() * one).nan_to_num(0).sum(-1).mean() for one in logs])  # 0 * -inf is nothing
    rows = ("paragraph",)
    loops = np.array([in_loop(row) for row in said.continuation])
    return labelled(
        provenance(model, paragraphs.tokens),
        distinct_2=Variable(
            np.array([distinct_pairs(row) for row in said.continuation]),
            rows,
            "share of token pairs, 1 = no pair twice",
            {"paragraph": paragraphs.ids},
        ),
        in_loop=Variable(loops, rows, "whether what it says ends in a loop"),
        entropy=Variable(entropy.double(), rows, "nats per token, 0 = certain"),
    )


def distinct_pairs(tokens: Int[Tensor, " pos"]) -> float:
    """Share of different ones among the pairs of neighbouring tokens; 1 where there is at most one pair."""
    pairs = list(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def health_rows(name: str) -> dict[str, Row]:
    """The rows of what the model says after the prefixes of that set."""
    return {
        "distinct_2": Row(f"{name}, spoken: different token pairs", "kept", "share, 1 = no pair twice", "as before"),
        "in_loop": Row(f"{name}, spoken: in loops", "kept", "share of paragraphs, 0 = none", "as before"),
        "entropy": Row(f"{name}, spoken: entropy", "kept", "nats per token, 0 = certain", "as before"),
    }


def pooled_rows(
    before: xr.Dataset, after: xr.Dataset, *, clusters: Int[np.ndarray, " paragraph"], seed: int
) -> list[Estimated]:
    """The rows on held-out text that pool all tokens: 99th percentile of KL, perplexity and its ratio."""
    weights = drawn_weights(clusters, seed=seed)
    share = weights / weights.sum(1, keepdims=True)
    tails = [_tail(each["kl_by_token"].values, weights) for each in (before, after)]
    surprise = [share @ each["nll"].values for each in (before, after)]
    perplexity, ratio = np.exp(surprise), np.exp(surprise[1] - surprise[0])
    found = {
        _TAIL: (*tails, tails[1] - tails[0]),
        _PERPLEXITY: (*perplexity, perplexity[1] - perplexity[0]),
        _RATIO: (np.ones_like(ratio), ratio, ratio - 1),
    }
    return [
        Estimated(row, {column: interval(each, clusters) for column, each in zip(COLUMNS, drawn, strict=False)})
        for row, drawn in found.items()
    ]


def _tail(
    values: Float[np.ndarray, "paragraph pos"], weights: Int[np.ndarray, "draw paragraph"], *, q: float = 0.99
) -> Float[np.ndarray, " draw"]:
    """The smallest value that a share `q` of all tokens does not exceed, in each resampled set."""
    flat = values.reshape(-1)
    order = flat.argsort(kind="stable")
    paragraph = np.repeat(np.arange(len(values)), values.shape[1])[order]
    below = weights[:, paragraph].cumsum(1)
    # So many tokens must lie at or below it; the small number keeps 0.99 * 100 from being 100.
    at = (below < np.ceil(q * below[:, -1:] - 1e-9)).sum(1)
    return flat[order][at]
