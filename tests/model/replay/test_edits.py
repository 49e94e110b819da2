"""Every kind of edit equals a full TransformerLens pass with that edit as a hook."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.model.loading import load_model
from memhooks.model.replay.batches import Batches
from memhooks.model.replay.clean_run import Site, activation, clean_run
from memhooks.model.replay.edits import HEAD_SITES, MLP_SITES, STREAM_SITES, Cells, activation_edits, token_edits
from memhooks.model.replay.replay import replay
from memhooks.model.replay.sweep import sweep
from memhooks.model.replay.work import Work
from tests.conftest import examples, tiny_neo

FIRST = 10
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
PARAGRAPH = torch.tensor([0, 2, 1, 0])
POSITION = torch.tensor([3, 0, 9, 15])
PART = torch.tensor([1, 3, 0, 2])
KEY = torch.tensor([2, 0, 4, 15])
HOOKS = {site: f"blocks.{{}}.hook_{site}" for site in STREAM_SITES}
HOOKS |= {site: f"blocks.{{}}.attn.hook_{site}" for site in HEAD_SITES}
HOOKS |= {site: f"blocks.{{}}.mlp.hook_{site.removeprefix('mlp_')}" for site in MLP_SITES}


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


def into(x, row, site, cells, span, values):
    """Write one row's replacement where TransformerLens keeps it."""
    here = slice(int(cells.position[row]), int(cells.position[row]) + span)
    part = slice(None) if cells.part is None else int(cells.part[row])
    if site == "pattern":
        key = slice(None) if cells.key is None else int(cells.key[row])
        x[row, part, here, key] = values[row, :, 0] if cells.key is not None else values[row].movedim(0, -2)
    elif site in STREAM_SITES:
        x[row, here] = values[row]
    else:
        x[row, here, part] = values[row, :, 0] if site in MLP_SITES and cells.part is not None else values[row]


def random(model, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(model.cfg.dtype)


def close(model, ours, theirs):
    tolerance = TOLERANCE[model.cfg.dtype]
    torch.testing.assert_close(ours.nll, theirs, rtol=tolerance, atol=tolerance)


def cells_of(kind):
    return {
        "all": Cells(PARAGRAPH, POSITION),
        "part": Cells(PARAGRAPH, POSITION, PART),
        "key": Cells(PARAGRAPH, POSITION, PART, KEY),
    }[kind]


KINDS = [(site, "all") for site in get_args(Site)]
KINDS += [(site, "part") for site in HEAD_SITES + MLP_SITES] + [("pattern", "key")]


@pytest.mark.parametrize("span", [1, 3])
def test_other_tokens(hooked_model, tokens, span):
    position, token = torch.tensor([3, 0, 7, 5]), torch.randint(101, (4, span))
    run = clean_run(hooked_model, tokens, first=FIRST)
    scores = replay(run, token_edits(run, PARAGRAPH, position, token))
    changed = tokens[PARAGRAPH].clone()
    changed[torch.arange(4)[:, None], position[:, None] + torch.arange(span)] = token
    close(hooked_model, scores, by_hand(hooked_model, changed, None, None))


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("span", [1, 4])
@pytest.mark.parametrize(("site", "kind"), KINDS)
def test_every_site(hooked_model, tokens, site, kind, span, layer):
    run, cells = clean_run(hooked_model, tokens, first=FIRST), cells_of(kind)
    values = random(hooked_model, *cells.read(activation(run, site, layer), site, span).shape)
    scores = replay(run, activation_edits(run, site, layer, cells, values))

    def edit(x, row):
        into(x, row, site, cells, span, values)

    close(hooked_model, scores, by_hand(hooked_model, tokens[PARAGRAPH], HOOKS[site].format(layer), edit))


@settings(max_examples=examples(30), deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    window=st.sampled_from([1, 2, 5, 64]),
    heads=st.sampled_from([4, 8]),
    layer=st.integers(0, 1),
    span=st.integers(1, 5),
    seed=st.integers(0, 1000),
    processed=st.booleans(),
)
def test_any_tiny_model_position_and_window(kind, window, heads, layer, span, seed, processed):
    neo = tiny_neo(seed=seed, window=window, layers=2, heads=heads)
    model = load_model(neo, dtype=torch.float64, processed=processed)
    tokens = torch.randint(101, (3, 20), generator=torch.Generator().manual_seed(seed))
    run, (site, which) = clean_run(model, tokens, first=FIRST), kind
    position = torch.randint(21 - span, (4,), generator=torch.Generator().manual_seed(seed))
    part, key = cells_of(which).part, cells_of(which).key
    cells = Cells(PARAGRAPH, position, part, None if key is None else torch.minimum(key, position))
    values = random(model, *cells.read(activation(run, site, layer), site, span).shape)
    scores = replay(run, activation_edits(run, site, layer, cells, values), batches=Batches(1 + seed % 4))

    def edit(x, row):
        into(x, row, site, cells, span, values)

    close(model, scores, by_hand(model, tokens[PARAGRAPH], HOOKS[site].format(layer), edit))


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("site", get_args(Site))
def test_activations_are_transformer_lenss(model, tokens, site, layer):
    _, cache = model.run_with_cache(tokens)
    ours = activation(clean_run(model, tokens, first=FIRST), site, layer)
    torch.testing.assert_close(ours, cache[HOOKS[site].format(layer)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize(("site", "kind"), KINDS)
def test_putting_back_what_is_there_changes_nothing_and_costs_nothing(hooked_model, tokens, site, kind, layer):
    run, work, cells = clean_run(hooked_model, tokens, first=FIRST), Work(), cells_of(kind)
    there = cells.read(activation(run, site, layer), site, 3)
    same = activation_edits(run, site, layer, cells, there, work=work)
    assert torch.equal(replay(run, same, work=work).nll, run.outcome.nll[PARAGRAPH])
    assert work.block_positions == work.floor_block_positions == 0


def test_a_sweep_keeps_the_order_of_its_cells(model, tokens):
    run, values = clean_run(model, tokens, first=FIRST), random(model, 3, 20, 32)
    cells = Cells(PARAGRAPH, POSITION)
    found = sweep(
        run, ("attn_out", 1), cells, lambda some: some.read(values, "attn_out", 1), batches=Batches(2), work=Work()
    )
    for row in range(4):
        one = cells.select(torch.tensor([row]))
        alone = replay(run, activation_edits(run, "attn_out", 1, one, one.read(values, "attn_out", 1)))
        torch.testing.assert_close(found.nll[row], alone.nll[0], rtol=1e-5, atol=1e-5)
