"""What the paper's notebooks do to the same end, told in this project's words: the peers of `benchmarks.looking`.

They load the model with three flags on (an input for each head, its output before the sum, the MLP's own input), which
makes TransformerLens do a layer norm and a projection for every head, and cache every hook point.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from scipy.stats import rankdata
from torch import Tensor

from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel, HookPoint

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


def component_maxima(model: HookedModel, tokens: Tensor, *, first: int) -> dict[str, Tensor]:
    """Largest |gradient| of each matrix and head, with hooks that cache every activation and its gradient."""
    forward, backward = {}, {}

    def cache_forward(tensor: Tensor, *, hook: HookPoint) -> None:
        forward[hook.name] = tensor.detach()

    def cache_backward(tensor: Tensor, *, hook: HookPoint) -> None:
        backward[hook.name] = tensor.detach()

    model.zero_grad()
    model.add_hook(lambda name: "_input" not in name, cache_forward, "fwd")
    model.add_hook(lambda name: "_input" not in name, cache_backward, "bwd")
    try:
        nll = -model(tokens.to(model.cfg.device)).log_softmax(-1)
        own = nll.gather(-1, tokens[:, 1:, None].to(nll.device))[..., 0].cpu()
        own[:, first - 1 :].mean().backward()
    finally:
        model.reset_hooks()
    found = {}
    for name, weight in component_parameters(model).items():
        assert weight.grad is not None
        values = weight.grad.abs().reshape(model.cfg.n_heads if ".attn." in name else 1, -1)
        found[name] = values.topk(max(1, values.shape[1] // 10), dim=1).values.amax(1).cpu()
    model.zero_grad()
    return found


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
