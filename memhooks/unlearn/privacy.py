"""Can one still tell that the model once read it? Membership, and the distance to a model that never did.

1. A score says how familiar each text is: mean log-probability (`loss`), that of the least likely fifth of the tokens
   (`min_k`; Shi et al., 2024, arXiv:2310.16789), or of the same after standardising each token's log-probability by
   mean and spread over the vocabulary (`min_k_pp`; Zhang et al., 2025, arXiv:2404.02936).
2. The AUC is the chance that a forget paragraph scores higher than text that no model read: 0.5 says nothing, 1
   gives it away, and far below 0.5 gives it away as well. The ideal is the AUC of the twin, which never read it.
3. How far from the twin the model behaves on the forget set: surprise token by token, and KL(twin || model).
"""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.checks import check_batch_size
from memhooks.model.decoding import at_least_float32, scored_logits
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked
from memhooks.unlearn.kept import continuation_log_probabilities, divergence
from memhooks.unlearn.rows import Estimated, Row, drawn_weights, interval

SCORES = {"loss": "loss", "min_k": "min-k", "min_k_pp": "min-k++"}
"""Scores by variable, with the names that the literature has for them."""

_FRACTION = 0.2
_LEAST_SPREAD = 1e-6
_MOST_LOGITS = 2**24

DISTANCE_ROWS = {
    "nll_distance": Row("forget: NLL, distance to the twin's", "privacy", "nats per token, 0 = the same", "0"),
    "kl_from_twin": Row("forget: KL from the twin", "privacy", "nats per token, 0 = the same", "0"),
}


def membership_scores(model: HookedModel, paragraphs: Paragraphs, *, batch_size: int = 32) -> xr.Dataset:
    """How familiar each text looks, from all its tokens but the first, in one pass.

    Returns:
        Dataset over `paragraph`; higher is more familiar: `loss` (mean log-probability in nats, 0 = all certain),
        `min_k` (the same of the least likely fifth of the tokens) and `min_k_pp` (mean of the lowest fifth of
        log-probabilities in standard deviations from their mean over the vocabulary).

    Raises:
        InputError: a batch size below one, or paragraphs that the model cannot read.
    """
    check_batch_size(batch_size)
    batches = tracked(paragraphs.check(model).tokens.split(batch_size), "scoring")
    log_prob, standing = (torch.cat(one) for one in zip(*(_scored(model, rows) for rows in batches), strict=True))
    rows, nats = ("paragraph",), "nats, 0 = certain"
    return labelled(
        provenance(model, paragraphs.tokens) | {"fraction": _FRACTION},
        loss=Variable(log_prob.mean(-1), rows, f"{nats}; mean", {"paragraph": paragraphs.ids}),
        min_k=Variable(_lowest(log_prob), rows, f"{nats}; mean of the lowest fifth"),
        min_k_pp=Variable(_lowest(standing), rows, "standard deviations from the vocabulary's mean, 0 = at it"),
    )


def distance_to_twin(
    model: HookedModel,
    forget: Paragraphs,
    twin: Float[Tensor, "paragraph scored d_vocab"],
    *,
    batch_size: int = 32,
) -> xr.Dataset:
    """How far the model is from one that never read the forget set, on its continuations.

    Args:
        model: a hooked GPT-Neo.
        forget: the paragraphs.
        twin: `continuation_log_probabilities` of the other model.
        batch_size: rows per pass.

    Returns:
        Dataset over `paragraph`: `nll_distance` (mean over tokens of the absolute difference in surprise, nats) and
        `kl_from_twin` (KL(twin || model), mean over tokens, nats); 0 = behaves as the twin.
    """
    now = continuation_log_probabilities(model, forget, batch_size=batch_size)
    true = forget.continuation[..., None]
    apart = (now.gather(-1, true) - twin.gather(-1, true))[..., 0].double().abs().mean(-1)
    rows, nats = ("paragraph",), "nats per token, 0 = as the twin"
    return labelled(
        provenance(model, forget.tokens),
        nll_distance=Variable(apart, rows, nats, {"paragraph": forget.ids}),
        kl_from_twin=Variable(divergence(twin, now).mean(-1), rows, nats),
    )


def auc(members: Float[np.ndarray, " paragraph"], others: Float[np.ndarray, " other"]) -> float:
    """Chance that a member scores higher than one of the others, ties counting half (Mann and Whitney's count).

    Raises:
        InputError: a set is empty, or a score is NaN.
    """
    return float(_wins(members, others).mean())


def membership_rows(
    forget: dict[str, xr.Dataset],
    unseen: dict[str, xr.Dataset],
    *,
    clusters: tuple[Int[np.ndarray, " paragraph"], Int[np.ndarray, " other"]],
    seed: int,
) -> list[Estimated]:
    """The AUC of each score, `before`, `after` and of the `twin`, with intervals over both sets' clusters."""
    own, theirs = drawn_weights(clusters[0], seed=seed), drawn_weights(clusters[1], seed=seed + 1)
    size = own.sum(1) * theirs.sum(1)
    found = []
    for name, said in SCORES.items():
        drawn = {
            column: ((own @ _wins(forget[column][name].values, unseen[column][name].values)) * theirs).sum(1) / size
            for column in forget
        }
        drawn["change"] = drawn["after"] - drawn["before"]
        row = Row(f"membership AUC: {said}", "privacy", "0.5 = cannot be told from unread text", "the twin's")
        found.append(Estimated(row, {column: interval(each, *clusters) for column, each in drawn.items()}))
    return found


def _wins(
    members: Float[np.ndarray, " paragraph"], others: Float[np.ndarray, " other"]
) -> Float[np.ndarray, "paragraph other"]:
    members, others = np.asarray(members, np.float64), np.asarray(others, np.float64)
    if not len(members) or not len(others) or np.isnan(members).any() or np.isnan(others).any():
        raise InputError(
            f"an AUC needs scores that are numbers on both sides, got {len(members)} and {len(others)} with "
            f"{int(np.isnan(members).sum() + np.isnan(others).sum())} NaN"
        )
    return (members[:, None] > others) + 0.5 * (members[:, None] == others)


@torch.no_grad()
def _scored(
    model: HookedModel, rows: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "batch scored"], Float[Tensor, "batch scored"]]:
    """Log-probability of each token but the first, and its place among those of the whole vocabulary."""
    rows = rows.to(model.cfg.device)
    residual = model(rows, stop_at_layer=model.cfg.n_layers)[:, :-1]
    together = max(1, _MOST_LOGITS // (len(rows) * model.cfg.d_vocab))
    pieces = zip(residual.split(together, 1), rows[:, 1:].split(together, 1), strict=True)
    found = [_standing(scored_logits(model, piece), true) for piece, true in pieces]
    log_prob, standing = (torch.cat(one, 1).double().cpu() for one in zip(*found, strict=True))
    return log_prob, standing


def _standing(
    logits: Float[Tensor, "batch pos d_vocab"], true: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "batch pos"], Float[Tensor, "batch pos"]]:
    logs = at_least_float32(logits).log_softmax(-1)
    share = logs.exp()
    mean = (share * logs).sum(-1, keepdim=True)
    spread = (share * (logs - mean).square()).sum(-1).sqrt()  # centred: squares keep their digits
    own = logs.gather(-1, true[..., None])[..., 0]
    return own, (own - mean[..., 0]) / spread.clamp(min=_LEAST_SPREAD)


def _lowest(values: Float[Tensor, "paragraph scored"]) -> Float[Tensor, " paragraph"]:
    n = max(1, round(_FRACTION * values.shape[1]))
    return values.topk(n, largest=False).values.mean(-1)
