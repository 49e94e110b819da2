"""How much was computed, how much full passes would compute, and how much an edit can change and a score can see.

Operations are multiplications and additions of matrix products: the queries, keys, values and
outputs of attention, its scores and sums, the MLP, and the unembedding. All else is small. The
floor counts whole positions: in the first layer after an edit the queries, keys and values of the
positions behind it are still clean, and could be spared.
"""

from dataclasses import dataclass

import torch

from memhooks.model.replay.layouts import Layer, Layouts

TOGETHER = 8
"""Paragraphs whose runs a sweep holds at once; fixed, so that results are the same bit for bit."""


@dataclass
class Work:
    """Sums over a sweep.

    Attributes:
        block_positions: positions times blocks that ran.
        naive_block_positions: those of one full forward pass per edit.
        floor_block_positions: those that an edit can change and a scored token can see.
        flops: operations that ran.
        naive_flops: operations of one full forward pass per edit, logits of all positions included.
        floor_flops: operations on what an edit can change and a scored token can see.
        rows_per_batch: rows of the largest batch that was allowed at the end.
    """

    block_positions: int = 0
    naive_block_positions: int = 0
    floor_block_positions: int = 0
    flops: int = 0
    naive_flops: int = 0
    floor_flops: int = 0
    rows_per_batch: int = 0

    def about(self) -> dict[str, object]:
        """For a result's attributes."""
        return {
            "block_positions_run": self.block_positions,
            "block_positions_of_full_passes": self.naive_block_positions,
            "block_positions_floor": self.floor_block_positions,
            "flops_run": self.flops,
            "flops_of_full_passes": self.naive_flops,
            "flops_floor": self.floor_flops,
            "rows_per_batch": self.rows_per_batch,
            "paragraphs_together": TOGETHER,
            "threads": torch.get_num_threads(),  # with the same chunks and threads results are equal bit for bit
        }

    def add_full_passes(self, weights: Layouts, n_rows: int, n_pos: int) -> None:
        """What one forward pass per edit would have cost."""
        self.naive_block_positions += n_rows * n_pos * len(weights.layers)
        blocks = sum(block_flops(layer, n_pos, n_pos, attention_pairs(n_pos, n_pos)) for layer in weights.layers)
        self.naive_flops += n_rows * (blocks + unembed_flops(weights, n_pos))

    def add_own_layer(self, layer: Layer, n_positions: int) -> None:
        """The rest of the edited layer itself, on the positions that were touched."""
        flops = mlp_flops(layer, n_positions)
        self.flops += flops
        self.floor_flops += flops


def block_flops(layer: Layer, n_in: int, n_out: int, n_pairs: int) -> int:
    """Keys and values at `n_in` positions, all else at `n_out`, which attend to `n_pairs` positions in all."""
    d_model = layer.qkv.shape[1]
    return 4 * d_model**2 * (n_in + n_out) + mlp_flops(layer, n_out) + 4 * d_model * n_pairs


def mlp_flops(layer: Layer, n_positions: int) -> int:
    """Both matrices of an MLP."""
    return 4 * layer.mlp_in.numel() * n_positions


def unembed_flops(weights: Layouts, n_positions: int) -> int:
    """Logits of some positions."""
    return 2 * weights.unembed.numel() * n_positions


def attention_pairs(n_queries: int, n_keys: int, window: int | None = None) -> int:
    """Pairs of a query and a key it may see, where the queries are the last of the positions."""
    most = n_keys if window is None else window
    return sum(min(most, n_keys - n_queries + number + 1) for number in range(n_queries))
