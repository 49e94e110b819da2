"""Greedy continuation with cached keys and values, equal to Hugging Face's on every token.

TransformerLens 3.9's own `generate` misplaces new tokens when the model has no
tokenizer; here positions and attention masks are always explicit.
"""

import torch
from jaxtyping import Bool, Float, Int
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
    reading = Reading(model, len(prefix))
    current, decoded = prefix.to(model.cfg.device), []
    for _ in range(n_tokens):
        current = reading.logits(current, last=1).argmax(-1)
        decoded.append(current)
    return torch.cat(decoded, dim=1)


class Reading:
    """Rows that are read piece by piece: keys and values of what was read stay.

    Args:
        model: a hooked GPT-Neo.
        n_rows: how many rows are read side by side.
    """

    def __init__(self, model: HookedModel, n_rows: int) -> None:
        self._model = model
        self._cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, n_rows)

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "row pos"], *, last: int) -> Float[Tensor, "row last d_vocab"]:
        """Read these tokens on every row; the logits after each of the `last` ones, at least in float32."""
        residual = self._model(
            tokens,
            stop_at_layer=self._model.cfg.n_layers,
            past_kv_cache=self._cache,
            attention_mask=torch.ones_like(tokens),
        )
        return at_least_float32(scored_logits(self._model, residual[:, -last:]))

    def select(self, rows: Bool[Tensor, " row"]) -> None:
        """Go on with these rows alone."""
        self._cache.previous_attention_mask = self._cache.previous_attention_mask[rows]
        for entry in self._cache.entries:
            entry.past_keys, entry.past_values = entry.past_keys[rows], entry.past_values[rows]


def scored_logits(model: HookedModel, residual: Tensor) -> Tensor:
    """Logits of these final residuals only: final norm and unembedding, `[..., d_vocab]`."""
    return model.unembed(model.ln_final(residual))


def at_least_float32(values: Tensor) -> Tensor:
    """The same values, widened from half precision: a sum over the vocabulary needs more than that."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
