"""CircuitsVis' view of one layer's attention, kept off the network and safe for any text."""

from dataclasses import dataclass
from importlib.util import find_spec

import torch

from memhooks.errors import InputError
from memhooks.model.hooks import recorded
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.report.page import safe_json

_STAND_IN = "memhooks-token-{}-"


@dataclass(frozen=True)
class AttentionView:
    """HTML that a notebook shows as the last line of a cell, and that a page can hold; it asks nothing of the network.

    CircuitsVis' own object asks a web site whether there is a network, and then loads its script from one.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html


@torch.no_grad()
def attention_view(model: HookedModel, paragraph: Paragraphs, *, layer: int) -> AttentionView:
    """Where each head of a layer looks in one paragraph: patterns to click on, by CircuitsVis (Cooney & Nanda, 2022).

    Args:
        model: a hooked GPT-Neo.
        paragraph: its first row is shown.
        layer: the block, from 0.

    Raises:
        InputError: CircuitsVis is not installed, or the model has no such layer.
    """
    if find_spec("circuitsvis") is None:
        raise InputError("attention_view needs circuitsvis: pip install 'memhooks[notebook]'")
    if not 0 <= layer < model.cfg.n_layers:
        raise InputError(f"layer must lie in 0..{model.cfg.n_layers - 1}, got {layer}")
    from circuitsvis.utils.render import render_local

    tokens = paragraph.check(model).select([0]).tokens
    name = f"blocks.{layer}.attn.hook_pattern"
    with recorded(model, name) as store:
        model(tokens.to(model.cfg.device))
    pattern = store[name][0].float().cpu()
    # CircuitsVis writes tokens into a script as they are, where `</script>` would end it: they go in afterwards.
    html = render_local(
        "AttentionHeads",
        attention=pattern,
        tokens=[_STAND_IN.format(place) for place in range(tokens.shape[1])],
        attentionHeadNames=[f"L{layer}H{head}" for head in range(model.cfg.n_heads)],
        maskUpperTri=True,
    )
    for place, token in enumerate(tokens[0].tolist()):
        text = str(token) if model.tokenizer is None else str(model.tokenizer.decode([token]))
        html = html.replace(f'"{_STAND_IN.format(place)}"', str(safe_json(text)))
    return AttentionView(html)
