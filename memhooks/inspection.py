"""One paragraph at a glance: is it recited, which tokens surprise, which heads and prefix tokens matter."""

from dataclasses import dataclass

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.measure.perturbation import perturb
from memhooks.measure.recitation import recitation, score_tokens
from memhooks.model.hooks import hooked
from memhooks.model.loading import HookedModel, HookPoint
from memhooks.paragraphs.paragraphs import Paragraphs


@dataclass(frozen=True)
class Inspection:
    """What `inspect_paragraph` found for one paragraph."""

    tokens: list[str]
    n_prefix: int
    recited: xr.Dataset
    continuation: str
    heads: list[tuple[str, float]]
    prefix_tokens: list[tuple[int, str, float]]


def inspect_paragraph(model: HookedModel, paragraph: Paragraphs, *, seed: int = 0, n_top: int = 5) -> Inspection:
    """Measure one paragraph.

    `heads` are those whose silencing costs the continuation most, in nats per token;
    `prefix_tokens` those whose replacement does, as (position, token, nats per token).
    """
    paragraph = paragraph.check(model).select([0])
    recited = recitation(model, paragraph, scored="all")
    effect = perturb(model, paragraph, seed=seed)["nll_rise"].values[0]
    texts = [_text(model, token) for token in paragraph.tokens[0].tolist()]
    worst = effect.argsort()[::-1][:n_top]
    return Inspection(
        tokens=texts,
        n_prefix=paragraph.n_prefix,
        recited=recited,
        continuation="".join(texts[paragraph.n_prefix :]),
        heads=_top_heads(model, paragraph, n_top),
        prefix_tokens=[(int(pos), texts[pos], float(effect[pos])) for pos in worst],
    )


def _top_heads(model: HookedModel, paragraph: Paragraphs, n_top: int) -> list[tuple[str, float]]:
    """What silencing each head alone costs: one pass per layer, in which row `h` goes without head `h`."""
    base, n_heads = _nll(model, paragraph.tokens, paragraph.n_prefix)[0], model.cfg.n_heads
    rows, each = paragraph.tokens.repeat(n_heads, 1), torch.arange(n_heads)

    def silence_own(z: Tensor, hook: HookPoint) -> Tensor:
        z = z.clone()
        z[each, :, each] = 0.0
        return z

    rises = {}
    for layer in range(model.cfg.n_layers):
        with hooked(model, [(f"blocks.{layer}.attn.hook_z", silence_own)]):
            for head, nll in enumerate(_nll(model, rows, paragraph.n_prefix)):
                rises[f"L{layer}H{head}"] = float(nll - base)
    return sorted(rises.items(), key=lambda item: -item[1])[:n_top]


def _nll(model: HookedModel, tokens: Int[Tensor, "row pos"], n_prefix: int) -> Float[Tensor, " row"]:
    (scores,) = score_tokens(model, tokens, first=n_prefix, batch_size=len(tokens))
    return scores.nll.mean(-1)


def _text(model: HookedModel, token: int) -> str:
    return str(token) if model.tokenizer is None else str(model.tokenizer.decode([token]))
