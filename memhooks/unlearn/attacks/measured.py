"""What an attack brings back: three numbers for each paragraph from one pass."""

import numpy as np
import torch

from memhooks.measure.recitation import exact_match, longest_run, score_tokens
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs

UNITS = {
    "exact_match": "tokens before the first miss, 0 = none",
    "longest_run": "tokens in a row from any start, 0 = none",
    "nll": "nats per continuation token, 0 = certain",
}
"""What is measured, with its unit."""


def measured(model: HookedModel, rows: Paragraphs) -> dict[str, np.ndarray]:
    """EM, longest run and NLL of each paragraph, as of `recitation`, without a fingerprint of passing weights."""
    scores = list(score_tokens(model, rows.tokens, first=rows.n_prefix))
    hits = torch.cat([one.predicted for one in scores]) == rows.continuation
    nll = torch.cat([one.nll for one in scores]).mean(-1)
    found = {"exact_match": exact_match(hits), "longest_run": longest_run(hits), "nll": nll}
    return {name: one.double().numpy() for name, one in found.items()}
