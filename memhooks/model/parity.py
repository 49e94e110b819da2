"""Does the hooked model say what Hugging Face's says? Compared at every load and before every export."""

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import GPTNeoForCausalLM

from memhooks.errors import InputError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
_PROBE_SEED = 2403


def probe_tokens(d_vocab: int, n_ctx: int, window: int) -> Int[Tensor, "1 pos"]:
    """A fixed random text, longer than the local window where the context allows it."""
    length = min(n_ctx, window + window // 4 + 8)
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    return torch.randint(d_vocab, (1, length), generator=generator)


@torch.no_grad()
def check_parity(model: HookedTransformer, reference: GPTNeoForCausalLM) -> float:
    """Largest difference in log-probability on the probe, in nats.

    Raises:
        InputError: it exceeds `1e-5 * (1 + largest |logit|)` (float64: 1e-9); names the first layer that differs.
    """
    tokens = probe_tokens(model.cfg.d_vocab, model.cfg.n_ctx, model.cfg.window_size or model.cfg.n_ctx)
    exact = reference.eval().to(model.cfg.dtype) if reference.dtype != model.cfg.dtype else reference.eval()
    theirs = exact(tokens, output_hidden_states=True, use_cache=False)
    found, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_resid_post"))
    ours = found.log_softmax(-1)
    difference = (ours - theirs.logits.log_softmax(-1)).abs().max().item()
    allowed = _tolerance(model.cfg.dtype) * (1 + theirs.logits.abs().max().item())
    if not difference <= allowed:
        place = _first_difference(cache, theirs.hidden_states, model.cfg.n_layers, allowed)
        raise InputError(
            f"the hooked model differs from Hugging Face by {difference:.2e} nats (allowed {allowed:.2e}), first at {place}; "
            "its configuration has a setting that the conversion does not know"
        )
    return difference


def _tolerance(dtype: torch.dtype) -> float:
    return TOLERANCE.get(dtype, TOLERANCE[torch.float32])


def _first_difference(cache, hidden_states: tuple[Tensor, ...], n_layers: int, allowed: float) -> str:  # noqa: ANN001
    # Hugging Face's last hidden state is already normalized, so the last layer cannot be compared alone.
    for layer in range(n_layers - 1):
        ours, theirs = cache["resid_post", layer], hidden_states[layer + 1]
        centred = (ours - ours.mean(-1, keepdim=True)) - (theirs - theirs.mean(-1, keepdim=True))
        if centred.abs().max().item() > allowed * (1 + theirs.abs().max().item()):
            return f"layer {layer}"
    return f"layer {n_layers - 1} or the unembedding"
