"""The run that edits are compared with: every layer's stream, keys and values, and the scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.model.checks import check_tokens
from memhooks.model.loading import HookedModel
from memhooks.model.replay.block import attended, projected, reachable
from memhooks.model.replay.layouts import Layouts, layouts
from memhooks.model.replay.scoring import Outcome, Reader, Scored, compared

Site = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "pattern", "mlp_pre", "mlp_post"
]


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

    @property
    def outcome(self) -> Outcome:
        """Scores without any edit."""
        return self._compared[0]

    @property
    def scored(self) -> Scored:
        """The normed stream and the logits' logsumexp at every scored position."""
        return self._compared[1]

    @cached_property
    def _compared(self) -> tuple[Outcome, Scored]:
        """Unembedded once, however many sweeps start from this run."""
        everyone = torch.arange(len(self.tokens), device=self.device)
        return compared(self.weights, self.final[:, self.first - 1 : -1], self.targets, everyone)

    def read(self, readers: Mapping[str, Reader]) -> Outcome:
        """Scores without any edit, and what the readers find."""
        own = self.outcome
        return Outcome(own.nll, own.hits, {name: reader(self.scored) for name, reader in readers.items()})

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


def score(
    run: CleanRun,
    stream: Float[Tensor, "row pos d_model"],
    paragraph: Int[Tensor, " row"],
    *,
    begin: int,
    readers: Mapping[str, Reader] | None = None,
) -> Outcome:
    """Compare what the stream of the positions from `begin` on predicts with the tokens that follow them.

    `readers` see these positions; those that want all scored ones need a stream that covers them.
    """
    targets = run.tokens[paragraph][:, begin + 1 : begin + 1 + stream.shape[1]]
    outcome, rows = compared(run.weights, stream, targets, paragraph)
    return Outcome(outcome.nll, outcome.hits, {name: reader(rows) for name, reader in (readers or {}).items()})


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
