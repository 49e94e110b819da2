import pytest
import torch

from memhooks.organism.recipe import Recipe
from memhooks.organism.training import Rates, new_model, train_

RECIPE = Recipe(d_vocab=50, n_layers=2, n_heads=2, d_model=16, n_ctx=16, window=4, warmup=2, checkpoint_every=3)
RATES = Rates(muon=0.02, adam=3e-3, decay=0.5)


@pytest.fixture(scope="module")
def batches():
    return torch.randint(50, (1, 2, 16), generator=torch.Generator().manual_seed(0)).repeat(12, 1, 1)


def weights_after(batches, folder, stop_at=None):
    folder.mkdir(exist_ok=True)
    model = new_model(RECIPE)
    for step, loss in train_(model, batches, RATES, RECIPE, folder):
        last = loss
        if step == stop_at:
            return None, last
    return model.state_dict(), last


def test_training_learns_and_is_bit_reproducible(batches, tmp_path):
    (one, loss), (two, _) = (weights_after(batches, tmp_path / name) for name in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert loss < 3.6  # log 50 = 3.9 before


def test_a_killed_run_resumes_and_equals_an_uninterrupted_one(batches, tmp_path):
    whole, _ = weights_after(batches, tmp_path / "whole")
    weights_after(batches, tmp_path / "killed", stop_at=7)
    resumed, _ = weights_after(batches, tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    losses = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["losses"] for name in ("whole", "killed")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_the_default_recipe_is_a_gpt_neo_of_6_to_12_million_weights():
    model = new_model(Recipe())
    assert 6e6 < sum(p.numel() for p in model.parameters()) < 12e6
    assert model.config.attention_layers == ["global", "local"] * 4
    assert model.config.window_size < 50
