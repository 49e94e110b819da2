"""What is forgotten and what is kept: the same measures on several paragraph sets, before and after."""

from collections.abc import Mapping

import xarray as xr

from memhooks.measure.recitation import recitation
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs

MEASURES = ("exact_match", "matches", "longest_run")


def evaluate_sets(model: HookedModel, sets: Mapping[str, Paragraphs]) -> dict[str, xr.Dataset]:
    """Recitation of each named set, such as forget, other memorized paragraphs and never-seen ones."""
    return {name: recitation(model, paragraphs) for name, paragraphs in sets.items()}


def summary(results: Mapping[str, xr.Dataset]) -> dict[str, dict[str, float]]:
    """Means per set: EM, matches and longest run in tokens, NLL in nats per continuation token."""
    return {
        name: {measure: float(result[measure].mean()) for measure in MEASURES} | {"nll": float(result["nll"].mean())}
        for name, result in results.items()
    }
