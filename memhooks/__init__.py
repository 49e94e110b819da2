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
    from memhooks.localize.activation_gradients import activation_gradients, directions
    from memhooks.localize.activation_norm import activation_norm
    from memhooks.localize.attention import rare_token_attention
    from memhooks.localize.attention_rows import attention_of
    from memhooks.localize.attribution import weight_gradients, weight_scores
    from memhooks.localize.balanced_subnet import BalancedSubnet
    from memhooks.localize.cumulative import ablate_cumulatively
    from memhooks.localize.direct_effects import direct_effects
    from memhooks.localize.each_part import ablate_each, every_head, every_layer, silence_heads
    from memhooks.localize.hook_sweep import hook_sweep
    from memhooks.localize.localizers import LOCALIZERS, fisher_ratio
    from memhooks.localize.logit_lens import logit_lens
    from memhooks.localize.masks.blocks import block, top_heads, top_neurons
    from memhooks.localize.masks.files import load_mask, save_mask
    from memhooks.localize.masks.matched_random import matched_random_weights
    from memhooks.localize.masks.overlap import mask_overlap
    from memhooks.localize.masks.random_anywhere import random_weights
    from memhooks.localize.masks.top import all_but_top, bottom_weights, top_weights
    from memhooks.localize.masks.weight_mask import WeightMask, frozen_outside
    from memhooks.localize.memorization_head import memorization_head
    from memhooks.localize.noise import noise_counts, noise_doses
    from memhooks.localize.patch_grid import Cell
    from memhooks.localize.patch_pairs import patch_pairs
    from memhooks.localize.patching import patch, patch_cells
    from memhooks.localize.pooling import component_scores
    from memhooks.localize.profile import centre_of_mass, layer_shares
    from memhooks.localize.profile_contrasts import nll_matched, profile_contrasts
    from memhooks.localize.published_statistic import published_statistic
    from memhooks.localize.range_maps import range_maps
    from memhooks.localize.rare_token_heads import rare_token_heads
    from memhooks.localize.screening import screen, screen_then_verify
    from memhooks.localize.similarity import paired_similarity, set_similarity, weight_similarity
    from memhooks.localize.specificity import best_first, specificity
    from memhooks.localize.weight_search import search_weights
    from memhooks.measure.continuations import perturbed_continuations
    from memhooks.measure.extractability import extractability, queries_needed
    from memhooks.measure.intervals import bootstrap_mean
    from memhooks.measure.pairs import Pairs, load_pairs, make_pairs, save_pairs
    from memhooks.measure.perturbation import perturb, perturb_exact_match
    from memhooks.measure.perturbation_statistics import drop_by_position, drop_by_rarity, perturbation_statistics
    from memhooks.measure.recitation import recitation, with_own_continuation
    from memhooks.measure.replacements import first2sec, frequency_matched, from_paragraphs, uniform
    from memhooks.measure.token_scores import min_k, token_scores
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
    from memhooks.study.study import Study
    from memhooks.truth.capacity import capacity_table, memorized_bits
    from memhooks.truth.dose.response import dose_response
    from memhooks.truth.equal_loss import equal_loss
    from memhooks.truth.equal_loss_pairs import equal_loss_pairs
    from memhooks.truth.extraction.queries import extraction_curves
    from memhooks.truth.forks.counterfactual import counterfactual_memorization
    from memhooks.truth.forks.line import loss_along_line
    from memhooks.truth.forks.swap_parts import swap_parts
    from memhooks.truth.forks.swapped import swapped
    from memhooks.truth.leak.leak import leak
    from memhooks.truth.leak.recipe import LeakRecipe
    from memhooks.truth.sinks import attention_sinks
    from memhooks.unlearn.attacks.attack import attack
    from memhooks.unlearn.breaking import own_controls, steps_to_break
    from memhooks.unlearn.breaking_summary import breaking_summary
    from memhooks.unlearn.delta import Delta, load_delta, save_delta
    from memhooks.unlearn.evaluation import evaluate, summary_row, untouched
    from memhooks.unlearn.objectives import OBJECTIVES
    from memhooks.unlearn.recipe import Budget, Recipe
    from memhooks.unlearn.sequence import unlearn_in_sequence
    from memhooks.unlearn.unlearning import restored, unlearning_delta, unlearning_steps

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
    "measure.recitation": ("recitation", "with_own_continuation"),
    "measure.token_scores": ("min_k", "token_scores"),
    "measure.extractability": ("extractability", "queries_needed"),
    "measure.replacements": ("first2sec", "frequency_matched", "from_paragraphs", "uniform"),
    "measure.perturbation": ("perturb", "perturb_exact_match"),
    "measure.continuations": ("perturbed_continuations",),
    "measure.pairs": ("Pairs", "load_pairs", "make_pairs", "save_pairs"),
    "measure.perturbation_statistics": ("drop_by_position", "drop_by_rarity", "perturbation_statistics"),
    "measure.intervals": ("bootstrap_mean",),
    "localize.attribution": ("weight_gradients", "weight_scores"),
    "localize.pooling": ("component_scores",),
    "localize.localizers": ("LOCALIZERS", "fisher_ratio"),
    "localize.activation_gradients": ("activation_gradients", "directions"),
    "localize.similarity": ("paired_similarity", "set_similarity", "weight_similarity"),
    "localize.range_maps": ("range_maps",),
    "localize.profile": ("centre_of_mass", "layer_shares"),
    "localize.profile_contrasts": ("nll_matched", "profile_contrasts"),
    "localize.noise": ("noise_counts", "noise_doses"),
    "localize.weight_search": ("search_weights",),
    "localize.attention": ("rare_token_attention",),
    "localize.attention_rows": ("attention_of",),
    "localize.published_statistic": ("published_statistic",),
    "localize.rare_token_heads": ("rare_token_heads",),
    "localize.memorization_head": ("memorization_head",),
    "localize.patching": ("patch", "patch_cells"),
    "localize.patch_grid": ("Cell",),
    "localize.patch_pairs": ("patch_pairs",),
    "localize.screening": ("screen", "screen_then_verify"),
    "localize.hook_sweep": ("hook_sweep",),
    "localize.ablation": ("ablation_table",),
    "localize.each_part": ("ablate_each", "every_head", "every_layer", "silence_heads"),
    "localize.specificity": ("best_first", "specificity"),
    "localize.cumulative": ("ablate_cumulatively",),
    "localize.logit_lens": ("logit_lens",),
    "localize.direct_effects": ("direct_effects",),
    "localize.masks.weight_mask": ("WeightMask", "frozen_outside"),
    "localize.masks.top": ("all_but_top", "bottom_weights", "top_weights"),
    "localize.masks.matched_random": ("matched_random_weights",),
    "localize.masks.files": ("load_mask", "save_mask"),
    "localize.masks.overlap": ("mask_overlap",),
    "localize.masks.random_anywhere": ("random_weights",),
    "localize.masks.blocks": ("block", "top_heads", "top_neurons"),
    "localize.balanced_subnet": ("BalancedSubnet",),
    "localize.activation_norm": ("activation_norm",),
    "unlearn.unlearning": ("restored", "unlearning_delta", "unlearning_steps"),
    "unlearn.evaluation": ("evaluate", "summary_row", "untouched"),
    "unlearn.sequence": ("unlearn_in_sequence",),
    "unlearn.breaking_summary": ("breaking_summary",),
    "unlearn.breaking": ("own_controls", "steps_to_break"),
    "unlearn.attacks.attack": ("attack",),
    "unlearn.delta": ("Delta", "load_delta", "save_delta"),
    "unlearn.recipe": ("Budget", "Recipe"),
    "unlearn.objectives": ("OBJECTIVES",),
    "organism.paragraphs": ("load_controls", "load_natural", "load_planted", "load_unigram_counts"),
    "truth.forks.swapped": ("swapped",),
    "truth.forks.swap_parts": ("swap_parts",),
    "truth.forks.line": ("loss_along_line",),
    "truth.forks.counterfactual": ("counterfactual_memorization",),
    "truth.dose.response": ("dose_response",),
    "truth.leak.leak": ("leak",),
    "truth.leak.recipe": ("LeakRecipe",),
    "truth.capacity": (
        "capacity_table",
        "memorized_bits",
    ),
    "truth.sinks": ("attention_sinks",),
    "truth.extraction.queries": ("extraction_curves",),
    "truth.equal_loss": ("equal_loss",),
    "truth.equal_loss_pairs": ("equal_loss_pairs",),
    "inspection": ("inspect_paragraph",),
    "study.study": ("Study",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "LOCALIZERS",
    "OBJECTIVES",
    "BalancedSubnet",
    "Budget",
    "Cell",
    "Component",
    "Delta",
    "InputError",
    "LeakRecipe",
    "Pairs",
    "Paragraphs",
    "Recipe",
    "Study",
    "WeightMask",
    "ablate_cumulatively",
    "ablate_each",
    "ablated",
    "ablation_table",
    "activation_gradients",
    "activation_means",
    "activation_norm",
    "all_but_top",
    "attack",
    "attention_of",
    "attention_sinks",
    "audit",
    "best_first",
    "block",
    "bootstrap_mean",
    "bottom_weights",
    "breaking_summary",
    "capacity_table",
    "centre_of_mass",
    "clusters",
    "component_scores",
    "components",
    "counterfactual_memorization",
    "direct_effects",
    "directions",
    "dose_response",
    "drop_by_position",
    "drop_by_rarity",
    "duplicates",
    "equal_loss",
    "equal_loss_pairs",
    "evaluate",
    "every_head",
    "every_layer",
    "export_model",
    "extractability",
    "extraction_curves",
    "filtered",
    "first2sec",
    "fisher_ratio",
    "frequency_matched",
    "from_paragraphs",
    "frozen_outside",
    "greedy_continuation",
    "hook_sweep",
    "hook_table",
    "hooked",
    "inspect_paragraph",
    "layer_shares",
    "leak",
    "load_controls",
    "load_delta",
    "load_mask",
    "load_means",
    "load_model",
    "load_natural",
    "load_pairs",
    "load_paragraphs",
    "load_planted",
    "load_unigram_counts",
    "logit_lens",
    "loss_along_line",
    "make_pairs",
    "mask_overlap",
    "matched_pairs",
    "matched_random_weights",
    "memorization_head",
    "memorized_bits",
    "min_k",
    "nll_matched",
    "noise_counts",
    "noise_doses",
    "overlap",
    "own_controls",
    "paired_similarity",
    "patch",
    "patch_cells",
    "patch_pairs",
    "patched",
    "perturb",
    "perturb_exact_match",
    "perturbation_statistics",
    "perturbed_continuations",
    "profile_contrasts",
    "published_statistic",
    "queries_needed",
    "random_weights",
    "range_maps",
    "rare_token_attention",
    "rare_token_heads",
    "rarity_ranks",
    "recitation",
    "recorded",
    "restored",
    "save_delta",
    "save_mask",
    "save_pairs",
    "save_paragraphs",
    "screen",
    "screen_then_verify",
    "search_weights",
    "set_similarity",
    "silence_heads",
    "specificity",
    "split",
    "steps_to_break",
    "summary_row",
    "swap_parts",
    "swapped",
    "token_scores",
    "top_heads",
    "top_neurons",
    "top_weights",
    "uniform",
    "unigram_counts",
    "unlearn_in_sequence",
    "unlearning_delta",
    "unlearning_steps",
    "untouched",
    "weight_gradients",
    "weight_scores",
    "weight_similarity",
    "with_own_continuation",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'memhooks' has no attribute {name!r}")
    return getattr(import_module(f"memhooks.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
