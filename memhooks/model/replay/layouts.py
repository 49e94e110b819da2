"""A model's weights as a replay wants them: contiguous, query, key and value in one matrix, prepared once.

TransformerLens lays its weights out anew in every forward pass. These copies are made once
and made again when a weight has changed.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel, window_of
from memhooks.model.provenance import weights_state


@dataclass(frozen=True)
class Norm:
    """A layer norm, folded (`weight` is None) or not."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Centre and scale each position."""
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Layer:
    """One block's weights; `window` is None where attention is global."""

    norm1: Norm
    qkv: Float[Tensor, "three_head_d_head d_model"]
    qkv_bias: Float[Tensor, " three_head_d_head"]
    out: Float[Tensor, "d_model head_d_head"]
    out_bias: Float[Tensor, " d_model"]
    norm2: Norm
    mlp_in: Float[Tensor, "d_mlp d_model"]
    mlp_in_bias: Float[Tensor, " d_mlp"]
    mlp_out: Float[Tensor, "d_model d_mlp"]
    mlp_out_bias: Float[Tensor, " d_model"]
    window: int | None
    n_heads: int
    scale: float
    approximate: str

    def mlp(self, mid: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What the MLP writes, given the stream between attention and MLP."""
        return self.mlp_written(self.mlp_active(self.mlp_hidden(mid)))

    def mlp_hidden(self, mid: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_mlp"]:
        """Hidden units before the activation function (mlp pre)."""
        return F.linear(self.norm2(mid), self.mlp_in, self.mlp_in_bias)

    def mlp_active(self, hidden: Float[Tensor, "*rows d_mlp"]) -> Float[Tensor, "*rows d_mlp"]:
        """Hidden units after it (mlp post)."""
        return F.gelu(hidden, approximate=self.approximate)

    def mlp_written(self, active: Float[Tensor, "*rows d_mlp"]) -> Float[Tensor, "*rows d_model"]:
        """What the hidden units write to the stream."""
        return F.linear(active, self.mlp_out, self.mlp_out_bias)


@dataclass(frozen=True)
class Layouts:
    """All weights of a model."""

    layers: tuple[Layer, ...]
    embed: Float[Tensor, "d_vocab d_model"]
    positions: Float[Tensor, "n_ctx d_model"]
    norm: Norm
    unembed: Float[Tensor, "d_vocab d_model"]
    unembed_bias: Float[Tensor, " d_vocab"]


_KNOWN: WeakKeyDictionary[HookedModel, tuple[tuple, Layouts]] = WeakKeyDictionary()


def layouts(model: HookedModel) -> Layouts:
    """The model's weights, prepared; from memory, unless one was edited meanwhile (in place, but not by `.data`)."""
    state = weights_state(model)
    if (known := _KNOWN.get(model)) is None or known[0] != state:
        with torch.inference_mode(mode=False), torch.no_grad():  # they outlive the block, and gradients go through them
            _KNOWN[model] = state, _prepared(model)
    return _KNOWN[model][1]


def _prepared(model: HookedModel) -> Layouts:
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    return Layouts(
        layers=tuple(_layer(model, weights, layer) for layer in range(model.cfg.n_layers)),
        embed=weights["embed.W_E"],
        positions=weights["pos_embed.W_pos"],
        norm=_norm(model, weights, "ln_final"),
        unembed=weights["unembed.W_U"].T.contiguous(),
        unembed_bias=weights["unembed.b_U"],
    )


def _layer(model: HookedModel, weights: dict[str, Tensor], layer: int) -> Layer:
    own = {name: weights[f"blocks.{layer}.{name}"] for name in _NAMES}
    together = torch.stack([own[f"attn.W_{one}"] for one in "QKV"])
    return Layer(
        norm1=_norm(model, weights, f"blocks.{layer}.ln1"),
        qkv=rearrange(together, "three head d_model d_head -> (three head d_head) d_model").contiguous(),
        qkv_bias=torch.stack([own[f"attn.b_{one}"] for one in "QKV"]).flatten(),
        out=rearrange(own["attn.W_O"], "head d_head d_model -> d_model (head d_head)").contiguous(),
        out_bias=own["attn.b_O"],
        norm2=_norm(model, weights, f"blocks.{layer}.ln2"),
        mlp_in=own["mlp.W_in"].T.contiguous(),
        mlp_in_bias=own["mlp.b_in"],
        mlp_out=own["mlp.W_out"].T.contiguous(),
        mlp_out_bias=own["mlp.b_out"],
        window=window_of(model, layer),
        n_heads=model.cfg.n_heads,
        scale=1 / model.cfg.attn_scale if model.cfg.use_attn_scale else 1.0,
        approximate=_gelu(model),
    )


def _gelu(model: HookedModel) -> str:
    """Which GELU torch must compute.

    Raises:
        InputError: the model has another activation function.
    """
    known = {"gelu_new": "tanh", "gelu_fast": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}
    if model.cfg.act_fn not in known:
        raise InputError(f"replayed sweeps know the activations {', '.join(known)}; this model has {model.cfg.act_fn}")
    return known[model.cfg.act_fn]


_NAMES = (
    *(f"attn.{kind}_{one}" for kind in "Wb" for one in "QKVO"),
    *(f"mlp.{kind}_{one}" for kind in "Wb" for one in ("in", "out")),
)


def _norm(model: HookedModel, weights: dict[str, Tensor], name: str) -> Norm:
    return Norm(weights.get(f"{name}.w"), weights.get(f"{name}.b"), model.cfg.eps)
