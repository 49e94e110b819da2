"""The run that edits are compared with: every layer's stream, keys and values, and the scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.model.checks import check_tokens
from memhooks.model.loading import HookedModel
from memhooks.model.replay.block import attended, projected, reachable
from memhooks.model.replay.layouts import Layouts, layouts

TOGETHER = 8
"""Paragraphs whose runs a sweep holds at once; fixed, so that results are the same bit for bit."""

MOST_LOGITS = 2**24
"""Logits that are held at once (64 MB in single precision)."""

Site = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "pattern", "mlp_pre", "mlp_post"
]
Reader = Callable[[Tensor, Tensor], Tensor]
"""From the logits of the scored positions, [row scored d_vocab], and the rows' paragraphs to one entry per row."""


@dataclass(frozen=True)
class Outcome:
    """What became of the scored tokens, row by row.

    Attributes:
        nll: of each scored token, in nats.
        hits: whether it is the most likely one.
        read: what further readers made of the logits, by name.
    """

    nll: Float[Tensor, "row scored"]
    hits: Bool[Tensor, "row scored"]
    read: dict[str, Tensor] = field(default_factory=dict)

    def select(self, rows: Tensor) -> "Outcome":
        """Some of the rows, in this order."""
        return Outcome(self.nll[rows], self.hits[rows], {name: values[rows] for name, values in self.read.items()})


@dataclass(frozen=True)
class LayerRun:
    """What one layer did: its stream before, between and after attention and MLP, what they wrote and read."""

    pre: Float[Tensor, "paragraph pos d_model"]
    attn_out: Float[Tensor, "paragraph pos d_model"]
    mid: Float[Tensor, "paragraph pos d_model"]
    mlp_out: Float[Tensor, "paragraph pos d_model"]
    post: Float[Tensor, "paragraph pos d_model"]
    queries: Float[Tensor, "paragraph head pos d_head"]
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
    derived: dict[tuple[Site, int], Tensor] = field(default_factory=dict, repr=False, compare=False)
    """Activations of one layer that are computed on demand, see `activation`."""

    @property
    def final(self) -> Float[Tensor, "paragraph pos d_model"]:
        """The stream after the last layer."""
        return self.layers[-1].post

    @property
    def targets(self) -> Int[Tensor, "paragraph scored"]:
        """The scored tokens."""
        return self.tokens[:, self.first :]

    @property
    def device(self) -> torch.device:
        """Where the run's tensors are."""
        return self.tokens.device

    @cached_property
    def outcome(self) -> Outcome:
        """Scores without any edit; unembedded once, however many sweeps start from this run."""
        everyone = torch.arange(len(self.tokens), device=self.device)
        return score(self, self.final[:, self.first - 1 : -1], everyone, begin=self.first - 1)

    def entering(self, layer: int) -> Float[Tensor, "paragraph pos d_model"]:
        """The stream that enters a layer; after the last one for `n_layers`."""
        return self.final if layer == len(self.layers) else self.layers[layer].pre


@torch.no_grad()
def clean_run(model: HookedModel, tokens: Int[Tensor, "paragraph pos"], *, first: int) -> CleanRun:
    """Run the model once and keep what replays need: about `n_layers * 9 d_model` numbers a token."""
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
        runs.append(LayerRun(x, attn_out, mid, mlp_out, mid + mlp_out, q, keys, values, z))
        x = runs[-1].post
    return CleanRun(tokens, first, weights, tuple(runs))


@torch.no_grad()
def score(
    run: CleanRun,
    stream: Float[Tensor, "row pos d_model"],
    paragraph: Int[Tensor, " row"],
    *,
    begin: int,
    readers: Mapping[str, Reader] | None = None,
) -> Outcome:
    """Unembed the stream of the positions from `begin` on and compare with the tokens that follow them.

    `readers` are given these logits; those that want all scored positions need a stream that covers them.
    """
    targets = run.tokens[paragraph][:, begin + 1 : begin + 1 + stream.shape[1]]
    rows = max(1, MOST_LOGITS // max(1, stream.shape[1] * run.weights.unembed.shape[0]))
    parts = zip(stream.split(rows), targets.split(rows), paragraph.split(rows), strict=True)
    return joined([_score(run.weights, *part, readers or {}) for part in parts])


def _score(
    weights: Layouts,
    stream: Float[Tensor, "row pos d_model"],
    targets: Int[Tensor, "row pos"],
    paragraph: Int[Tensor, " row"],
    readers: Mapping[str, Reader],
) -> Outcome:
    logits = unembedded(weights, stream)
    nll = logits.logsumexp(-1) - logits.gather(-1, targets[..., None])[..., 0]
    read = {name: reader(logits, paragraph) for name, reader in readers.items()}
    return Outcome(nll, logits.argmax(-1) == targets, read)


def unembedded(weights: Layouts, stream: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_vocab"]:
    """Logits of these positions; a sum over the vocabulary needs more than half precision."""
    logits = F.linear(weights.norm(stream), weights.unembed, weights.unembed_bias)
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def joined(outcomes: "list[Outcome]") -> Outcome:
    """The rows of several, in order."""
    return Outcome(
        torch.cat([one.nll for one in outcomes]),
        torch.cat([one.hits for one in outcomes]),
        {name: torch.cat([one.read[name] for one in outcomes]) for name in outcomes[0].read},
    )


def on_cpu(outcome: Outcome) -> Outcome:
    """The same in main memory."""
    return Outcome(outcome.nll.cpu(), outcome.hits.cpu(), {name: one.cpu() for name, one in outcome.read.items()})


@torch.no_grad()
def activation(run: CleanRun, site: Site, layer: int) -> Tensor:
    """What the run has at a site of one layer, [paragraph pos ...] as TransformerLens gives it.

    The stream and what is written to it: [.. d_model]; q, k, v, z: [.. head d_head]; mlp_pre and
    mlp_post: [.. d_mlp]; pattern: [paragraph head query key].
    """
    own, weights = run.layers[layer], run.weights.layers[layer]
    match site:
        case "q":
            return own.queries.transpose(1, 2)
        case "k":
            return own.keys.transpose(1, 2)
        case "v":
            return own.values.transpose(1, 2)
        case "z":
            return own.z.unflatten(-1, (weights.n_heads, -1))
        case "pattern" | "mlp_pre" | "mlp_post":
            for known in [key for key in run.derived if key[1] != layer]:
                del run.derived[known]  # sweeps go layer by layer, and all layers together would be large
            if (site, layer) not in run.derived:
                run.derived[site, layer] = _derived(run, site, layer)
            return run.derived[site, layer]
        case _:
            return getattr(own, site.removeprefix("resid_"))


def _derived(run: CleanRun, site: Site, layer: int) -> Tensor:
    own, weights = run.layers[layer], run.weights.layers[layer]
    if site == "pattern":
        n_pos = run.tokens.shape[1]
        scores = own.queries @ own.keys.transpose(-1, -2) * weights.scale
        seen = reachable(weights.window, 0, n_pos, 0, n_pos).to(run.device)
        return scores.masked_fill(~seen, -torch.inf).softmax(-1)
    hidden = weights.mlp_hidden(own.mid)
    return hidden if site == "mlp_pre" else weights.mlp_active(hidden)
