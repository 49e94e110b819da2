"""The paragraphs of a run as data for the page's viewer: tokens, what they are worth, what the model says instead."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from memhooks.report.findings import Results
from memhooks.report.theme import NAMES

Texts = Callable[[int], str]
"""The text of a token id."""

_ORDER = ("memorized", "control", "natural")
_END = 0.98  # of all values lie below a legend's end, so that a few large ones do not leave all others pale
_EFFECT = "effect"


def viewer_data(results: Results, texts: Texts | None = None) -> dict[str, object] | None:
    """What the page's viewer shows, as plain values for JSON; None if no paragraphs were kept for it.

    Args:
        results: of the study: `viewed` by condition; where there are, `perturbation` of the same paragraphs (by id),
            and `unlearned_tokens` (`before` and `after`, one paragraph each row).
        texts: the text of a token id; without it ids are shown.

    Returns:
        `n_prefix`; `sets` (names); `texts` of the tokens that occur; `prefix` (what prefix tokens can be coloured
        by: `key`, `name`, `unit`, `most`, the legend's end); `rest` (the same of the continuation's NLL);
        `paragraphs`, each with `id`, `set`, `em`, `nll`, `tokens` and `said` (numbers of `texts`), `surprise` (NLL
        per continuation token), `prefix` (values by key) and `after` unlearning, or None.
    """
    viewed = _in_order(results.get("viewed", {}))
    if not viewed:
        return None
    vocabulary: dict[int, int] = {}
    after = _by_id(results.get("unlearned_tokens", {}).get("after"))
    paragraphs = []
    for number, (condition, one) in enumerate(viewed.items()):
        effects = _by_id(results.get("perturbation", {}).get(condition))
        paragraphs += [
            _paragraph(
                one.isel(paragraph=row),
                number,
                effects.get(str(name)),
                after.get(str(name)) if condition == "memorized" else None,
                vocabulary,
            )
            for row, name in enumerate(one["paragraph"].values)
        ]
    paragraphs.sort(key=lambda one: (one["set"], one["after"] is None, _EFFECT not in one["prefix"]))
    first = next(iter(viewed.values()))
    return {
        "n_prefix": int(first.attrs["n_prefix"]),
        "sets": [NAMES.get(name, name) for name in viewed],
        "texts": [str(one) if texts is None else texts(one) for one in vocabulary],
        "prefix": _colourings(paragraphs),
        "rest": {"name": "NLL", "unit": "nats", "most": _end(_surprises(paragraphs))},
        "paragraphs": paragraphs,
    }


def _in_order(viewed: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    return {name: viewed[name] for name in (*_ORDER, *sorted(set(viewed) - set(_ORDER))) if name in viewed}


def _by_id(result: xr.Dataset | None) -> dict[str, xr.Dataset]:
    if result is None:
        return {}
    return {str(name): result.isel(paragraph=row) for row, name in enumerate(result["paragraph"].values)}


def _paragraph(
    one: xr.Dataset,
    number: int,
    effect: xr.Dataset | None,
    after: xr.Dataset | None,
    vocabulary: dict[int, int],
) -> dict[str, object]:
    n_prefix = int(one.attrs["n_prefix"])
    tokens = one["tokens"].values
    rest = slice(n_prefix, None)
    attention = {str(name): _rounded(one["attention"].sel(row=name).values) for name in one["row"].values}
    effects = {} if effect is None else {_EFFECT: _rounded(_mean_rise(effect))}
    made = {"id": str(one["paragraph"].values), "set": number, "tokens": _numbers(tokens, vocabulary)}
    made |= _said(one["said"].values[rest], one["nll"].values[rest], tokens[rest], vocabulary)
    made |= {"prefix": effects | attention, "after": None}
    if after is not None and "said" in after:
        made["after"] = _said(after["said"].values, after["nll"].values, tokens[rest], vocabulary)
    return made


def _mean_rise(effect: xr.Dataset) -> np.ndarray:
    """NLL rise per replaced prefix token, of all draws."""
    rise = effect["nll_rise"]
    return (rise.mean("draw") if "draw" in rise.dims else rise).values


def _said(said: np.ndarray, nll: np.ndarray, true: np.ndarray, vocabulary: dict[int, int]) -> dict[str, object]:
    """What the model says with the true text before its eyes, how surprised it is, and how much that recites."""
    em = int(np.cumprod(said == true).sum())
    return {
        "said": _numbers(said, vocabulary),
        "surprise": _rounded(nll),
        "em": em,
        "nll": _rounded([float(nll.mean())])[0],
    }


def _numbers(tokens: np.ndarray, vocabulary: dict[int, int]) -> list[int]:
    """Places in the list of texts; tokens that were not there yet are added."""
    return [vocabulary.setdefault(int(one), len(vocabulary)) for one in tokens]


def _rounded(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Three digits are enough to be shown; JSON has no NaN."""
    return [float(f"{one:.3g}") if np.isfinite(one) else None for one in np.asarray(values, dtype=float)]


def _colourings(paragraphs: list[dict]) -> list[dict[str, object]]:
    """What prefix tokens can be coloured by, in this run."""
    keys = list(dict.fromkeys(key for one in paragraphs for key in one["prefix"]))
    keys.sort(key=lambda key: key != _EFFECT)
    made = []
    for key in keys:
        values = [value for one in paragraphs for value in one["prefix"].get(key, ())]
        name = "NLL rise when replaced" if key == _EFFECT else f"attention of {key}"
        unit = "nats" if key == _EFFECT else "of 1"
        made.append({"key": key, "name": name, "unit": unit, "most": _end(values)})
    return made


def _surprises(paragraphs: list[dict]) -> list[float | None]:
    both = [part for one in paragraphs for part in (one, one["after"]) if part]
    return [value for part in both for value in part["surprise"]]


def _end(values: Sequence[float | None]) -> float:
    """Where a legend ends: two digits, and never 0."""
    sizes = np.abs([one for one in values if one is not None])
    return float(f"{np.quantile(sizes, _END):.2g}") if sizes.any() else 1.0
