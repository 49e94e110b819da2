"""Every kind of edit equals a full TransformerLens pass with that edit as a hook."""

from typing import get_args

import pytest
import torch

from memhooks.model.loading import load_model
from memhooks.model.replay.clean_run import activation, clean_run
from memhooks.model.replay.edits import Site, head_edits, site_edits, token_edits
from memhooks.model.replay.replay import Work, replay

FIRST = 10
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
PARAGRAPH = torch.tensor([0, 2, 1, 0])
POSITION = torch.tensor([3, 0, 9, 15])


@pytest.fixture(params=[torch.float32, torch.float64])
def hooked_model(neo, request):
    return load_model(neo, dtype=request.param)


@pytest.fixture
def tokens():
    return torch.randint(101, (3, 20), generator=torch.Generator().manual_seed(3))


def by_hand(model, rows, name, edit):
    """One full pass in which each row's activation is edited by `edit(x, row)`."""

    def put(x, hook):
        x = x.clone()
        for row in range(len(x)):
            edit(x, row)
        return x

    logits = model.run_with_hooks(rows, fwd_hooks=[(name, put)] if name else []).detach()
    return -logits.log_softmax(-1)[:, FIRST - 1 : -1].gather(-1, rows[:, FIRST:, None])[..., 0]


def random(model, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(model.cfg.dtype)


def close(model, ours, theirs):
    tolerance = TOLERANCE[model.cfg.dtype]
    torch.testing.assert_close(ours.nll, theirs, rtol=tolerance, atol=tolerance)


def test_another_token_before_the_scored_ones(hooked_model, tokens):
    position, token = torch.tensor([3, 0, 9, 5]), torch.tensor([7, 8, 9, 10])
    run = clean_run(hooked_model, tokens, first=FIRST)
    scores = replay(run, token_edits(run, PARAGRAPH, position, token))
    changed = tokens[PARAGRAPH].clone()
    changed[torch.arange(4), position] = token
    close(hooked_model, scores, by_hand(hooked_model, changed, None, None))


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("span", [1, 4])
@pytest.mark.parametrize("site", get_args(Site))
def test_sites_of_the_stream(hooked_model, tokens, site, span, layer):
    values = random(hooked_model, 4, span, 32)
    run = clean_run(hooked_model, tokens, first=FIRST)
    scores = replay(run, site_edits(run, site, layer, PARAGRAPH, POSITION, values))

    def edit(x, row):
        x[row, POSITION[row] : POSITION[row] + span] = values[row]

    close(hooked_model, scores, by_hand(hooked_model, tokens[PARAGRAPH], f"blocks.{layer}.hook_{site}", edit))


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("span", [1, 4])
def test_single_heads(hooked_model, tokens, span, layer):
    head, values = torch.tensor([1, 3, 0, 2]), random(hooked_model, 4, span, 8)
    run = clean_run(hooked_model, tokens, first=FIRST)
    scores = replay(run, head_edits(run, layer, head, PARAGRAPH, POSITION, values))

    def edit(x, row):
        x[row, POSITION[row] : POSITION[row] + span, head[row]] = values[row]

    close(hooked_model, scores, by_hand(hooked_model, tokens[PARAGRAPH], f"blocks.{layer}.attn.hook_z", edit))


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("site", get_args(Site))
def test_putting_back_what_is_there_changes_nothing_and_costs_nothing(hooked_model, tokens, site, layer):
    run, work = clean_run(hooked_model, tokens, first=FIRST), Work()
    at = PARAGRAPH[:, None], POSITION[:, None] + torch.arange(3)
    same = site_edits(run, site, layer, PARAGRAPH, POSITION, activation(run, site, layer)[at])
    z = run.layers[layer].z[at].unflatten(-1, (4, 8))[:, :, 2]
    same_head = head_edits(run, layer, torch.full((4,), 2), PARAGRAPH, POSITION, z)
    for edits in (same, same_head):
        assert torch.equal(replay(run, edits, work=work).nll, run.outcome.nll[PARAGRAPH])
    assert work.block_positions == 0
