"""Half precision rounds in every step; a replay must not be further from the exact result than a full pass is."""

import copy

import pytest
import torch

from memhooks.model.loading import load_model
from memhooks.model.replay.clean_run import Site, activation, clean_run
from memhooks.model.replay.edits import Cells, activation_edits
from memhooks.model.replay.replay import replay
from tests.model.replay.test_edits import FIRST, HOOKS, by_hand, into


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("site", ["resid_pre", "v", "k", "z", "mlp_post"])
def test_bfloat16_is_no_further_from_single_precision_than_full_passes(neo_source, site: Site, layer):
    tokens = torch.randint(101, (3, 20), generator=torch.Generator().manual_seed(3))
    row, position = torch.arange(3).repeat_interleave(20), torch.arange(20).repeat(3)
    cells, runs = Cells(row, position), {}
    for dtype in (torch.bfloat16, torch.float32):
        model = load_model(copy.deepcopy(neo_source), dtype=dtype)
        run = clean_run(model, tokens, first=FIRST)
        values = cells.read(activation(run, site, layer).flip(0), site, 1)

        def edit(x, number, values=values):
            into(x, number, site, cells, 1, values)

        ours = replay(run, activation_edits(run, site, layer, cells, values)).nll
        runs[dtype] = ours, by_hand(model, tokens[row], HOOKS[site].format(layer), edit).float()
    exact = runs[torch.float32][1]
    ours, theirs = ((one.float() - exact).square().mean().sqrt() for one in runs[torch.bfloat16])
    assert theirs > 1e-3
    assert ours <= 1.02 * theirs  # a draw, where both round the same
