"""From names and folders to a setting: everything is checked before anything is measured."""

from collections.abc import Collection
from pathlib import Path

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel, load_model
from memhooks.truth.published.bundled import bundled_text
from memhooks.truth.published.files import Held, held
from memhooks.truth.published.setting import PUBLISHED_ROWS, SHAPE, Setting
from memhooks.truth.published.stand_in import stand_in_model, stand_in_text
from memhooks.truth.published.substitute import Benchmark, extraction_rows, with_substitute
from memhooks.truth.published.targets import TARGETS
from memhooks.truth.published.weights import check_weights

ORGANISM_ROWS, STAND_IN_ROWS, ORGANISM_TRIALS = 20, 2, 4
_SUBSTITUTES = 12  # for each row: gradients take 4 batches of rows, attention 20 rows in all bins
_UNRECITED = 5  # never-seen paragraphs of the organism, for each row


def prepared(
    model: str,
    paragraphs: Path | None,
    *,
    extraction: Benchmark | None = None,
    stand_in: bool = False,
    rows: int | None = None,
    numbers: Collection[int],
    seed: int,
) -> Setting:
    """The model and the text to measure with.

    Args:
        model: a name or a folder; not used with `stand_in`.
        paragraphs: folder of published files; the organism has its own, a stand-in makes them up.
        extraction: the extraction benchmark, for a substitute of the bin 0-10.
        stand_in: random weights of the 125M shape.
        rows: of each bin; by default as published, fewer for the organism and the stand-in.
        numbers: rows of the table; where none needs a model, none is loaded.
        seed: of all draws.

    Raises:
        InputError: weights that cannot be had, files that are missing or do not fit the model, or settings that
            contradict each other.
    """
    if stand_in:
        return _stand_in(paragraphs, extraction, rows or STAND_IN_ROWS, seed)
    if model == "organism":
        return _organism(paragraphs, rows, seed)
    if paragraphs is None:
        raise InputError("give the folder of published files as --paragraphs; only organism has paragraphs of its own")
    needed = any("model" in one.needs for one in TARGETS if one.number in numbers)
    if needed:
        check_weights(model)
    text = held(paragraphs)
    n = rows or PUBLISHED_ROWS
    if not needed:
        return Setting(None, text, n, seed)
    if extraction is not None:
        extraction_rows(extraction.folder)  # refused before the model is read
    loaded = load_model(model, tokenizer=None, processed=True)
    return Setting(loaded, _complete(loaded, text, extraction, n, seed), n, seed)


def _complete(model: HookedModel, text: Held, extraction: Benchmark | None, n: int, seed: int) -> Held:
    """The text, checked against the model, with a substitute if there is a benchmark to take it from."""
    for rows in text.sets.values():
        rows.check(model)
    if text.pairs is not None:
        text.pairs.clean.check(model)
        text.pairs.perturbed.check(model)
    if extraction is None:
        return text
    return with_substitute(model, text, extraction, n=_SUBSTITUTES * n, seed=seed)


def _stand_in(paragraphs: Path | None, extraction: Benchmark | None, n: int, seed: int) -> Setting:
    if paragraphs is None:
        if extraction is not None:
            raise InputError("--extraction completes published files; give their folder as --paragraphs, too")
        return Setting(stand_in_model(seed=seed), stand_in_text(2 * n, seed=seed), n, seed, stand_in=True)
    text = held(paragraphs)
    if extraction is not None:
        extraction_rows(extraction.folder)
    model = stand_in_model(SHAPE, seed=seed)
    return Setting(model, _complete(model, text, extraction, n, seed), n, seed, stand_in=True)


def _organism(paragraphs: Path | None, rows: int | None, seed: int) -> Setting:
    if paragraphs is not None:
        raise InputError("organism is measured on its own sets; leave --paragraphs out, or give another --model")
    model = load_model("organism", processed=True)
    n, n_trials = (ORGANISM_ROWS, ORGANISM_TRIALS) if rows is None else (rows, None)
    text = bundled_text(model, n_pairs=n, n_others=_UNRECITED * n, seed=seed)
    return Setting(model, text, n, seed, n_trials=n_trials)
