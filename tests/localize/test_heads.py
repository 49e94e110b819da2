import pytest
import torch

import memhooks
from memhooks.errors import InputError
from memhooks.localize.heads import silence_heads
from memhooks.measure.recitation import recitation
from memhooks.model.ablated import ablated
from memhooks.model.means import activation_means


@pytest.mark.parametrize("how", ["zero", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_cell_equals_an_ablation_by_a_hook_and_a_full_pass(model, paragraphs, how, dtype):
    model = model.to(dtype)
    means = activation_means(model, paragraphs.tokens.flip(1)) if how == "mean" else None
    found = silence_heads(model, paragraphs, how=how, means=means, batch_size=5)
    clean = recitation(model, paragraphs)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    for layer in range(4):
        for head in range(4):
            with ablated(model, heads=[(layer, head)], how=how, means=means):
                slow = recitation(model, paragraphs)
            rise = (slow["nll"] - clean["nll"]).mean("pos").values
            cell = found.sel(layer=layer, head=head)
            assert cell["nll_rise"].values == pytest.approx(rise, rel=tolerance, abs=tolerance)
            assert (cell["em_drop"].values == (clean["exact_match"] - slow["exact_match"]).values).all()
            assert (cell["match_drop"].values == (clean["matches"] - slow["matches"]).values).all()


def test_the_head_that_carries_the_organisms_recitation_is_found(organism):
    planted = memhooks.load_planted("A", at_least=128).sample(6, seed=0)
    control = memhooks.load_controls("prose").sample(6, seed=0)
    memorized, other = (silence_heads(organism, rows)["nll_rise"].mean("paragraph") for rows in (planted, control))
    worst = memorized.stack(cell=("layer", "head")).idxmax().item()
    assert worst == (0, 5)
    assert float(memorized.sel(layer=0, head=5)) > float(other.sel(layer=0, head=5))


def test_the_result_says_how_much_was_run_and_what_full_passes_would_have_been(model, paragraphs):
    found = silence_heads(model, paragraphs)
    assert found.attrs["block_positions_of_full_passes"] == 6 * 16 * 4 * 24  # paragraphs, heads, layers, tokens
    assert found.attrs["block_positions_run"] == 6 * 4 * (3 + 2 + 1) * 24  # heads of a layer need those above


def test_a_head_that_writes_nothing_is_worth_nothing(model, paragraphs):
    with torch.no_grad():
        model.blocks[2].attn.W_O[1] = 0
    found = silence_heads(model, paragraphs)
    assert abs(found["nll_rise"].sel(layer=2, head=1).values).max() == 0
    assert abs(found["nll_rise"].sel(layer=2, head=0).values).max() > 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"how": "median"}, "how must be one of zero, mean, got 'median'"),
        ({"how": "mean"}, r'how="mean" needs means='),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_silenced_is_refused(model, paragraphs, arguments, message):
    with pytest.raises(InputError, match=message):
        __import__("inspect").unwrap(silence_heads)(model, paragraphs, **arguments)


def test_hooks_on_the_model_are_refused_because_the_sweep_would_not_see_them(model, paragraphs):
    with pytest.raises(InputError, match=r"does not run through hooks, and blocks.0.attn.hook_z has one"):
        with ablated(model, heads=[(0, 0)]):
            model(paragraphs.tokens)
            silence_heads(model, paragraphs)
