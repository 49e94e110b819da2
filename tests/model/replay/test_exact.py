"""Exact match in growing blocks equals that of a whole replay, and of a full pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.model.decoding import greedy_continuation
from memhooks.model.loading import load_model
from memhooks.model.replay.batches import Batches
from memhooks.model.replay.clean_run import clean_run
from memhooks.model.replay.edits import token_edits
from memhooks.model.replay.exact import leading_hits, replay_exact_match
from memhooks.model.replay.replay import Edits, replay
from memhooks.model.replay.work import Work
from tests.conftest import examples, tiny_neo

FIRST = 6


def own_text(model, *, n=3, length=40, seed=0):
    """Prefixes followed by what the model says next, so that some edits keep all of it and some lose it at once."""
    prefix = torch.randint(101, (n, FIRST), generator=torch.Generator().manual_seed(seed))
    return torch.cat([prefix, greedy_continuation(model, prefix, n_tokens=length - FIRST)], dim=1)


@settings(max_examples=examples(25), deadline=None, derandomize=True)
@given(
    window=st.sampled_from([2, 5, 64]),
    layer=st.integers(0, 4),
    size=st.sampled_from([0.01, 0.3, 1.0]),
    seed=st.integers(0, 500),
    rows=st.integers(1, 20),
)
def test_equals_a_whole_replay(window, layer, size, seed, rows):
    model = load_model(tiny_neo(seed=seed, window=window), dtype=torch.float64)
    run = clean_run(model, own_text(model, seed=seed), first=FIRST)
    generator = torch.Generator().manual_seed(seed)
    paragraph, position = torch.randint(3, (12,), generator=generator), torch.randint(38, (12,), generator=generator)
    at = paragraph[:, None], position[:, None] + torch.arange(2)
    stream = run.entering(layer)[at] + size * torch.randn(12, 2, 32, generator=generator, dtype=torch.float64)
    edits = Edits(layer, paragraph, position, stream)
    whole = leading_hits(replay(run, edits).hits)
    assert torch.equal(replay_exact_match(run, edits, batches=Batches(rows)), whole)


def test_both_kinds_of_rows_occur_above(model):
    run = clean_run(model, own_text(model), first=FIRST)
    row, position = torch.arange(3).repeat_interleave(FIRST), torch.arange(FIRST).repeat(3)
    others = (run.tokens[row, position] + 1)[:, None] % 101
    whole = leading_hits(replay(run, token_edits(run, row, position, others)).hits)
    assert run.outcome.hits.all()
    assert len(whole.unique()) > 2


def test_what_follows_a_miss_is_not_computed(model):
    tokens = torch.randint(101, (3, 40), generator=torch.Generator().manual_seed(0))  # nothing of it is recited
    run, exact, whole = clean_run(model, tokens, first=FIRST), Work(), Work()
    row = torch.arange(3)
    edits = token_edits(run, row, row, (tokens[row, row] + 1)[:, None] % 101)
    assert replay_exact_match(run, edits, work=exact).max() == 0
    replay(run, edits, work=whole)
    assert exact.block_positions == 3 * 4 * FIRST  # up to the position that predicts the first scored token
    assert whole.block_positions == 3 * 4 * 39


@pytest.mark.parametrize("position", [FIRST - 1, FIRST, 20, 38, 39])
def test_edits_inside_the_continuation(model, position):
    run = clean_run(model, own_text(model), first=FIRST)
    edits = Edits(1, torch.tensor([0]), torch.tensor([position]), torch.randn(1, 1, 32))
    assert torch.equal(replay_exact_match(run, edits), leading_hits(replay(run, edits).hits))
