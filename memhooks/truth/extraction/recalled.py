"""Is what the model says recalled, or could anyone have guessed it? Its probability against a twin's and a prior's.

1. The continuation's log-probability under the model, per token.
2. The same under the twin, which never read the text: what one who knows the language would say.
3. The same under a trigram of other text: what counting alone would say. Where the twin read the text too (passages
   that recur in the training text), the prior is the only counterfactual. Where there is no other text, it is left out.
4. Recalled: the model's is above both by more than it is for text that nobody read, and above a floor. Predictable:
   above the floor, and the twin or the prior says it nearly as well. Not said: below the floor.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Int

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.organism.baselines import Trigram
from memhooks.paragraphs.ngrams import ngram_hashes
from memhooks.paragraphs.paragraphs import Paragraphs

CLASSES = ("not said", "predictable", "recalled")
FLOOR = -1.0
"""Mean log-probability per token, in nats, from which a continuation counts as said: a token in e on average."""

_SHARED = 13


def log_probabilities(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    prior: Trigram | None = None,
    twin: HookedModel | None = None,
    batch_size: int = 32,
) -> xr.Dataset:
    """Mean log-probability of each continuation's tokens under the model, the twin and the prior.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: what it may say.
        prior: of `fitted_prior`, fitted without these paragraphs, if there is other text.
        twin: a model like it that never read them, if there is one.
        batch_size: rows per pass.

    Returns:
        Dataset over `paragraph`: `model`, and of `prior` and `twin` what was given, in nats per token, 0 = certain;
        `gap`, by how much the model's is above the highest of the others (0 = no more than anyone could say).

    Raises:
        InputError: neither prior nor twin, a prior of another vocabulary, or as `recitation`.
    """
    if prior is None and twin is None:
        raise InputError("give a prior or a twin: without either nothing says what anyone could have guessed")
    if prior is not None and prior.d_vocab != model.cfg.d_vocab:
        raise InputError(f"the prior has {prior.d_vocab} tokens, the model {model.cfg.d_vocab}; fit it on its tokens")
    logs = {"model": -recitation(model, paragraphs, batch_size=batch_size)["nll"].values.mean(1)}
    if twin is not None:
        logs["twin"] = -recitation(twin, paragraphs, batch_size=batch_size)["nll"].values.mean(1)
    if prior is not None:
        rows, n = paragraphs.tokens.numpy(), paragraphs.n_prefix
        logs["prior"] = np.array([-prior.nll(row)[n:].mean() for row in rows])
    others = [logs[name] for name in ("twin", "prior") if name in logs]
    found = {
        name: Variable(np.asarray(values, float), ("paragraph",), "nats per token, 0 = certain")
        for name, values in logs.items()
    }
    gap = np.asarray(logs["model"] - np.max(others, axis=0), float)
    unit = "nats per token above the best of the others, 0 = no more than they"
    found["gap"] = Variable(gap, ("paragraph",), unit, {"paragraph": paragraphs.ids})
    return labelled(provenance(model, paragraphs.tokens), **found)


def fitted_prior(texts: Sequence[Paragraphs], *, d_vocab: int, without: Sequence[Paragraphs] = ()) -> Trigram:
    """A trigram of the texts' paragraphs, without those that share 13 tokens in a row with any of `without`.

    Raises:
        InputError: nothing is left to fit it on.
    """
    rows = unjudged(texts, without=without)
    if not rows:
        raise InputError("every reference paragraph shares text with those judged; give other reference text")
    return Trigram(rows, d_vocab)


def unjudged(texts: Sequence[Paragraphs], *, without: Sequence[Paragraphs]) -> list[Int[np.ndarray, " _"]]:
    """The texts' paragraphs that share no 13 tokens in a row with any of `without`."""
    length = min((one.tokens.shape[1] for one in (*texts, *without)), default=_SHARED)
    n = min(_SHARED, length)
    known = [ngram_hashes(one.tokens.numpy(), n).ravel() for one in without]
    banned = np.unique(np.concatenate(known)) if known else np.array([], dtype=np.uint64)
    return [
        row
        for one in texts
        for row, own in zip(one.tokens.numpy(), ngram_hashes(one.tokens.numpy(), n), strict=True)
        if not np.isin(own, banned).any()
    ]


def least_gap(control: xr.Dataset, *, share: float = 0.01) -> float:
    """The gap that all but a share of text that nobody read stays below; at least 0.

    Of n paragraphs it is the largest gap or near it, if n is below 1 / share: new ones are above it once in about n.

    Raises:
        InputError: the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(f"share must lie between 0 and 1, got {share}")
    return max(0.0, float(np.quantile(control["gap"].values, 1 - share)))


def classified(result: xr.Dataset, *, least: float, floor: float = FLOOR) -> xr.Dataset:
    """Each paragraph's class.

    Args:
        result: of `log_probabilities`.
        least: the gap above which a continuation is recalled, from `least_gap` of a control.
        floor: log-probability per token below which it is not said at all.

    Returns:
        Dataset over `paragraph`: `kind`, 0 = not said, 1 = predictable (the twin or the prior says it nearly as well),
        2 = recalled, as in `CLASSES`; `above_threshold`, whether the gap is above `least` whether said or not (text
        half known: the fair score for false positives).

    Raises:
        InputError: a floor that is not below 0.
    """
    if not floor < 0:
        raise InputError(f"floor must be a log-probability below 0, got {floor}")
    said, more = result["model"].values >= floor, result["gap"].values > least
    kind = np.where(~said, 0, np.where(more, 2, 1))
    ids = {"paragraph": result["paragraph"].values.tolist()}
    return labelled(
        {"least_gap": least, "floor": floor},
        kind=Variable(kind, ("paragraph",), f"0 to 2: {', '.join(CLASSES)}", ids),
        above_threshold=Variable(more, ("paragraph",), "whether the gap is above the threshold"),
    )
