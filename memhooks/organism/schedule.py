"""In which order the organism reads: rows of `n_ctx` tokens for the trunk and for both forks.

Trunk: every epoch of a text collection is shuffled, joined by end-of-text tokens, cut
into rows at a fresh offset and spread evenly over its share of the training, so the
mix is the same at every step.

Forks: half of each batch is background of the trunk's mix, half carries one planted
paragraph per row. A row is a slot (level, place): the organism fills it with the
paragraph of set A, the twin with that of set B. What precedes a planted paragraph:

- 1/4 nothing: it begins at position 0;
- 1/4 running text without a separator, 1 to 28 tokens;
- 1/4 end-of-text alone, at position 0;
- 1/4 running text, then end-of-text.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from jaxtyping import Int

from memhooks.organism.recipe import Recipe

Rows = Int[np.ndarray, "row n_ctx"]
Tokens = Int[np.ndarray, " _"]  # no axis name: texts differ in length
Lead = Literal["start", "text", "end_of_text", "text_and_end"]
LEADS: tuple[Lead, ...] = ("start", "text", "end_of_text", "text_and_end")
END_OF_TEXT_ID = 0


@dataclass(frozen=True)
class Insertion:
    """One planted row: which slot, at which training step, after what, from which position on."""

    slot: int
    step: int
    lead: Lead
    position: int


def trunk_rows(prose: list[Tokens], repeated: list[Tokens], once: list[Tokens], recipe: Recipe) -> Rows:
    """All rows the trunk reads, in reading order."""
    rng = np.random.default_rng([recipe.seed, 1])
    parts = [(prose, recipe.prose_epochs), (repeated, recipe.licence_epochs), (once, 1)]
    rows, times = [], []
    for documents, n_epochs in parts:
        for epoch in range(n_epochs):
            rows.append(_cut_stream(documents, recipe.n_ctx, rng))
            times.append((epoch + rng.random(len(rows[-1]))) / n_epochs)
    order = np.argsort(np.concatenate(times), kind="stable")
    return np.concatenate(rows)[order][: len(order) // recipe.trunk_batch * recipe.trunk_batch]


def insertions(recipe: Recipe) -> list[Insertion]:
    """When and how each slot is planted; shared by both forks, so they differ in the words alone."""
    rng = np.random.default_rng([recipe.seed, 2])
    planted = []
    for level, n_times in enumerate(recipe.repetitions):
        for place in range(recipe.n_per_level):
            slot = level * recipe.n_per_level + place
            leads = np.resize(np.roll(np.arange(len(LEADS)), -int(rng.integers(len(LEADS)))), n_times)
            times = (np.arange(n_times) + rng.random(n_times)) / n_times
            planted += [(time, slot, LEADS[lead]) for time, lead in zip(times, rng.permutation(leads), strict=True)]
    planted.sort()
    room = recipe.n_ctx - recipe.n_tokens
    per_batch = _planted_per_batch(recipe)
    return [
        Insertion(slot, index // per_batch, lead, _position(lead, room, rng))
        for index, (_, slot, lead) in enumerate(planted)
    ]


def fork_rows(
    planted: list[Tokens], background: Rows, plan: list[Insertion], recipe: Recipe
) -> Int[np.ndarray, "step batch n_ctx"]:
    """One fork's batches: planted rows first, then background, which also surrounds each planted paragraph.

    Raises:
        ValueError: too few background rows.
    """
    per_batch = _planted_per_batch(recipe)
    n_steps = plan[-1].step + 1
    n_background = n_steps * recipe.fork_batch - len(plan)
    if len(background) < n_background + len(plan):
        raise ValueError(f"the forks need {n_background + len(plan)} background rows, got {len(background)}")
    fillers = iter(background[n_background:])
    rows = [_planted_row(planted[item.slot], item, next(fillers)) for item in plan]
    rest = iter(background[:n_background])
    batches = []
    for step in range(n_steps):
        batch = rows[step * per_batch : (step + 1) * per_batch]
        batches.append([*batch, *(next(rest) for _ in range(recipe.fork_batch - len(batch)))])
    return np.array(batches)


def background_rows(prose: list[Tokens], repeated: list[Tokens], n_rows: int, recipe: Recipe) -> Rows:
    """Fresh rows of the trunk's mix of prose and repeated licences, as many as the forks need."""
    rng = np.random.default_rng([recipe.seed, 3])
    weights = [
        recipe.prose_epochs * sum(map(len, prose)),
        recipe.licence_epochs * sum(map(len, repeated)),
    ]
    parts = []
    for documents, weight in zip((prose, repeated), weights, strict=True):
        wanted = int(np.ceil(n_rows * weight / sum(weights)))
        rows: list[Rows] = []
        while sum(map(len, rows)) < wanted:
            rows.append(_cut_stream(documents, recipe.n_ctx, rng))
        parts.append(np.concatenate(rows)[:wanted])
    return rng.permutation(np.concatenate(parts))[:n_rows]


def _cut_stream(documents: list[Tokens], n_ctx: int, rng: np.random.Generator) -> Rows:
    end = np.array([END_OF_TEXT_ID])
    stream = np.concatenate([part for i in rng.permutation(len(documents)) for part in (documents[i], end)])
    stream = stream[rng.integers(n_ctx) :]
    n_rows = len(stream) // n_ctx
    return rng.permutation(stream[: n_rows * n_ctx].reshape(n_rows, n_ctx))


def _planted_per_batch(recipe: Recipe) -> int:
    return round(recipe.fork_batch * recipe.planted_share)


def _position(lead: Lead, room: int, rng: np.random.Generator) -> int:
    match lead:
        case "start":
            return 0
        case "text":
            return int(rng.integers(1, room + 1))
        case "end_of_text":
            return 1
        case "text_and_end":
            return int(rng.integers(2, room + 1))
        case _:
            assert_never(lead)


def _planted_row(paragraph: Tokens, item: Insertion, filler: Tokens) -> Tokens:
    row = filler.copy()
    row[item.position : item.position + len(paragraph)] = paragraph
    if item.lead in ("end_of_text", "text_and_end"):
        row[item.position - 1] = END_OF_TEXT_ID
    return row
