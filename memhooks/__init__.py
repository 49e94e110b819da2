"""Where does a language model keep a paragraph that it can recite, and can we remove just that?

The public names, in pipeline order. They are imported on first use, so that the
command line can show its help without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memhooks.errors import InputError
    from memhooks.inspection import inspect_paragraph
    from memhooks.localize.ablation import ablation_table
    from memhooks.localize.attention import rare_token_attention
    from memhooks.localize.attribution import weight_gradients, weight_scores
    from memhooks.localize.heads import silence_heads
    from memhooks.localize.masks.matched_random import matched_random_weights
    from memhooks.localize.masks.top import top_weights
    from memhooks.localize.masks.weight_mask import WeightMask, frozen_outside
    from memhooks.localize.patching import patch_positions
    from memhooks.measure.intervals import bootstrap_mean
    from memhooks.measure.perturbation import perturb
    from memhooks.measure.recitation import recitation
    from memhooks.model.ablated import ablated
    from memhooks.model.audit import audit
    from memhooks.model.components import Component, components
    from memhooks.model.decoding import greedy_continuation
    from memhooks.model.export import export_model
    from memhooks.model.hook_table import hook_table
    from memhooks.model.hooks import hooked, recorded
    from memhooks.model.loading import load_model
    from memhooks.model.means import activation_means, load_means
    from memhooks.model.patched import patched
    from memhooks.organism.paragraphs import load_controls, load_natural, load_planted, load_unigram_counts
    from memhooks.paragraphs.counts import unigram_counts
    from memhooks.paragraphs.duplicates import duplicates, overlap
    from memhooks.paragraphs.files import load_paragraphs, save_paragraphs
    from memhooks.paragraphs.filters import filtered
    from memhooks.paragraphs.matching import matched_pairs
    from memhooks.paragraphs.paragraphs import Paragraphs
    from memhooks.paragraphs.rarity import rarity_ranks
    from memhooks.paragraphs.splits import clusters, split
    from memhooks.study import Study
    from memhooks.unlearn.evaluation import evaluate
    from memhooks.unlearn.unlearning import restored, unlearning_steps

_HOMES = {
    "errors": ("InputError",),
    "model.loading": ("load_model",),
    "model.export": ("export_model",),
    "model.components": ("Component", "components"),
    "model.hooks": ("hooked", "recorded"),
    "model.means": ("activation_means", "load_means"),
    "model.patched": ("patched",),
    "model.ablated": ("ablated",),
    "model.hook_table": ("hook_table",),
    "model.audit": ("audit",),
    "model.decoding": ("greedy_continuation",),
    "paragraphs.paragraphs": ("Paragraphs",),
    "paragraphs.files": ("load_paragraphs", "save_paragraphs"),
    "paragraphs.filters": ("filtered",),
    "paragraphs.duplicates": ("duplicates", "overlap"),
    "paragraphs.splits": ("clusters", "split"),
    "paragraphs.matching": ("matched_pairs",),
    "paragraphs.rarity": ("rarity_ranks",),
    "paragraphs.counts": ("unigram_counts",),
    "measure.recitation": ("recitation",),
    "measure.perturbation": ("perturb",),
    "measure.intervals": ("bootstrap_mean",),
    "localize.attribution": ("weight_gradients", "weight_scores"),
    "localize.attention": ("rare_token_attention",),
    "localize.patching": ("patch_positions",),
    "localize.ablation": ("ablation_table",),
    "localize.heads": ("silence_heads",),
    "localize.masks.weight_mask": ("WeightMask", "frozen_outside"),
    "localize.masks.top": ("top_weights",),
    "localize.masks.matched_random": ("matched_random_weights",),
    "unlearn.unlearning": ("restored", "unlearning_steps"),
    "unlearn.evaluation": ("evaluate",),
    "organism.paragraphs": ("load_controls", "load_natural", "load_planted", "load_unigram_counts"),
    "inspection": ("inspect_paragraph",),
    "study": ("Study",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Component",
    "InputError",
    "Paragraphs",
    "Study",
    "WeightMask",
    "ablated",
    "ablation_table",
    "activation_means",
    "audit",
    "bootstrap_mean",
    "clusters",
    "components",
    "duplicates",
    "evaluate",
    "export_model",
    "filtered",
    "frozen_outside",
    "greedy_continuation",
    "hook_table",
    "hooked",
    "inspect_paragraph",
    "load_controls",
    "load_means",
    "load_model",
    "load_natural",
    "load_paragraphs",
    "load_planted",
    "load_unigram_counts",
    "matched_pairs",
    "matched_random_weights",
    "overlap",
    "patch_positions",
    "patched",
    "perturb",
    "rare_token_attention",
    "rarity_ranks",
    "recitation",
    "recorded",
    "restored",
    "save_paragraphs",
    "silence_heads",
    "split",
    "top_weights",
    "unigram_counts",
    "unlearning_steps",
    "weight_gradients",
    "weight_scores",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'memhooks' has no attribute {name!r}")
    return getattr(import_module(f"memhooks.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
