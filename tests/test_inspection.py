import pytest
import torch

from memhooks.inspection import inspect_paragraph
from memhooks.measure.recitation import recitation
from memhooks.model.ablated import ablated


def test_heads_and_prefix_tokens_are_ranked_by_what_they_cost(model, paragraphs):
    one = paragraphs.select([2])
    found = inspect_paragraph(model, one, n_top=16)
    base = float(recitation(model, one)["nll"].mean())
    with ablated(model, heads=[(1, 3)]):
        rise = float(recitation(model, one)["nll"].mean()) - base
    assert dict(found.heads)["L1H3"] == pytest.approx(rise, abs=1e-6)
    assert [rise for _, rise in found.heads] == sorted((rise for _, rise in found.heads), reverse=True)
    assert len(found.prefix_tokens) == 12
    assert found.recited["nll"].shape == (1, 23)


def test_a_head_that_writes_nothing_costs_nothing(model, paragraphs):
    with torch.no_grad():
        model.blocks[2].attn.W_O[1].zero_()
    assert dict(inspect_paragraph(model, paragraphs, n_top=16).heads)["L2H1"] == pytest.approx(0, abs=1e-6)
