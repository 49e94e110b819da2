"""What `memhooks extract` computes, for each set: curves, prefixes, near-verbatim rates, and what is recalled."""

# Heavy imports stay inside the functions, as in the commands.
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.model.loading import HookedModel
    from memhooks.organism.baselines import Trigram
    from memhooks.paragraphs.paragraphs import Paragraphs

Conditions = dict[str, tuple["HookedModel", "Paragraphs"]]


@dataclass
class Against:
    """What the model is held against: a twin, and a prior of other text; None where there is none."""

    twin: "HookedModel | None"
    prior: "Trigram | None"
    source: str


@dataclass
class Found:
    """What the command computed, by set; the threshold is of `n_least` paragraphs of the control."""

    curves: "dict[str, xr.Dataset]"
    lengths: "dict[str, xr.Dataset]"
    near: "dict[str, xr.Dataset]"
    logs: "dict[str, xr.Dataset]"
    kinds: "dict[str, xr.Dataset]"
    rows: "dict[str, Paragraphs]"
    judged: "dict[str, Paragraphs]"
    least: float
    n_least: int
    prior: str


def halved(sets: "dict[str, Paragraphs]", *, seed: int) -> "tuple[Paragraphs, Paragraphs] | None":
    """Half of the control for the threshold, half for false positives; near-duplicates stay on one side.

    Raises:
        InputError: it cannot be split.
    """
    from memhooks.paragraphs.splits import split

    if "control" not in sets:
        return None
    try:
        return split(sets["control"], share=0.5, seed=seed)
    except InputError as error:
        raise InputError(f"--control must make two halves, one for the threshold: {error}") from error


def fitted(
    loaded: "HookedModel",
    texts: "dict[str, Paragraphs]",
    conditions: Conditions,
    *,
    twin: "HookedModel | None",
    asked: bool,
) -> Against:
    """The trigram of what is not judged, and in words of what; none, where nothing is left.

    Raises:
        InputError: tokens that the model has not, or a reference that was asked for and is all judged.
    """
    from memhooks.truth.extraction.recalled import fitted_prior, unjudged

    judged = [rows for _, rows in conditions.values()]
    for one in texts.values():
        one.check(loaded)
    n = len(unjudged(list(texts.values()), without=judged))
    if not n and not (asked and texts):
        return Against(twin, None, "none, there is no reference text apart from what is judged")
    prior = fitted_prior(list(texts.values()), d_vocab=loaded.cfg.d_vocab, without=judged)
    return Against(twin, prior, f"of {n} other paragraphs of {', '.join(texts)}")


def measured(
    conditions: Conditions,
    halves: "tuple[Paragraphs, Paragraphs] | None",
    against: Against,
    *,
    seed: int,
) -> Found:
    """Every measure of every set, and the classes of those that there is somebody to compare with."""
    from memhooks.truth.extraction.near_verbatim import near_verbatim
    from memhooks.truth.extraction.prefix_length import prefix_length_curve
    from memhooks.truth.extraction.queries import extraction_curves
    from memhooks.truth.extraction.recalled import classified, least_gap, log_probabilities

    rows = {name: one for name, (_, one) in conditions.items()}
    front = rows.get("control")
    curves = {name: extraction_curves(*pair) for name, pair in conditions.items()}
    lengths = {name: prefix_length_curve(*pair, seed=seed, in_front=front) for name, pair in conditions.items()}
    near = {name: near_verbatim(*pair, seed=seed) for name, pair in conditions.items() if len(pair[1]) > 1}
    judged = rows | ({} if halves is None else {"control": halves[1]})
    logs = {}
    for name, some in judged.items():
        # The twin is judged against the prior alone: the model, which read the text, is nobody's counterfactual.
        unread = against.twin if name in ("memorized", "control") else None
        if unread is not None or against.prior is not None:
            logs[name] = log_probabilities(conditions[name][0], some, prior=against.prior, twin=unread)
    # The threshold comes from half of the control; without one there is no null, and any surplus counts.
    least, alone = 0.0, 0.0
    if halves is not None and "control" in logs:
        chosen = log_probabilities(conditions["control"][0], halves[0], prior=against.prior, twin=against.twin)
        least = least_gap(chosen)
        if against.prior is not None:
            alone = least_gap(chosen.assign(gap=chosen["model"] - chosen["prior"]))
    kinds = {name: classified(one, least=least if "twin" in one else alone) for name, one in logs.items()}
    n_least = 0 if halves is None else len(halves[0])
    return Found(curves, lengths, near, logs, kinds, rows, judged, least, n_least, against.source)
