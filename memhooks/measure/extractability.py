"""How many samples until one of them is the whole continuation? Counted exactly, from one pass and without sampling.

Greedy decoding says one thing per prefix; whoever samples gets many tries. A paragraph is (n, p)-discoverably
extractable if `n` samples hold the whole continuation at least once with probability `p` (Hayes et al., 2024,
arXiv:2410.19482).

1. One teacher-forced pass gives the distribution of every continuation token after the true ones before it.
2. The sampler (greedy, temperature, top-k, top-p) reshapes it; tokens that it never says get probability zero.
3. The product over the continuation is the probability `p_z` that one sample is all of it. It is kept as a logarithm.
4. `n` samples fail with probability `(1 - p_z) ** n`, so the least `n` is `log(1 - p) / log(1 - p_z)`, rounded up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

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

Numbers = float | Sequence[float] | np.ndarray | xr.DataArray
SamplerName = Literal["greedy", "temperature", "top_k", "top_p"]

_MOST_LOGITS = 2**24
_ROUNDING = 1e-12
_TINY = -30.0


@dataclass(frozen=True)
class Sampler:
    """How tokens are drawn: `temperature` first, then what `top_k` or `top_p` leave, renormalised."""

    name: str = "greedy"
    temperature: float = 1.0
    top_k: int = 40
    top_p: float = 0.95

    def check(self, d_vocab: int) -> "Sampler":
        """This sampler, if its settings make sense for a vocabulary of that size.

        Raises:
            InputError: an unknown sampler, or a setting out of range.
        """
        if self.name not in get_args(SamplerName):
            raise InputError(f"sampler must be one of {', '.join(get_args(SamplerName))}, got {self.name!r}")
        if not 0 < self.temperature < np.inf:
            raise InputError(f"temperature must be positive and finite, got {self.temperature}")
        if self.name == "top_k" and self.top_k not in range(1, d_vocab + 1):
            raise InputError(f"top_k must lie in 1..{d_vocab} (the model's vocabulary), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must lie in (0, 1], got {self.top_p}")
        return self

    def log_probability(
        self, logits: Float[Tensor, "*token d_vocab"], tokens: Int[Tensor, "*token"]
    ) -> Float[Tensor, "*token"]:
        """Log-probability that each of these tokens is drawn; minus infinity where it never is."""
        true = tokens[..., None]
        own = logits.gather(-1, true)
        ids = torch.arange(logits.shape[-1], device=logits.device)
        rank = ((logits > own) | ((logits == own) & (ids < true))).sum(
            -1, keepdim=True
        )  # of equals the smaller id first
        if self.name == "greedy":
            return torch.where(rank == 0, torch.zeros_like(own), -torch.inf)[..., 0]
        scaled, own = logits / self.temperature, own / self.temperature
        match self.name:
            case "top_k":
                inside = rank < self.top_k
                total = scaled.topk(self.top_k).values.logsumexp(-1, keepdim=True)
            case "top_p":
                inside, total = _nucleus(scaled, rank, self.top_p)
            case _:
                inside, total = torch.ones_like(rank, dtype=torch.bool), scaled.logsumexp(-1, keepdim=True)
        return torch.where(inside, (own - total).clamp(max=0), -torch.inf)[..., 0]


def extractability(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    sampler: SamplerName = "greedy",
    temperature: float = 1.0,
    top_k: int = 40,
    top_p: float = 0.95,
    batch_size: int = 32,
) -> xr.Dataset:
    """Log-probability that one sample after the prefix is the whole continuation.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: what it may recite.
        sampler: `greedy` (the most likely token), `temperature` (all tokens), `top_k` or `top_p` (the most likely
            ones, renormalised). Of equally likely tokens the smaller id comes first.
        temperature: divides the logits, before `top_k` and `top_p`; greedy decoding has none.
        top_k: how many tokens `top_k` leaves.
        top_p: `top_p` leaves the fewest most likely tokens that together have at least this probability.
        batch_size: rows per pass.

    Returns:
        Dataset over `paragraph` (labelled by id): `log_probability` in nats, 0 = every sample is the continuation,
        minus infinity = none ever is. `queries_needed` turns it into a number of samples.

    Raises:
        InputError: an unknown sampler, a setting or batch size out of range, or paragraphs that the model cannot read.
    """
    paragraphs.check(model)
    check_batch_size(batch_size)
    chosen = Sampler(sampler, temperature, top_k, top_p).check(model.cfg.d_vocab)
    rows = tracked(paragraphs.tokens.split(batch_size), "scoring")
    found = torch.cat([_of_batch(model, batch, paragraphs.n_prefix, chosen) for batch in rows])
    about = provenance(model, paragraphs.tokens) | {"n_prefix": paragraphs.n_prefix} | _settings(chosen)
    unit = "nats of the whole continuation, 0 = every sample says it, -inf = none ever does"
    return labelled(about, log_probability=Variable(found, ("paragraph",), unit, {"paragraph": paragraphs.ids}))


def queries_needed(log_probability: Numbers, *, p: float = 0.5) -> Float[np.ndarray, "..."]:
    """Samples until the continuation is among them with probability `p`, at least one; infinite where it never is.

    Finite down to log-probabilities of about -700. Numbers that are whole but for rounding are taken as whole.

    Args:
        log_probability: of one sample being the continuation, in nats, at most 0.
        p: between 0 and 1.

    Raises:
        InputError: `p` is not between 0 and 1, or a log-probability is positive or NaN.
    """
    if not 0 < p < 1:
        raise InputError(f"p must lie between 0 and 1, got {p}")
    logs = np.asarray(log_probability, dtype=np.float64)
    if not (logs <= 0).all():
        raise InputError(f"log-probabilities must be at most 0, got {logs[~(logs <= 0)].flat[0]}")
    with np.errstate(divide="ignore", over="ignore"):
        # log(1 - p_z) by the form that keeps its digits, for p_z near one and near zero.
        failing = np.where(logs > -np.log(2), np.log(-np.expm1(logs)), np.log1p(-np.exp(logs)))
        exact = np.log1p(-p) / failing
        tiny = np.exp(np.log(-np.log1p(-p)) - logs)  # log(1 - p_z) is -p_z
    needed = np.where(logs < _TINY, tiny, exact)
    return np.asarray(np.maximum(1.0, np.ceil(needed * (1 - _ROUNDING))))


@torch.no_grad()
def _of_batch(
    model: HookedModel, rows: Int[Tensor, "batch pos"], n_prefix: int, sampler: Sampler
) -> Float[Tensor, " batch"]:
    rows = rows.to(model.cfg.device)
    residual = model(rows, stop_at_layer=model.cfg.n_layers)[:, n_prefix - 1 : -1]
    together = max(1, _MOST_LOGITS // (len(rows) * model.cfg.d_vocab))
    total = torch.zeros(len(rows), dtype=torch.float64)
    for piece, true in zip(residual.split(together, 1), rows[:, n_prefix:].split(together, 1), strict=True):
        logits = at_least_float32(scored_logits(model, piece))
        total += sampler.log_probability(logits, true).double().sum(-1).cpu()
    return total


def _nucleus(
    logits: Float[Tensor, "*token d_vocab"], rank: Int[Tensor, "*token 1"], top_p: float
) -> tuple[Tensor, Tensor]:
    """Whether the token of that rank is left, and the logsumexp of all that are."""
    ordered = logits.sort(dim=-1, descending=True).values
    share = ordered.softmax(-1)
    kept = share.cumsum(-1) - share < top_p
    kept[..., 0] = True
    total = ordered.masked_fill(~kept, -torch.inf).logsumexp(-1, keepdim=True)
    return kept.gather(-1, rank), total


def _settings(sampler: Sampler) -> dict[str, object]:
    about: dict[str, object] = {"sampler": sampler.name}
    if sampler.name != "greedy":
        about["temperature"] = sampler.temperature
    if sampler.name in ("top_k", "top_p"):
        about[sampler.name] = getattr(sampler, sampler.name)
    return about
