"""The run that edits are compared with: every layer's stream, keys and values, and the scores."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.model.checks import check_tokens
from memhooks.model.loading import HookedModel
from memhooks.model.replay.layouts import Layer, Layouts, layouts

TOGETHER = 8
"""Paragraphs whose runs a sweep holds at once; fixed, so that results are the same bit for bit."""


@dataclass(frozen=True)
class Outcome:
    """What became of the scored tokens, row by row."""

    nll: Float[Tensor, "row scored"]
    hits: Bool[Tensor, "row scored"]


@dataclass(frozen=True)
class LayerRun:
    """What one layer did: its stream before, between and after attention and MLP, what they wrote and read."""

    pre: Float[Tensor, "paragraph pos d_model"]
    attn_out: Float[Tensor, "paragraph pos d_model"]
    mid: Float[Tensor, "paragraph pos d_model"]
    mlp_out: Float[Tensor, "paragraph pos d_model"]
    post: Float[Tensor, "paragraph pos d_model"]
    keys: Float[Tensor, "paragraph head pos d_head"]
    values: Float[Tensor, "paragraph head pos d_head"]
    z: Float[Tensor, "paragraph pos head_d_head"]


@dataclass(frozen=True)
class CleanRun:
    """One forward pass over some paragraphs; tokens from index `first` on are scored.

    Attributes:
        tokens: the paragraphs.
        first: index of the first scored token.
        weights: the model's.
        layers: what each layer did.
    """

    tokens: Int[Tensor, "paragraph pos"]
    first: int
    weights: Layouts
    layers: tuple[LayerRun, ...]

    @property
    def final(self) -> Float[Tensor, "paragraph pos d_model"]:
        """The stream after the last layer."""
        return self.layers[-1].post

    @property
    def targets(self) -> Int[Tensor, "paragraph scored"]:
        """The scored tokens."""
        return self.tokens[:, self.first :]

    @cached_property
    def outcome(self) -> Outcome:
        """Scores without any edit; unembedded once, however many sweeps start from this run."""
        return score(self.weights, self.final[:, self.first - 1 : -1], self.targets)


@torch.no_grad()
def clean_run(model: HookedModel, tokens: Int[Tensor, "paragraph pos"], *, first: int) -> CleanRun:
    """Run the model once and keep what replays need: about `n_layers * 8 d_model` numbers a token."""
    check_tokens(model, tokens)
    weights = layouts(model)
    tokens = tokens.to(weights.embed.device)
    x = F.embedding(tokens, weights.embed) + weights.positions[: tokens.shape[1]]
    runs = []
    for layer in weights.layers:
        q, keys, values = projected(layer, x)
        z = attended(layer, q, keys, values, start=0, low=0)
        attn_out = F.linear(z, layer.out, layer.out_bias)
        mid = x + attn_out
        mlp_out = layer.mlp(mid)
        runs.append(LayerRun(x, attn_out, mid, mlp_out, mid + mlp_out, keys, values, z))
        x = runs[-1].post
    return CleanRun(tokens, first, weights, tuple(runs))


@torch.no_grad()
def score(weights: Layouts, stream: Float[Tensor, "row pos d_model"], targets: Int[Tensor, "row pos"]) -> Outcome:
    """Unembed these positions alone and compare with the tokens that follow them."""
    logits = F.linear(weights.norm(stream), weights.unembed, weights.unembed_bias)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # a sum over the vocabulary needs more than half precision
    nll = logits.logsumexp(-1) - logits.gather(-1, targets[..., None])[..., 0]
    return Outcome(nll, logits.argmax(-1) == targets)


def activation(run: CleanRun, site: str, layer: int) -> Float[Tensor, "paragraph pos d_model"]:
    """What the run has at a site of one layer: resid_pre, resid_mid, resid_post, attn_out or mlp_out."""
    return getattr(run.layers[layer], site.removeprefix("resid_"))


def projected(layer: Layer, x: Float[Tensor, "row pos d_model"]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [row head pos d_head]."""
    qkv = F.linear(layer.norm1(x), layer.qkv, layer.qkv_bias)
    q, k, v = rearrange(qkv, "row pos (three head d_head) -> three row head pos d_head", three=3, head=layer.n_heads)
    return q, k, v


def attended(
    layer: Layer,
    q: Float[Tensor, "row head query d_head"],
    keys: Float[Tensor, "row head key d_head"],
    values: Float[Tensor, "row head key d_head"],
    *,
    start: int,
    low: int,
) -> Float[Tensor, "row query head_d_head"]:
    """What all heads read; queries stand at `start` and on, keys at `low` and on."""
    seen = reachable(layer.window, start, q.shape[2], low, keys.shape[2]).to(q.device)
    z = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen, scale=layer.scale)
    return rearrange(z, "row head query d_head -> row query (head d_head)")


def reachable(window: int | None, start: int, n_queries: int, low: int, n_keys: int) -> Bool[Tensor, "query key"]:
    """Which keys each query may see: none after it, and in local layers only the last `window`."""
    query, key = torch.arange(start, start + n_queries)[:, None], torch.arange(low, low + n_keys)
    return (key <= query) & (key > query - (window or start + n_queries))
