"""Which parts write the recited token? Direct logit attribution (Elhage et al., 2021, transformer-circuits.pub).

1. The final stream is a sum: embeddings, and what every head, bias and MLP added to it.
2. With the final norm's scale frozen at the clean run's value, the logit of the true token,
   minus that of what it is held against, is linear in that sum.
3. So the difference splits exactly into one number per part.

Direct means past all later blocks: a head that only tells another head what to do writes
nothing here. Silence it (`silence_heads`) to see what is lost with it in any way.
"""

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.model.replay.clean_run import CleanRun, clean_run
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

Against = Literal["mean", "runner_up"]
Among = Literal["all", "heads"]
_AGAINST = {"mean": "the mean logit of the vocabulary", "runner_up": "the logit of the strongest other token"}
_AXES = {
    "heads": ("paragraph", "layer", "head"),
    "attention_bias": ("paragraph", "layer"),
    "mlp": ("paragraph", "layer"),
    "embedding": ("paragraph",),
    "position": ("paragraph",),
    "norm_and_unembed_bias": ("paragraph",),
    "total": ("paragraph",),
}


def direct_effects(
    model: HookedModel, paragraphs: Paragraphs, *, against: Against = "mean", batch_size: int = 16
) -> xr.Dataset:
    """What each part of the model adds directly to the logit of the true continuation token.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: memorized ones, or a control.
        against: what the logit is held against: the mean over the vocabulary, or the strongest other token.
        batch_size: paragraphs per pass.

    Returns:
        Dataset in logits, averaged over the continuation: `heads` over `paragraph`, `layer`, `head`;
        `attention_bias` and `mlp` (its bias included) over `paragraph`, `layer`; `embedding`, `position`,
        `norm_and_unembed_bias` and `total` over `paragraph`. `total` is the difference of the model's own logits;
        all others sum to it (in half precision up to its rounding).

    Raises:
        InputError: another `against`, a batch size below one, paragraphs that the model cannot read, or hooks on
            the model.
    """
    paragraphs.check(model)
    if against not in get_args(Against):
        raise InputError(f"against must be one of {', '.join(get_args(Against))}, got {against!r}")
    check_batch_size(batch_size)
    refuse_hooks(model)
    batches = tracked(paragraphs.tokens.split(batch_size), "splitting logits")
    found = [_split(clean_run(model, tokens, first=paragraphs.n_prefix), against) for tokens in batches]
    labels = {"paragraph": paragraphs.ids, "layer": range(model.cfg.n_layers), "head": range(model.cfg.n_heads)}
    unit = f"logits per continuation token, against {_AGAINST[against]}; 0 = no direct effect"
    about = {"against": against, "n_prefix": paragraphs.n_prefix}
    return labelled(
        provenance(model, paragraphs.tokens) | about,
        **{
            name: Variable(torch.cat([one[name] for one in found]), axes, unit, {axis: labels[axis] for axis in axes})
            for name, axes in _AXES.items()
        },
    )


def by_part(result: xr.Dataset) -> dict[str, np.ndarray]:
    """Each part's effect on every paragraph, in logits, by name, heads first (`L0H5`, `MLP 3`); all sum to `total`."""
    parts = {
        f"L{layer}H{head}": result["heads"].sel(layer=layer, head=head).values
        for layer in result["layer"].values
        for head in result["head"].values
    }
    for name, kind in (("MLP", "mlp"), ("attention bias", "attention_bias")):
        parts |= {f"{name} {layer}": result[kind].sel(layer=layer).values for layer in result["layer"].values}
    rest = {"embedding": "embedding", "position": "position", "final biases": "norm_and_unembed_bias"}
    return parts | {name: result[kind].values for name, kind in rest.items()}


def strongest(result: xr.Dataset, n: int = 5, *, among: Among = "all") -> list[dict[str, str | float]]:
    """The `n` parts (or heads) with the largest direct effects, largest first.

    Each row has `part` (such as `L0H5` or `MLP 3`), `effect` (mean over paragraphs, in logits) and `size` (mean
    of its absolute value, by which the rows are sorted).

    Raises:
        InputError: `n` is below one, or `among` is neither all nor heads.
    """
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    if among not in get_args(Among):
        raise InputError(f"among must be one of {', '.join(get_args(Among))}, got {among!r}")
    parts = list(by_part(result).items())
    rows: list[dict[str, str | float]] = [
        {"part": name, "effect": float(values.mean()), "size": float(np.abs(values).mean())}
        for name, values in (parts if among == "all" else parts[: result["heads"][0].size])  # heads come first
    ]
    return sorted(rows, key=lambda row: row["size"], reverse=True)[:n]


def _split(run: CleanRun, against: Against) -> dict[str, Tensor]:
    """The parts of one batch, averaged over the scored tokens."""
    scored = slice(run.first - 1, -1)
    total, difference, bias = _difference(run, against)
    onto, bias = _through_norm(run, difference, bias)
    layers = list(zip(run.layers, run.weights.layers, strict=True))
    parts = {
        "heads": torch.stack([_heads(onto, layer.z[:, scored], own.out, own.n_heads) for layer, own in layers], 1),
        "attention_bias": torch.stack([_along(onto, own.out_bias) for _, own in layers], 1),
        "mlp": torch.stack([_along(onto, layer.mlp_out[:, scored]) for layer, _ in layers], 1),
        "embedding": _along(onto, F.embedding(run.tokens[:, scored], run.weights.embed)),
        "position": _along(onto, run.weights.positions[: run.tokens.shape[1]][scored]),
        "norm_and_unembed_bias": bias.mean(-1),
        "total": total.mean(-1),
    }
    return {name: part.cpu() for name, part in parts.items()}


def _difference(
    run: CleanRun, against: Against
) -> tuple[
    Float[Tensor, "paragraph scored"], Float[Tensor, "paragraph scored d_model"], Float[Tensor, "paragraph scored"]
]:
    """The difference of the model's own logits, and that of the rows and biases of the unembedding behind it."""
    weights, true = run.weights, run.targets
    rows, biases = _wide(weights.unembed), _wide(weights.unembed_bias)
    stream = run.final[:, run.first - 1 : -1]
    logits = _wide(F.linear(weights.norm(stream), weights.unembed, weights.unembed_bias))
    of_true = logits.gather(-1, true[..., None])[..., 0]
    if against == "mean":
        return of_true - logits.mean(-1), rows[true] - rows.mean(0), biases[true] - biases.mean()
    other = logits.scatter(-1, true[..., None], -torch.inf).argmax(-1)
    of_other = logits.gather(-1, other[..., None])[..., 0]
    return of_true - of_other, rows[true] - rows[other], biases[true] - biases[other]


def _through_norm(
    run: CleanRun, difference: Float[Tensor, "paragraph scored d_model"], bias: Float[Tensor, "paragraph scored"]
) -> tuple[Float[Tensor, "paragraph scored d_model"], Float[Tensor, "paragraph scored"]]:
    """The direction in the stream that raises the difference, scale frozen, and what biases add to it."""
    norm = run.weights.norm
    scale = _wide(run.final[:, run.first - 1 : -1]).var(-1, correction=0, keepdim=True).add(norm.eps).sqrt()
    if norm.bias is not None:
        bias = bias + difference @ _wide(norm.bias)
    if norm.weight is not None:
        difference = difference * _wide(norm.weight)
    # To centre what is read or the direction it is read along is the same, and the direction is one for all parts.
    return (difference - difference.mean(-1, keepdim=True)) / scale, bias


def _heads(
    onto: Float[Tensor, "paragraph scored d_model"],
    z: Float[Tensor, "paragraph scored head_d_head"],
    out: Float[Tensor, "d_model head_d_head"],
    n_heads: int,
) -> Float[Tensor, "paragraph {n_heads}"]:
    effects = (onto @ _wide(out)) * _wide(z)
    return reduce(effects, "paragraph scored (head d_head) -> paragraph head", "sum", head=n_heads) / z.shape[1]


def _along(
    onto: Float[Tensor, "paragraph scored d_model"], written: Float[Tensor, "... d_model"]
) -> Float[Tensor, " paragraph"]:
    return (onto * _wide(written)).sum(-1).mean(-1)


def _wide(tensor: Tensor) -> Tensor:
    """At least float32, since halves lose what is small beside the stream."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
