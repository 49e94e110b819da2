"""Which paragraphs are fit for study? The filters of Stoehr et al. (2024, arXiv:2403.19851, App. A.1).

Each filter gives one value per paragraph, to be used with `Paragraphs.select`; `filtered` applies
them all. Keywords are looked up as whole words in the text, where the published code drops every
paragraph that holds a keyword's tokens in any order, anywhere.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.paragraphs.paragraphs import Paragraphs

PAPER_KEYWORDS = (
    "TripAdvisor",
    "href",
    "license",
    "copyright",
    "software",
    "manuscript",
    "submission",
    "distribution",
    "disclaimed",
    "limited",
)


@dataclass(frozen=True)
class FilterReport:
    """How many paragraphs each filter dropped.

    Attributes:
        n_before: paragraphs before.
        dropped: rows each filter would drop if it were alone; `per_count`, which draws from what
            the others leave, counts the rows it dropped there.
        n_after: paragraphs that passed them all.
    """

    n_before: int
    dropped: Mapping[str, int]
    n_after: int


def filtered(
    paragraphs: Paragraphs,
    *,
    min_unique: float = 0.5,
    without: Sequence[str] = PAPER_KEYWORDS,
    counts: tuple[int, int | None] | None = (1, None),
    per_count: int | None = None,
    seed: int = 0,
) -> tuple[Paragraphs, FilterReport]:
    """The paragraphs that pass every filter, and what each filter dropped.

    Args:
        paragraphs: with text if there are keywords, with counts if there is a range.
        min_unique: least share of distinct tokens, from 0 to 1.
        without: words no paragraph may hold; `()` looks for none.
        counts: least and greatest count, both included; None for no limit on either or both.
        per_count: at most so many paragraphs of each count, drawn last; None keeps all.
        seed: of that draw.

    Raises:
        InputError: text or counts are needed but missing, a setting is out of range, or nothing passes.
    """
    if not 0 <= min_unique <= 1:
        raise InputError(f"min_unique must lie in 0..1, got {min_unique}")
    passes = {"min_unique": unique_share(paragraphs) >= min_unique}
    if len(without):
        passes["without"] = ~mentions(paragraphs, without)
    if counts is not None:
        passes["counts"] = in_count_range(paragraphs, *counts)
    dropped = {name: int((~passed).sum()) for name, passed in passes.items()}
    kept = torch.stack(list(passes.values())).all(0)
    if not kept.any():
        reasons = ", ".join(f"{name} drops {n}" for name, n in dropped.items())
        raise InputError(f"none of {len(paragraphs)} paragraphs passes the filters ({reasons}); loosen one")
    chosen = paragraphs.select(kept)
    if per_count is not None:
        drawn = at_most_per_count(chosen, per_count, seed=seed)
        dropped["per_count"] = int((~drawn).sum())
        chosen = chosen.select(drawn)
    return chosen, FilterReport(len(paragraphs), dropped, len(chosen))


def unique_share(paragraphs: Paragraphs) -> Float[Tensor, " paragraph"]:
    """Distinct tokens over all tokens of each paragraph, above 0 and at most 1."""
    ordered = paragraphs.tokens.sort(dim=1).values
    n_distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
    return n_distinct.double() / paragraphs.tokens.shape[1]


def mentions(paragraphs: Paragraphs, keywords: Sequence[str]) -> Bool[Tensor, " paragraph"]:
    """Whether each text holds a keyword as a whole word: as given, lower, UPPER or Capitalized.

    Raises:
        InputError: the paragraphs have no text, or a keyword is empty.
    """
    if isinstance(keywords, str) or not all(isinstance(word, str) and word.strip() for word in keywords):
        raise InputError(f"keywords must be a list of words, none of them empty, got {keywords!r:.80}")
    if paragraphs.text is None:
        raise InputError(
            "keywords are looked up in text, and these paragraphs have none; "
            "load them with tokenizer=, or look for no keywords with without=()"
        )
    if not len(keywords):
        return torch.zeros(len(paragraphs), dtype=torch.bool)
    variants = {variant for word in keywords for variant in _variants(word)}
    # Not \b, which would never match beside a keyword that begins or ends with a sign, such as "C++".
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(variants)))})(?!\w)")
    return torch.tensor([pattern.search(text) is not None for text in paragraphs.text])


def in_count_range(paragraphs: Paragraphs, low: int | None, high: int | None) -> Bool[Tensor, " paragraph"]:
    """Whether each count lies between `low` and `high`, both included; None for no limit.

    Raises:
        InputError: the paragraphs have no counts, or `low` is above `high`.
    """
    if low is not None and high is not None and low > high:
        raise InputError(f"the least count must not exceed the greatest, got {low} and {high}")
    counts = _counts(paragraphs)
    passed = torch.ones(len(counts), dtype=torch.bool)
    if low is not None:
        passed &= counts >= low
    if high is not None:
        passed &= counts <= high
    return passed


def at_most_per_count(paragraphs: Paragraphs, k: int, *, seed: int) -> Bool[Tensor, " paragraph"]:
    """True for `k` paragraphs of each distinct count, drawn at random, or for all that have it if there are no more.

    Raises:
        InputError: the paragraphs have no counts, or `k` is below one.
    """
    if k < 1:
        raise InputError(f"at least one paragraph per count must stay, got {k}")
    counts = _counts(paragraphs)
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    passed = torch.zeros(len(counts), dtype=torch.bool)
    for count in counts.unique():
        passed[order[counts[order] == count][:k]] = True
    return passed


def _variants(word: str) -> Iterator[str]:
    yield from (word, word.lower(), word.upper(), word.capitalize())


def _counts(paragraphs: Paragraphs) -> Tensor:
    if paragraphs.counts is None:
        raise InputError("these paragraphs have no counts; load them with a column `count`, or filter with counts=None")
    return torch.tensor(paragraphs.counts)
