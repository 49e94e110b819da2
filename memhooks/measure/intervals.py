"""How sure is a mean? Bootstrap intervals that resample clusters, not paragraphs."""

import numpy as np
from jaxtyping import Int, Num

from memhooks.errors import InputError


def bootstrap_mean(
    values: Num[np.ndarray, "paragraph ..."],
    *,
    seed: int,
    clusters: Int[np.ndarray, " paragraph"] | None = None,
    level: float = 0.95,
    n_draws: int = 1000,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over paragraphs with the ends of its bootstrap interval, for each entry of the other axes.

    Near-duplicates are not independent evidence, so whole clusters are drawn with
    replacement; without `clusters` every paragraph is its own.

    Raises:
        InputError: there are no paragraphs, or the level is not between 0 and 1.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        raise InputError("no paragraphs to average")
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
    label = np.arange(len(values)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    member = np.zeros((label.max() + 1, len(values)))
    member[label, np.arange(len(values))] = 1.0
    flat = values.reshape(len(values), -1)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(member), np.full(len(member), 1 / len(member)), size=n_draws)
    draws = (times @ (member @ flat)) / (times @ member.sum(1))[:, None]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    shape = values.shape[1:]
    return flat.mean(0).reshape(shape), low.reshape(shape), high.reshape(shape)
