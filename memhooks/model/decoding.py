"""Greedy continuation with cached keys and values, equal to Hugging Face's on every token.

TransformerLens 3.9's own `generate` misplaces new tokens when the model has no
tokenizer; here positions and attention masks are always explicit.
"""

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from memhooks.errors import InputError
from memhooks.model.checks import check_tokens
from memhooks.model.loading import HookedModel


@torch.no_grad()
def greedy_continuation(
    model: HookedModel, prefix: Int[Tensor, "paragraph pos"], *, n_tokens: int
) -> Int[Tensor, "paragraph n_tokens"]:
    """The tokens the model itself finds most likely after each prefix; of equally likely ones the smaller id.

    Raises:
        InputError: prefix and continuation do not fit the context, or ids lie outside the vocabulary.
    """
    if n_tokens < 1:
        raise InputError(f"n_tokens must be at least 1, got {n_tokens}")
    check_tokens(model, prefix, n_more=n_tokens)
    device = model.cfg.device
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, device, len(prefix))
    current, decoded = prefix.to(device), []
    for _ in range(n_tokens):
        residual = model(
            current,
            stop_at_layer=model.cfg.n_layers,
            past_kv_cache=cache,
            attention_mask=torch.ones_like(current),
        )
        current = scored_logits(model, residual[:, -1:]).argmax(-1)
        decoded.append(current)
    return torch.cat(decoded, dim=1)


def scored_logits(model: HookedModel, residual: Tensor) -> Tensor:
    """Logits of these final residuals only: final norm and unembedding, `[..., d_vocab]`."""
    return model.unembed(model.ln_final(residual))


def at_least_float32(values: Tensor) -> Tensor:
    """The same values, widened from half precision: a sum over the vocabulary needs more than that."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
