"""The study's interventions: tokens replaced, activations patched, parts ablated, the stream read early."""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from memhooks.localize.cumulative import ablate_cumulatively
from memhooks.localize.direct_effects import direct_effects
from memhooks.localize.each_part import ablate_each, every_layer, silence_heads
from memhooks.localize.logit_lens import logit_lens
from memhooks.localize.patching import patch
from memhooks.localize.specificity import best_first, specificity
from memhooks.measure.continuations import perturbed_continuations
from memhooks.measure.perturbation import corrupted, perturb
from memhooks.measure.perturbation_statistics import drop_by_position, drop_by_rarity, perturbation_statistics
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.study.kept import Kept

Conditions = Mapping[str, tuple[HookedModel, Paragraphs]]
"""Models and paragraphs by condition."""


def perturbation_stage(
    keep: Kept, conditions: Conditions, counts: Int[Tensor, " d_vocab"] | None, *, seed: int
) -> None:
    """Every prefix token replaced once; what the model says after the worst replacement; what the drop goes with.

    Without counts of the training text nothing is said of rare tokens.
    """
    for name, (model, rows) in conditions.items():
        effect = keep("perturbation", name, perturb, model, rows, seed=seed)
        if name in ("memorized", "control_own"):  # the others say something else from the untouched prefix, too
            keep("continuations", name, perturbed_continuations, model, rows, effect)
        keep("drop_statistics", name, perturbation_statistics, effect, rows, counts, seed=seed)
        keep("drop_by_position", name, drop_by_position, effect, rows, seed=seed)
        if counts is not None:
            keep("drop_by_rarity", name, drop_by_rarity, effect, rows, counts, seed=seed)


def patching_stage(keep: Kept, conditions: Conditions, *, n_mapped: int) -> None:
    """The worst token stays replaced, and clean activations are put back: at its place, head by head, everywhere."""
    effects = keep.results["perturbation"]
    for name, (model, rows) in conditions.items():
        # The twin meets the very corruption that hurts the organism most.
        tokens, at = corrupted(rows, effects["memorized" if name == "twin" else name])
        keep("patching", name, patch, model, rows, tokens, at=at)
        if name in ("memorized", "control"):
            some, first = rows.select(slice(0, n_mapped)), slice(0, n_mapped)
            keep("patching_heads", name, patch, model, some, tokens[first], sites=("k", "v", "z"), at=at[first])
            keep("patching_map", name, patch, model, some, tokens[first], sites=("resid_pre",))


def ablation_stage(keep: Kept, conditions: Conditions, held_out: Paragraphs, *, n_cumulative: int, seed: int) -> None:
    """Every head and layer alone, then the worst heads together: chosen on one half of A, judged on the other."""
    model, memorized = conditions["memorized"]
    everyone = {**conditions, "held_out": (model, held_out)}
    heads = {name: keep("ablation", name, silence_heads, *pair) for name, pair in everyone.items()}
    # Its own continuation is what the model says, as memorized text is, at a loss in between.
    sets = {name: everyone[name][1] for name in ("memorized", "control", "control_own", "held_out")}
    layers = {
        name: keep("ablation_layers", name, ablate_each, model, rows, **every_layer(model))
        for name, rows in sets.items()
    }
    # The twin, which never read A, loses what its head is worth to the words themselves.
    own = {name: everyone[name][1] for name in (*sets, *({"twin"} & set(everyone)))}
    keep("specificity", "heads", specificity, {name: heads[name] for name in own}, sets=own, seed=seed)
    keep("specificity", "layers", specificity, layers, sets=sets, seed=seed)
    chosen = heads["memorized"].isel(paragraph=slice(0, None, 2))
    order = [head_of(name) for name in best_first(chosen)[:n_cumulative]]
    judged = {"memorized": memorized.select(torch.arange(1, len(memorized), 2)), "control": sets["control"]}
    keep("cumulative", "all", ablate_cumulatively, model, judged, order, seed=seed)


def lens_stage(keep: Kept, conditions: Conditions) -> None:
    """Where the next token is decided, and what writes it."""
    for name, pair in conditions.items():
        keep("lens", name, logit_lens, *pair)
        keep("direct_effects", name, direct_effects, *pair)


def head_of(name: str) -> tuple[int, int]:
    """Layer and head of a part's name, such as L0H5."""
    layer, head = name.removeprefix("L").split("H")
    return int(layer), int(head)
