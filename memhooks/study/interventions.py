"""The study's interventions: tokens replaced, activations patched, parts ablated, the stream read early."""

from collections.abc import Mapping

import torch
import xarray as xr
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

Conditions = Mapping[str, tuple[HookedModel, Paragraphs]]
Found = dict[str, dict[str, xr.Dataset]]
"""Results by their name and by condition."""


def perturbation_stage(conditions: Conditions, counts: Int[Tensor, " d_vocab"], *, seed: int) -> Found:
    """Every prefix token replaced once; what the model says after the worst replacement; what the drop goes with."""
    found: Found = {
        name: {} for name in ("perturbation", "continuations", "drop_statistics", "drop_by_position", "drop_by_rarity")
    }
    for name, (model, rows) in conditions.items():
        effect = perturb(model, rows, seed=seed)
        found["perturbation"][name] = effect
        if name in ("memorized", "control_own"):  # the others say something else from the untouched prefix, too
            found["continuations"][name] = perturbed_continuations(model, rows, effect)
        found["drop_statistics"][name] = perturbation_statistics(effect, rows, counts, seed=seed)
        found["drop_by_position"][name] = drop_by_position(effect, rows, seed=seed)
        found["drop_by_rarity"][name] = drop_by_rarity(effect, rows, counts, seed=seed)
    return found


def patching_stage(conditions: Conditions, effects: Mapping[str, xr.Dataset], *, n_mapped: int) -> Found:
    """The worst token stays replaced, and clean activations are put back: at its place, head by head, everywhere."""
    found: Found = {"patching": {}, "patching_heads": {}, "patching_map": {}}
    for name, (model, rows) in conditions.items():
        # The twin meets the very corruption that hurts the organism most.
        tokens, at = corrupted(rows, effects["memorized" if name == "twin" else name])
        found["patching"][name] = patch(model, rows, tokens, at=at)
        if name in ("memorized", "control"):
            some, first = rows.select(slice(0, n_mapped)), slice(0, n_mapped)
            found["patching_heads"][name] = patch(model, some, tokens[first], sites=("k", "v", "z"), at=at[first])
            found["patching_map"][name] = patch(model, some, tokens[first], sites=("resid_pre",))
    return found


def ablation_stage(conditions: Conditions, held_out: Paragraphs, *, n_cumulative: int, seed: int) -> Found:
    """Every head and layer alone, then the worst heads together: chosen on one half of A, judged on the other."""
    model, memorized = conditions["memorized"]
    control = conditions["control"][1]
    heads = {name: silence_heads(*pair) for name, pair in conditions.items()}
    heads["held_out"] = silence_heads(model, held_out)
    # Its own continuation is what the model says, as memorized text is, at a loss in between.
    sets = {"memorized": memorized, "control": control, "control_own": conditions["control_own"][1]}
    sets["held_out"] = held_out
    layers = {name: ablate_each(model, rows, **every_layer(model)) for name, rows in sets.items()}
    chosen = heads["memorized"].isel(paragraph=slice(0, None, 2))
    order = [head_of(name) for name in best_first(chosen)[:n_cumulative]]
    judged = {"memorized": memorized.select(torch.arange(1, len(memorized), 2)), "control": control}
    return {
        "ablation": heads,
        "ablation_layers": layers,
        "specificity": {
            # The twin, which never read A, loses what its head is worth to the words themselves.
            "heads": specificity(
                {name: heads[name] for name in (*sets, "twin")}, sets={**sets, "twin": memorized}, seed=seed
            ),
            "layers": specificity(layers, sets=sets, seed=seed),
        },
        "cumulative": {"all": ablate_cumulatively(model, judged, order, seed=seed)},
    }


def lens_stage(conditions: Conditions) -> Found:
    """Where the next token is decided, and what writes it."""
    return {
        "lens": {name: logit_lens(*pair) for name, pair in conditions.items()},
        "direct_effects": {name: direct_effects(*pair) for name, pair in conditions.items()},
    }


def head_of(name: str) -> tuple[int, int]:
    """Layer and head of a part's name, such as L0H5."""
    layer, head = name.removeprefix("L").split("H")
    return int(layer), int(head)
