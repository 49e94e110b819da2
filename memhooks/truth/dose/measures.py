"""What is measured of every paragraph as a function of how often it was read."""

from typing import NamedTuple


class Measure(NamedTuple):
    """One measure.

    Attributes:
        words: what it is called in tables and figures.
        unit: with what 0 means.
        is_dear: measured on some paragraphs of each level alone, because it takes long.
        is_of_loss: it is the loss itself, or follows from it alone: asking for more than the loss makes no sense.
    """

    words: str
    unit: str
    is_dear: bool = False
    is_of_loss: bool = False


MEASURES: dict[str, Measure] = {
    "exact_match": Measure("exact match", "tokens before the first miss, 0 = none", is_of_loss=True),
    "nll": Measure("NLL", "nats per continuation token, 0 = certain", is_of_loss=True),
    "longest_run": Measure("longest run", "tokens in a row from any start, 0 = none", is_of_loss=True),
    "log_probability": Measure(
        "log-probability", "nats of the whole continuation at temperature 1, 0 = every sample says it", is_of_loss=True
    ),
    "centre_max": Measure("gradient centre, largest", "layers, largest |gradient| of each part; 0 = all in the first"),
    "centre_l2": Measure("gradient centre, norm", "layers, Euclidean norm of each part; 0 = all in the first"),
    "log_gradient": Measure("log gradient size", "log of the Euclidean norm over all matrices"),
    "attention_head": Measure("rare-token head", "rank correlation of attention and count, 0 = none, -1 = rarest"),
    "attention_most": Measure("most rare-token head", "the most negative such correlation of all heads, 0 = none"),
    "perturbed_nll": Measure(
        "NLL rise, perturbed", "nats per token, mean over prefix tokens, 0 = sturdy", is_dear=True
    ),
    "perturbed_em": Measure("EM drop, perturbed", "tokens, mean over prefix positions, 0 = sturdy", is_dear=True),
    "worst_share": Measure("share of worst token", "of all NLL rises; 1 = one prefix token carries all", is_dear=True),
    "steps_to_unlearn": Measure("steps to unlearn", "updates of ascent until NLL + 1 nat, 0 = none", is_dear=True),
}
"""Every measure by its name in the tables of `dose_response`."""
