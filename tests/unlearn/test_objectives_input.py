"""What objectives refuse, before any work."""

from dataclasses import replace

import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.pairs import Pairs
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives import (
    DPO,
    NPO,
    OBJECTIVES,
    BoundedAscent,
    PaperEdit,
    PaperEditMisaligned,
    SimNPO,
    WeightedAscent,
)


@pytest.fixture
def pairs(paragraphs):
    tokens = paragraphs.tokens.clone()
    tokens[:, 12:] = (tokens[:, 12:] + 1) % 101
    six = torch.ones(6, dtype=torch.long)
    return Pairs(paragraphs, replace(paragraphs, tokens=tokens), 3 * six, 12 * six)


@pytest.mark.parametrize("kind", [NPO, SimNPO, DPO, WeightedAscent])
@pytest.mark.parametrize("beta", [0.0, -0.1, float("nan"), float("inf")])
def test_beta_must_be_positive(kind, beta):
    with pytest.raises(InputError, match=f"beta must be a positive finite number, got {beta}"):
        kind(beta=beta)


@pytest.mark.parametrize("delta", [float("nan"), float("-inf")])
def test_delta_must_be_a_number(delta):
    with pytest.raises(InputError, match=f"delta must be a finite number of nats per token, got {delta}"):
        SimNPO(delta=delta)


@pytest.mark.parametrize("goal", [-1.0, float("nan"), float("inf")])
def test_goals_must_be_surprises(goal):
    message = f"the goal must be finite and at least 0 nats, as an NLL is, got {goal}"
    with pytest.raises(InputError, match=message):
        BoundedAscent(goal=goal)
    with pytest.raises(InputError, match=message):
        BoundedAscent(goal=torch.tensor([[1.0, 2.0], [0.0, goal]]))


@pytest.mark.parametrize("shape", [(5,), (6, 11), (7, 12), (6, 12, 1)])
def test_goals_of_another_shape_are_refused(model, paragraphs, shape):
    message = rf"one number, one per paragraph \(6,\) or one per continuation token \(6, 12\), got shape \({shape[0]}"
    with pytest.raises(InputError, match=message):
        BoundedAscent(goal=torch.ones(shape))(model, paragraphs, seed=0)


def test_goals_of_other_paragraphs_are_refused(model, paragraphs):
    goal = BoundedAscent(goal=torch.ones(2), ids=("0", "7"))
    with pytest.raises(InputError, match="the goal is of other paragraphs: 1 is not among its ids"):
        goal(model, paragraphs.select([0, 1]), seed=0)


@pytest.mark.parametrize("goal", [torch.ones(3), 2.0])
def test_ids_name_the_goals_rows(goal):
    with pytest.raises(InputError, match=r"ids must name each row of the goal, got 2 for shape \((3,)?\)"):
        BoundedAscent(goal=goal, ids=("a", "b"))


@pytest.mark.parametrize("kind", [PaperEdit, PaperEditMisaligned, DPO])
def test_pairs_of_other_paragraphs_are_refused(model, paragraphs, pairs, kind):
    message = "the pairs are of other paragraphs: 2 is not among them; make pairs of the paragraphs to forget"
    with pytest.raises(InputError, match=message):
        kind(pairs=pairs.select([0, 1]))(model, paragraphs, seed=0)
    other = replace(paragraphs, tokens=paragraphs.tokens.flip(0))
    with pytest.raises(InputError, match="same ids, but other tokens or another prefix length"):
        kind(pairs=pairs)(model, other, seed=0)
    with pytest.raises(InputError, match="same ids, but other tokens or another prefix length"):
        kind(pairs=pairs)(model, replace(paragraphs, n_prefix=11), seed=0)


@pytest.mark.parametrize("kind", [PaperEdit, PaperEditMisaligned, DPO])
def test_a_continuation_that_did_not_change_leads_nowhere(model, paragraphs, pairs, kind):
    impact = pairs.impact.clone()
    impact[4] = -1
    message = "1 of 6 paragraphs, such as 4, have the same continuation after the replaced token"
    with pytest.raises(InputError, match=message):
        kind(pairs=replace(pairs, impact=impact))(model, paragraphs, seed=0)
    kind(pairs=replace(pairs, impact=impact))(model, paragraphs.select([0, 5]), seed=0)  # of these, all changed


def test_pairs_are_not_made_under_hooks(model, paragraphs):
    model.add_hook("blocks.0.hook_resid_pre", lambda value, hook: value)
    with pytest.raises(InputError, match="hooks"):
        PaperEdit()(model, paragraphs, seed=0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_paragraphs_the_model_cannot_read_are_refused(model, name):
    foreign = Paragraphs(torch.full((2, 24), 101), n_prefix=12)
    with pytest.raises(InputError, match="vocabulary"):
        OBJECTIVES[name](model, foreign, seed=0)
