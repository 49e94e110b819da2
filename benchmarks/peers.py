"""The loops of TransformerLens 3.9 that replays are compared with, each as its users would write it."""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import patching  # noqa: TID251 - the peer

from memhooks.model.loading import HookedModel, HookPoint


@torch.no_grad()
def patched_cells(
    model: HookedModel,
    clean: Int[Tensor, "one pos"],
    corrupted: Int[Tensor, "one pos"],
    cells: pd.DataFrame,
    site: str,
    *,
    first: int,
) -> Float[Tensor, " cell"]:
    """NLL of the tokens from `first` on, cell by cell, by `generic_activation_patch(index_df=cells)`."""

    def metric(logits: Tensor) -> Tensor:
        return _nll(logits[:, first - 1 : -1], corrupted[:, first:]).mean()

    setter = head_position_setter if site == "z" else patching.layer_pos_patch_setter
    _, cache = model.run_with_cache(clean, names_filter=lambda name: name.endswith(f"hook_{site}"))
    with redirect_stderr(io.StringIO()):  # its progress bar
        return patching.generic_activation_patch(model, corrupted, cache, metric, setter, site, index_df=cells)


def head_position_setter(corrupted: Tensor, index: Sequence[int], clean: Tensor) -> Tensor:
    """Layer, position, head: what TransformerLens lacks for z by position."""
    _, position, head = index
    corrupted[:, position, head] = clean[:, position, head]
    return corrupted


@torch.no_grad()
def zeroed_heads(
    model: HookedModel,
    tokens: Int[Tensor, "paragraph pos"],
    heads: Sequence[tuple[int, int]],
    *,
    first: int,
    sparing: bool,
) -> Float[Tensor, "paragraph head"]:
    """NLL of the continuation without each head: one full pass with a hook per head.

    A plain loop takes the log-softmax at all positions, a sparing one only where it is wanted.
    """
    found = []
    for layer, head in heads:

        def zero(z: Tensor, hook: HookPoint, head: int = head) -> Tensor:
            z[:, :, head] = 0
            return z

        logits = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)])
        if sparing:
            found.append(_nll(logits[:, first - 1 : -1], tokens[:, first:]).mean(-1))
        else:
            found.append(_nll(logits[:, :-1], tokens[:, 1:])[:, first - 1 :].mean(-1))
    return torch.stack(found, dim=1)


@torch.no_grad()
def generated(
    model: HookedModel, prefixes: Int[Tensor, "row pos"], *, n_tokens: int, batch_size: int
) -> Int[Tensor, "row n_tokens"]:
    """Greedy continuations by `model.generate` with its cache, the official way to count EM.

    Without a tokenizer TransformerLens 3.9 misplaces the new tokens; that costs the same time.
    """
    if model.tokenizer is not None and model.tokenizer.pad_token is None:
        model.tokenizer.pad_token = model.tokenizer.eos_token  # as TransformerLens does for models it loads itself
    settings = {"do_sample": False, "stop_at_eos": False, "use_past_kv_cache": True, "verbose": False}
    parts = [model.generate(rows, max_new_tokens=n_tokens, **settings) for rows in prefixes.split(batch_size)]
    return torch.cat(parts)[:, prefixes.shape[1] :]


@torch.no_grad()
def teacher_forced(model: HookedModel, variants: Int[Tensor, "row pos"], *, first: int) -> Int[Tensor, " row"]:
    """EM of each row by one full pass over all of them: logits everywhere, argmax, hits before the first miss."""
    hits = model(variants).argmax(-1)[:, first - 1 : -1] == variants[:, first:]
    return hits.long().cumprod(-1).sum(-1)


@torch.no_grad()
def cached(model: HookedModel, rows: Int[Tensor, "row pos"]) -> int:
    """Run with everything cached; how many activations that are."""
    return len(model.run_with_cache(rows)[1])


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    return -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
