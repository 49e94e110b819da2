"""The models and rows of the sweeps' benchmarks, and how much of each sweep is run."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from benchmarks.floor import Device, matrix_rate, random_model
from memhooks.model.loading import HookedModel, load_model
from memhooks.organism.paragraphs import load_controls, load_planted
from memhooks.paragraphs.paragraphs import Paragraphs

Shape = Literal["125M", "organism"]
N_PREFIX, LENGTH = 50, 100


@dataclass(frozen=True)
class Size:
    """How much is run; the rest is scaled.

    Attributes:
        n_cells: random cells of TransformerLens's loop.
        every_layer: one layer in so many, where a row says so.
        every_head: one head in so many, the same.
        n_ablated: paragraphs of the ablation.
        n_perturbed: paragraphs of the perturbation.
        n_decoded: positions that are decoded at batch 1.
        n_pairs: pairs of the attribution.
    """

    n_cells: int
    every_layer: int
    every_head: int
    n_ablated: int
    n_perturbed: int
    n_decoded: int
    n_pairs: int


SIZES: dict[Shape, Size] = {
    "125M": Size(n_cells=40, every_layer=3, every_head=2, n_ablated=4, n_perturbed=2, n_decoded=3, n_pairs=16),
    "organism": Size(n_cells=80, every_layer=1, every_head=1, n_ablated=16, n_perturbed=16, n_decoded=40, n_pairs=16),
}
QUICK = Size(n_cells=3, every_layer=3, every_head=2, n_ablated=2, n_perturbed=1, n_decoded=1, n_pairs=2)


@dataclass(frozen=True)
class Setting:
    """A model with paragraphs that it recites (or random ones) and others that it does not."""

    model: HookedModel
    shape: Shape
    size: Size
    recited: Paragraphs
    control: Paragraphs
    device: Device
    dtype: torch.dtype
    quick: bool

    def rate(self) -> float:
        """The machine's matrix rate."""
        return matrix_rate(self.device, self.dtype)

    @property
    def name(self) -> str:
        """For tables."""
        cfg = self.model.cfg
        what = "random weights" if self.shape == "125M" else "organism"
        return f"{what}, {cfg.n_layers} layers, {cfg.n_heads} heads, d_model {cfg.d_model}, d_vocab {cfg.d_vocab}"

    def every(self, n_scaled: int, step: int) -> list[int]:
        """One in `step` of so many layers or heads, from the middle of the first `step` on."""
        return list(range(min(step // 2, n_scaled - 1), n_scaled, step))


def setting(
    shape: Shape, *, device: Device = "cpu", dtype: torch.dtype = torch.float32, quick: bool = False
) -> Setting:
    """Load or make the model and its rows."""
    if shape == "organism":
        recited, control = load_planted("A", at_least=64), load_controls("prose")
        model = load_model("organism", device=device, dtype=dtype)
    else:
        sizes = (4, 128, 500) if quick else (12, 768, 50257)
        model = random_model(*sizes, device=device, dtype=dtype)
        generator = torch.Generator().manual_seed(0)
        recited, control = (
            Paragraphs(torch.randint(model.cfg.d_vocab, (50, LENGTH), generator=generator), N_PREFIX) for _ in range(2)
        )
    return Setting(model, shape, QUICK if quick else SIZES[shape], recited, control, device, dtype, quick)


def one_token_differs(paragraphs: Paragraphs, model: HookedModel, position: int = 25) -> Paragraphs:
    """The same with the next token id at one position."""
    tokens = paragraphs.tokens.clone()
    tokens[:, position] = (tokens[:, position] + 1) % model.cfg.d_vocab
    return replace(paragraphs, tokens=tokens)
