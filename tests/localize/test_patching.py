import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.objectives import token_nll
from memhooks.localize.patching import patch_positions


def corrupt(paragraphs, at):
    tokens = paragraphs.tokens.clone()
    row = torch.arange(len(tokens))
    tokens[row, at] = (tokens[row, at] + 1) % 101
    return tokens


def test_each_cell_equals_a_plain_hook_loop(model, paragraphs):
    at = torch.tensor([0, 3, 11, 5, 5, 7])
    tokens = corrupt(paragraphs, at)
    found = patch_positions(model, paragraphs, tokens, at=at)
    _, clean = model.run_with_cache(paragraphs.tokens)
    base = token_nll(model, tokens, first=12).mean(-1)
    for site in ("resid_pre", "attn_out", "mlp_out"):
        for layer in range(4):
            name = f"blocks.{layer}.hook_{site}"
            for row in (0, 2, 4):

                def put_back(act, hook, row=row, name=name):
                    act[0, at[row]] = clean[name][row, at[row]]
                    return act

                with model.hooks(fwd_hooks=[(name, put_back)]), torch.no_grad():
                    logits = model(tokens[row : row + 1])
                log_p = logits[0, 11:-1].log_softmax(-1)
                nll = -log_p.gather(-1, tokens[row, 12:, None]).mean()
                cell = float(found["drop_in_nll"].sel(site=site, layer=layer)[row])
                assert cell == pytest.approx((base[row] - nll).item(), abs=1e-5)


def test_restoring_the_input_of_the_first_layer_undoes_everything(model, paragraphs):
    at = torch.full((6,), 6)
    found = patch_positions(model, paragraphs, corrupt(paragraphs, at), at=at, sites=["resid_pre"])
    undone = found["drop_in_nll"].sel(site="resid_pre", layer=0)
    assert undone.values == pytest.approx((found["corrupted_nll"] - found["clean_nll"]).values, abs=1e-5)


def test_patching_an_uncorrupted_run_has_no_effect(model, paragraphs):
    found = patch_positions(model, paragraphs, paragraphs.tokens, at=torch.zeros(6, dtype=torch.long))
    assert abs(found["drop_in_nll"].values).max() == 0


@pytest.mark.parametrize(
    ("tokens", "at", "message"),
    [
        (
            torch.zeros(6, 23, dtype=torch.long),
            torch.zeros(6, dtype=torch.long),
            r"must have the paragraphs' shape \(6, 24\)",
        ),
        (torch.zeros(6, 24, dtype=torch.long), torch.full((6,), 12), r"one position in 0..11"),
        (torch.zeros(6, 24, dtype=torch.long), torch.zeros(5, dtype=torch.long), "for each of 6 paragraphs"),
    ],
)
def test_unfitting_pairs_are_refused(model, paragraphs, tokens, at, message):
    with pytest.raises(InputError, match=message):
        patch_positions(model, paragraphs, tokens, at=at)


def test_hooks_on_the_model_are_refused_because_the_sweep_would_not_see_them(model, paragraphs):
    model.hook_embed.add_hook(lambda x, hook: None)
    with pytest.raises(InputError, match="does not run through hooks, and hook_embed has one"):
        patch_positions(model, paragraphs, paragraphs.tokens, at=torch.zeros(6, dtype=torch.long))
