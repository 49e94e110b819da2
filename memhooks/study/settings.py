"""How much of everything a study measures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How much of everything; the defaults are the quick study of a few minutes on two cores."""

    seed: int = 0
    n_planted: int = 384  # recitation: paragraphs of set A, all of them
    n_controls: int = 200  # recitation: paragraphs of set C
    n_perturbed: int = 16  # perturbation and patching: paragraphs per condition
    n_mapped: int = 8  # those of them that are patched at every prefix position
    n_lens: int = 32
    n_ablated: int = 12
    n_cumulative: int = 3  # heads ablated together
    n_gradients: int = 32
    n_attention: int = 100
    n_swapped: int = 8  # paragraphs of each set under which parts of the forks are exchanged
    n_counted: int = 128  # paragraphs of each set whose memorized bits are counted
    n_injections: int = 2  # paragraphs written into each kind of weights, to be found again
    n_unlearned: int = 4  # paragraphs, unlearned one at a time
    n_retain: int = 12  # memorized paragraphs that hold the model meanwhile, and as many never-seen ones
    n_others: int = 16  # other memorized paragraphs, never used in training, to see whether they stay
    fraction: float = 0.001  # of the grid's weights that sparse unlearning may move
    n_steps: int = 16  # at most
    retain_weight: float = 50.0
    lr_sparse: float = 4e-3
    lr_random: float = 1e-2
    lr_all: float = 3e-5


FULL = Settings(
    n_controls=500,
    n_perturbed=48,
    n_mapped=24,
    n_lens=96,
    n_ablated=48,
    n_cumulative=6,
    n_gradients=96,
    n_attention=300,
    n_swapped=24,
    n_counted=384,
    n_injections=8,
    n_unlearned=12,
    n_others=48,
)
