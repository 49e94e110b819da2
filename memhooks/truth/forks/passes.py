"""Scores all sets' rows under swapped weights in one batch, from the first layer on that a swap touches.

1. One pass of the untouched model keeps the stream that enters every layer.
2. After a swap only the layers from the first touched one on run again; what lies below is the same.
3. In the last layer only positions that predict a continuation token are computed, and they alone are unembedded.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.measure.recitation import exact_match
from memhooks.model.loading import HookedModel
from memhooks.model.replay.block import run_block
from memhooks.model.replay.layouts import layouts
from memhooks.model.replay.scoring import compared
from memhooks.model.watched import check_eval, refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.forks.parts import Part
from memhooks.truth.forks.swapped import first_touched, swapped


class Recited(NamedTuple):
    """How well each row is recited: NLL in nats per token, and tokens before the first miss."""

    nll: Float[np.ndarray, " row"]
    em: Int[np.ndarray, " row"]


class Passes:
    """Many swaps of one model, measured on the same rows."""

    def __init__(self, model: HookedModel, other: HookedModel, rows: Paragraphs) -> None:
        """Run the untouched model once.

        Raises:
            InputError: rows that it cannot read, hooks on it, or train mode.
        """
        rows.check(model)
        for one in (model, other):
            refuse_hooks(one)
            check_eval(one)
        self.model, self.other, self.rows = model, other, rows
        self.entering: list[Tensor] = []
        self.clean = self._scored(-1)

    def under(self, which: Part | WeightMask) -> Recited:
        """The rows under the model with these weights of the other."""
        start = first_touched(self.model, which)
        with swapped(self.model, self.other, which):
            return self._scored(start)

    def now(self) -> Recited:
        """The rows under the model as it is now, from the embedding on."""
        return self._scored(-1)

    @torch.no_grad()
    def _scored(self, start: int) -> Recited:
        weights, first = layouts(self.model), self.rows.n_prefix
        tokens, keep = self.rows.tokens.to(weights.embed.device), not self.entering
        n_layers = len(weights.layers)
        stream = weights.positions[: tokens.shape[1]] + F.embedding(tokens, weights.embed) if start < 0 else None
        stream = self.entering[start] if stream is None else stream
        nothing = (stream[:, None, :0], stream[:, None, :0])
        for layer in range(max(start, 0), n_layers):
            if keep:
                self.entering.append(stream)
            cut = first - 1 if layer == n_layers - 1 else 0
            stream, _ = run_block(weights.layers[layer], stream, nothing, start=0, low=0, cut=cut)
        if keep:
            self.entering.append(stream)
        outcome, _ = compared(weights, stream[:, :-1], tokens[:, first:], torch.arange(len(tokens)))
        return Recited(outcome.nll.mean(-1).double().cpu().numpy(), exact_match(outcome.hits).cpu().numpy())
