"""One paragraph at a glance: is it recited, which tokens surprise, which heads and prefix tokens matter."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from memhooks.localize.each_part import silence_heads
from memhooks.measure.perturbation import perturb
from memhooks.measure.recitation import recitation
from memhooks.model.loading import HookedModel
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

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> found = memhooks.inspect_paragraph(model, memhooks.load_planted("A", at_least=128).select(slice(0, 1)))
        >>> found.continuation[:31]
        ' refused, then the Constitution'
        >>> found.heads[0][0], round(found.heads[0][1], 1)
        ('L0H5', 1.8)
        >>> found.prefix_tokens[0][:2]
        (49, ' be')
    """
    paragraph = paragraph.check(model).select([0])
    recited = recitation(model, paragraph, scored="all")
    effect = perturb(model, paragraph, seed=seed)["nll_rise"].values[0, 0]
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
    rises = silence_heads(model, paragraph)["nll_rise"][0]
    heads = [(f"L{layer}H{head}", float(rise)) for (layer, head), rise in np.ndenumerate(rises.values)]
    return sorted(heads, key=lambda item: -item[1])[:n_top]


def _text(model: HookedModel, token: int) -> str:
    return str(token) if model.tokenizer is None else str(model.tokenizer.decode([token]))
