"""Does the hooked model say what Hugging Face's says? Compared at every load and before every export."""

import copy
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import ActivationCache, HookedTransformer
from transformers import GPTNeoForCausalLM

from memhooks.errors import InputError

TOLERANCE = 1e-5  # Hugging Face computes GPT-Neo's attention in float32 whatever the dtype, so never tighter
_PROBE_SEED = 2403


def probe_tokens(d_vocab: int, n_ctx: int, window: int) -> Int[Tensor, "1 pos"]:
    """A fixed random text, longer than the local window where the context allows it."""
    length = min(n_ctx, window + window // 4 + 8)
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    return torch.randint(d_vocab, (1, length), generator=generator)


@torch.no_grad()
def check_parity(model: HookedTransformer, reference: GPTNeoForCausalLM) -> float:
    """Largest difference in log-probability on the probe, in nats; neither model is changed.

    Raises:
        InputError: it exceeds `1e-5 * (1 + largest |logit|)`; names the first layer that differs.
    """
    tokens = probe_tokens(model.cfg.d_vocab, model.cfg.n_ctx, model.cfg.window_size or model.cfg.n_ctx)
    theirs, hidden_states = _run(reference, tokens)
    found, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_resid_post"))
    cache.to("cpu")
    difference = (cast(Tensor, found).cpu().log_softmax(-1) - theirs.log_softmax(-1)).abs().max().item()
    allowed = TOLERANCE * (1 + theirs.abs().max().item())
    if not difference <= allowed:
        place = _first_difference(cache, hidden_states, model.cfg.n_layers)
        raise InputError(
            f"the hooked model differs from Hugging Face by {difference:.2e} nats (allowed {allowed:.2e}), "
            f"first at {place}; its configuration has a setting that the conversion does not know"
        )
    return difference


def _run(reference: GPTNeoForCausalLM, tokens: Int[Tensor, "1 pos"]) -> tuple[Tensor, tuple[Tensor, ...]]:
    exact = reference if reference.dtype in (torch.float32, torch.float64) else copy.deepcopy(reference).float()
    modes = {module: module.training for module in exact.modules()}
    try:
        output = exact.eval()(tokens.to(exact.device), output_hidden_states=True, use_cache=False)
        return output.logits.cpu(), tuple(state.cpu() for state in output.hidden_states)
    finally:
        for module, training in modes.items():
            module.training = training


def _first_difference(cache: ActivationCache, hidden_states: tuple[Tensor, ...], n_layers: int) -> str:
    # Hugging Face's last hidden state is already normalized, so the last layer cannot be compared alone.
    # Centred, because processed models write centred activations.
    for layer in range(n_layers - 1):
        ours, theirs = (
            one - one.mean(-1, keepdim=True) for one in (cache["resid_post", layer], hidden_states[layer + 1])
        )
        if (ours - theirs).abs().max().item() > TOLERANCE * (1 + theirs.abs().max().item()):
            return f"layer {layer}"
    return f"layer {n_layers - 1} or the unembedding"
