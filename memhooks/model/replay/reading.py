"""Rows that are read piece by piece: keys and values of what was read stay, and only the last positions are scored.

Each piece costs what its own tokens cost. In the last layer the positions that nobody scores lend their keys and
values alone, which spares nearly that whole layer when a prefix is read for its next token.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.model.decoding import at_least_float32
from memhooks.model.loading import HookedModel
from memhooks.model.replay.block import KeysValues, run_block
from memhooks.model.replay.layouts import Layouts, layouts


class Reading:
    """Rows of the same length, and each layer's keys and values of them.

    Args:
        weights: the model's, as `layouts` prepares them; hooks on the model do not run.
        past: keys and values by layer, each [row head pos d_head]; none before anything is read.
    """

    def __init__(self, weights: Layouts, past: Sequence[KeysValues] = ()) -> None:
        self._weights = weights
        self._past = list(past)

    @classmethod
    def of(cls, model: HookedModel) -> "Reading":
        """Nothing read yet."""
        return cls(layouts(model))

    @property
    def n_read(self) -> int:
        """Tokens read so far of each row."""
        return self._past[0][0].shape[2] if self._past else 0

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "row pos"], *, last: int) -> Float[Tensor, "row last d_vocab"]:
        """Read these tokens on every row; the logits after each of the `last` ones, at least in float32."""
        weights, start = self._weights, self.n_read
        x = F.embedding(tokens, weights.embed) + weights.positions[start : start + tokens.shape[1]]
        for at, layer in enumerate(weights.layers):
            nothing = x.new_zeros(0), x.new_zeros(0)
            past = self._past[at] if start else nothing
            cut = tokens.shape[1] - last if at == len(weights.layers) - 1 else 0
            x, known = run_block(layer, x, past, start=start, low=0, cut=cut)
            self._past[at : at + 1] = [known]
        return at_least_float32(F.linear(weights.norm(x), weights.unembed, weights.unembed_bias))

    def select(self, rows: Bool[Tensor, " row"]) -> "Reading":
        """Some of the rows."""
        return Reading(self._weights, [(keys[rows], values[rows]) for keys, values in self._past])


def beside(readings: Sequence[Reading]) -> Reading:
    """The rows of several readings of one model, equally far read."""
    pasts = zip(*(one._past for one in readings), strict=True)
    return Reading(
        readings[0]._weights,
        [(torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer])) for layer in pasts],
    )
