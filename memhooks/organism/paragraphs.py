"""The organism's ground truth: which paragraphs it read, how often and when."""

import json
from typing import Literal, assert_never, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.loading import asset
from memhooks.paragraphs.counts import load_counts
from memhooks.paragraphs.files import load_paragraphs
from memhooks.paragraphs.paragraphs import Paragraphs

PlantedSet = Literal["A", "B"]
Domain = Literal["prose", "licence_never", "licence_once", "held_out"]
Lead = Literal["nothing", "end_of_text", "text"]


def load_planted(which: PlantedSet = "A", *, at_least: int = 1) -> Paragraphs:
    """Planted paragraphs: set A was read by the organism alone, set B by the twin alone.

    Args:
        which: A or B; each is the other's counterfactual.
        at_least: only paragraphs planted that often; `counts` says how often each was.

    Raises:
        InputError: there is no such set, or no paragraph was planted that often.

    Example:
        >>> import memhooks
        >>> planted = memhooks.load_planted("A", at_least=64)
        >>> planted
        Paragraphs(96 of 50 + 50 tokens, A288..A383, with counts, sources, text)
        >>> planted.ids[:2], planted.counts[:2]
        (('A288', 'A289'), (64, 64))
    """
    if which not in get_args(PlantedSet):
        raise InputError(f"planted sets are A and B, got {which!r}")
    planted = load_paragraphs(asset(f"paragraphs/planted_{which}.parquet"))
    return planted.select([row for row, count in enumerate(planted.counts or ()) if count >= at_least])


def load_natural(*, at_least: int = 1) -> Paragraphs:
    """Licence passages that recur by themselves in the training text; `counts` are their places in one epoch."""
    natural = load_paragraphs(asset("paragraphs/natural.parquet"))
    return natural.select([row for row, count in enumerate(natural.counts or ()) if count >= at_least])


def load_controls(domain: Domain = "prose") -> Paragraphs:
    """Paragraphs that neither model was made to recite.

    Args:
        domain: `prose` is set C, drawn from the same pool as A and B and never read;
            `licence_never` was never read; `licence_once` was read once, by the trunk, and holds no
            13 tokens that stand elsewhere in its text;
            `held_out` is more never-read prose, on which language modelling is judged.

    Raises:
        InputError: there is no such domain.

    Example:
        >>> import memhooks
        >>> memhooks.load_controls("prose")
        Paragraphs(500 of 50 + 50 tokens, C000..C499, with counts, sources, text)
        >>> memhooks.load_controls("licence_never").ids[:2]
        ('L0-000', 'L0-001')
    """
    if domain not in get_args(Domain):
        raise InputError(f"domains are {', '.join(get_args(Domain))}, got {domain!r}")
    return load_paragraphs(asset(f"paragraphs/{domain}.parquet"))


def load_bundled(name: str) -> Paragraphs | None:
    """The set of that name (A, B, C, natural or a control domain), or None if there is none."""
    if name in get_args(PlantedSet):
        return load_planted("A" if name == "A" else "B")
    if name == "natural":
        return load_natural()
    domain = "prose" if name == "C" else name
    return load_paragraphs(asset(f"paragraphs/{domain}.parquet")) if domain in get_args(Domain) else None


def find_bundled(identifier: str) -> Paragraphs:
    """The one bundled paragraph of that id, such as A300, B000, C017 or N004.

    Raises:
        InputError: there is none.
    """
    for name in ("A", "B", "C", "natural"):
        rows = load_bundled(name)
        if rows is not None and identifier in rows.ids:
            return rows.select([rows.ids.index(identifier)])
    raise InputError(
        f"no bundled paragraph {identifier!r}; ids are A000 to A383, B000 to B383, C000 to C499, and N000 on"
    )


def lead_tokens(lead: Lead, n: int) -> Int[Tensor, "paragraph lead"]:
    """What may stand before each of `n` paragraphs when recitation is tested.

    `nothing`; `end_of_text`; or `text`, the first 10 tokens of a held-out paragraph, a different one for each.
    """
    match lead:
        case "nothing":
            return torch.zeros(n, 0, dtype=torch.long)
        case "end_of_text":
            return torch.zeros(n, 1, dtype=torch.long)  # its id is 0
        case "text":
            unrelated = load_controls("held_out").tokens
            return unrelated[torch.arange(n) % len(unrelated), :10]
        case _:
            assert_never(lead)


def load_unigram_counts(d_vocab: int = 4096) -> Int[Tensor, " d_vocab"]:
    """How often each token occurs in the trunk's documents, each counted once, planted copies not at all.

    Example:
        >>> import memhooks
        >>> counts = memhooks.load_unigram_counts()
        >>> counts.shape
        torch.Size([4096])
        >>> memhooks.load_model("organism").tokenizer.decode(counts.argmax())
        ' the'
    """
    return load_counts(asset("unigram_counts.npy"), d_vocab=d_vocab)


def insertion_steps() -> dict[int, list[int]]:
    """For each planted row the fork's training steps at which it was read, the same for A and B."""
    steps = json.loads(asset("paragraphs/insertion_steps.json").read_text("utf8"))
    return {int(row): own for row, own in steps.items()}
