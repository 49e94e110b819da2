"""What the paper's notebooks do to the same end, told in this project's words.

These are the peers of `benchmarks.looking` and `benchmarks.unlearning`. They load the model with three flags on (an
input for each head, its output before the sum, the MLP's own input), which makes TransformerLens do a layer norm and a
projection for every head, and cache every hook point.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager

import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional

from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.localize.objectives import CHANGE_WEIGHT
from memhooks.model.components import component_parameters, trainable
from memhooks.model.loading import HookedModel, HookPoint
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.published_recipe import WEIGHT_DECAY

_FLAGS = ("use_attn_result", "use_attn_in", "use_hook_mlp_in")


@contextmanager
def flags_on(model: HookedModel) -> Iterator[None]:
    """The flags with which the notebooks load their model."""
    _switch_(model, on=True)
    try:
        yield
    finally:
        _switch_(model, on=False)


def _switch_(model: HookedModel, *, on: bool) -> None:
    for flag in _FLAGS:
        getattr(model, f"set_{flag}")(on)


def rare_token_sums(model: HookedModel, tokens: Tensor, counts: Tensor, *, layer: int, query: int) -> Tensor:
    """Attention of one layer's heads summed by rarity rank: one paragraph at a time, everything cached."""
    summed = torch.zeros(model.cfg.n_heads, query)
    for row in tokens:
        ranks = rankdata(counts[row[:query]].numpy(), method="dense") - 1
        _, cache = model.run_with_cache(row[None].to(model.cfg.device))
        pattern = cache.to("cpu")["pattern", layer, "attn"].squeeze()[:, query, :query]
        for place in range(query):
            for head in range(model.cfg.n_heads):
                summed[head, ranks[place].item()] += pattern[head, place].item()
    return summed


@contextmanager
def everything_cached(model: HookedModel) -> Iterator[None]:
    """Hooks that hold the latest activation of every hook point and its gradient."""
    forward, backward = {}, {}

    def cache_forward(tensor: Tensor, *, hook: HookPoint) -> None:
        forward[hook.name] = tensor.detach()

    def cache_backward(tensor: Tensor, *, hook: HookPoint) -> None:
        backward[hook.name] = tensor.detach()

    model.add_hook(lambda name: "_input" not in name, cache_forward, "fwd")
    model.add_hook(lambda name: "_input" not in name, cache_backward, "bwd")
    try:
        yield
    finally:
        model.reset_hooks()


def component_maxima(model: HookedModel, tokens: Tensor, *, first: int) -> dict[str, Tensor]:
    """Largest |gradient| of each matrix and head, with hooks that cache every activation and its gradient."""
    model.zero_grad()
    with everything_cached(model):
        _nll(model, tokens)[:, first - 1 :].mean().backward()
    found = {}
    for name, weight in component_parameters(model).items():
        assert weight.grad is not None
        values = weight.grad.abs().reshape(model.cfg.n_heads if ".attn." in name else 1, -1)
        found[name] = values.topk(max(1, values.shape[1] // 10), dim=1).values.amax(1).cpu()
    model.zero_grad()
    return found


def fine_tuning_steps(
    model: HookedModel, change: Paragraphs, keep: Paragraphs, mask: WeightMask, *, lr: float
) -> Generator[float, None, None]:
    """Fine-tune in place without end; the loss of each step, after its update.

    Reference logits keep their graph, changed and kept paragraphs have a pass each, everything is unembedded and
    cached, and a dense Adam steps with decay. The first step goes without: there the masked weights alone move, so
    that what the second finds can be compared.
    """
    scored = slice(change.n_prefix - 1, -1)
    kept = keep.tokens.to(model.cfg.device)
    with everything_cached(model), trainable(model) as parameters:
        outside = outside_masks(parameters, mask)
        optimizer = torch.optim.Adam(parameters.values(), lr=lr)
        frozen = model(kept)
        while True:
            changed = _nll(model, change.tokens)[:, change.n_prefix - 1 :].mean()
            logits, target = model(kept)[:, scored], frozen.detach()[:, scored].softmax(-1)
            held = functional.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
            loss = held - CHANGE_WEIGHT * changed
            model.zero_grad()
            loss.backward()
            annul_(parameters, outside)
            optimizer.step()
            optimizer.zero_grad()
            optimizer.param_groups[0]["weight_decay"] = WEIGHT_DECAY
            yield loss.item()


def outside_masks(parameters: Mapping[str, Tensor], mask: WeightMask) -> dict[str, Tensor]:
    """1 for each weight that is to stay, in 64 bits, as `torch.where` of two numbers makes them."""
    found = {}
    for name, weight in parameters.items():
        stays = torch.ones(weight.numel(), dtype=torch.int64, device=weight.device)
        stays[mask.of(name).long().to(weight.device)] = 0
        found[name] = stays.reshape(weight.shape)
    return found


def annul_(parameters: Mapping[str, Tensor], outside: Mapping[str, Tensor]) -> None:
    """Set the gradients outside the mask to zero."""
    for name, weight in parameters.items():
        assert weight.grad is not None
        weight.grad[outside[name].bool()] = 0.0


def single_backward_passes(model: HookedModel, tokens: Tensor, *, first: int) -> Tensor:
    """Maximum, sum and norm of each matrix's and head's |gradient|, one paragraph and backward pass at a time."""
    found = []
    for row in tokens:
        model.zero_grad()
        logits = model(row[None].to(model.cfg.device))[:, first - 1 : -1]
        torch.nn.functional.cross_entropy(logits[0], row[first:].to(logits.device)).backward()
        own = []
        for name, weight in component_parameters(model).items():
            assert weight.grad is not None
            size = weight.grad.abs().reshape(model.cfg.n_heads if ".attn." in name else 1, -1)
            own.append(torch.stack([size.amax(1), size.sum(1), size.square().sum(1).sqrt()], dim=1))
        found.append(torch.cat(own).cpu())
    model.zero_grad()
    return torch.stack(found)


def _nll(model: HookedModel, tokens: Tensor) -> Tensor:
    """Surprise at every token but the first, by way of the log-probabilities of the whole vocabulary."""
    nll = -model(tokens.to(model.cfg.device)).log_softmax(-1)
    return nll.gather(-1, tokens[:, 1:, None].to(nll.device))[..., 0].cpu()
