"""Ways to name the weights that hold a text: one score for every weight, one signature for all.

A localizer is any `function(model, forget, retain, *, seed) -> {parameter name: scores}` with scores of at least 0,
larger for weights that matter more to the text to forget. `LOCALIZERS` lists those that come with
memhooks; a function of your own can stand beside them wherever they are compared.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from memhooks.localize.activation_norm import activation_norm
from memhooks.localize.attribution import mean_over_paragraphs, weight_gradients
from memhooks.localize.balanced_subnet import balanced_subnet
from memhooks.measure.replacements import drawn, uniform
from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs

Localizer = Callable[..., dict[str, Tensor]]
"""`function(model, forget, retain, *, seed) -> {parameter name: scores}`."""

DAMPING = 1e-2
"""Of `fisher_ratio`, in mean Fisher informations: without it a weight that no retained text uses would be infinite."""

N_VARIANTS, N_REPLACED = 8, 5
"""Of `consistency`: variants of each paragraph, and prefix tokens replaced in each."""


def gradient(model: HookedModel, forget: Paragraphs, retain: Paragraphs, *, seed: int = 0) -> dict[str, Tensor]:
    """|Gradient of the mean NLL| of the text to forget, nats per token and unit of weight (Stoehr et al., 2024).

    Neither `retain` nor `seed` is used: the published keep term has no gradient at the model as it is.
    """
    return {name: one.abs() for name, one in weight_gradients(model, forget).items()}


def gradient_times_weight(
    model: HookedModel, forget: Paragraphs, retain: Paragraphs, *, seed: int = 0
) -> dict[str, Tensor]:
    """|Gradient x weight|, nats per token: to first order, what setting the weight to zero changes.

    Neither `retain` nor `seed` is used.
    """
    weights = component_parameters(model)
    return {name: (one * weights[name].detach()).abs() for name, one in weight_gradients(model, forget).items()}


def fisher_ratio(model: HookedModel, forget: Paragraphs, retain: Paragraphs, *, seed: int = 0) -> dict[str, Tensor]:
    """|Gradient| of the text to forget over the root of the Fisher information of the text to keep; without a unit.

    The Fisher information of a weight is the mean over the retained paragraphs of their own squared gradient,
    plus `DAMPING` times its mean over all weights. Large where forgetting pulls and keeping does not. `seed`
    is not used.
    """
    fisher = mean_over_paragraphs(model, retain, torch.square)
    n_weights = sum(one.numel() for one in fisher.values())
    damping = DAMPING * sum(float(one.double().sum()) for one in fisher.values()) / n_weights
    tiny = torch.finfo(next(iter(fisher.values())).dtype).tiny  # a retained text without any gradient
    return {
        name: one.abs() / (fisher[name] + max(damping, tiny)).sqrt()
        for name, one in weight_gradients(model, forget).items()
    }


def consistency(model: HookedModel, forget: Paragraphs, retain: Paragraphs, *, seed: int = 0) -> dict[str, Tensor]:
    """|Mean gradient| times its agreement over perturbed prefixes; nats per token and unit of weight.

    The agreement of a weight is |mean| over mean |gradient|, from 0 (the variants cancel) to 1 (all pull one way):
    weights that serve the continuation, not one wording of the prefix. Each paragraph is taken `N_VARIANTS`
    times with `N_REPLACED` random prefix tokens replaced by random others. `retain` is not used.
    """
    variants = perturbed_prefixes(model, forget, seed=seed)
    both = mean_over_paragraphs(model, variants, lambda one: torch.stack([one, one.abs()]))
    return {name: mean.abs() * torch.nan_to_num(mean.abs() / size) for name, (mean, size) in both.items()}


LOCALIZERS: tuple[Localizer, ...] = (
    gradient,
    gradient_times_weight,
    activation_norm,
    balanced_subnet,
    fisher_ratio,
    consistency,
)
"""The localizers that come with memhooks, each `function(model, forget, retain, *, seed) -> {parameter name: scores}`.

Example:
    >>> import memhooks
    >>> model = memhooks.load_model("organism")
    >>> forget = memhooks.load_planted("A", at_least=128).select(slice(0, 2))
    >>> retain = memhooks.load_controls().select(slice(0, 2))
    >>> len(memhooks.LOCALIZERS)
    6
    >>> scores = memhooks.LOCALIZERS[0](model, forget, retain, seed=0)
    >>> scores["blocks.0.attn.W_Q"].shape
    torch.Size([8, 256, 32])
"""


def perturbed_prefixes(model: HookedModel, paragraphs: Paragraphs, *, seed: int) -> Paragraphs:
    """Each paragraph `N_VARIANTS` times, other prefix tokens replaced in each; the continuations are the same."""
    put = drawn(model, paragraphs, uniform, seed=seed, n_draws=N_VARIANTS).flatten(0, 1)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(put.shape, generator=generator).argsort(1)
    own = paragraphs.prefix.repeat_interleave(N_VARIANTS, dim=0)
    prefix = torch.where(order < min(N_REPLACED, paragraphs.n_prefix), put, own)
    rest = paragraphs.continuation.repeat_interleave(N_VARIANTS, dim=0)
    ids = tuple(f"{name}/{variant}" for name in paragraphs.ids for variant in range(N_VARIANTS))
    return Paragraphs(torch.cat([prefix, rest], dim=1), paragraphs.n_prefix, ids=ids)
