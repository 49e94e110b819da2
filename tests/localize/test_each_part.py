import inspect

import pytest
import torch

import memhooks
from memhooks.errors import InputError
from memhooks.localize.each_part import ablate_each, every_head, every_layer, silence_heads
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


EDGES = [(1, 2, 11, 5), (2, 0, 23, 0), (0, 3, 12, 12)]
PARTS = {
    "heads": [(0, 1), (3, 2), (1, 0)],
    "neurons": [(1, 5), (0, 95)],
    "edges": EDGES,
    "mlp_layers": [2, 0],
    "attention_layers": [3],
}


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_every_kind_of_part_equals_an_ablation_by_a_hook_and_a_full_pass(model, paragraphs, how):
    sites = ("z", "post", "mlp_out", "attn_out", "pattern")
    others = paragraphs.tokens.flip(1)
    means = activation_means(model, others, sites=sites) if how == "mean" else None
    source = others if how == "resample" else None
    found = ablate_each(model, paragraphs, how=how, means=means, source=source, seed=3, batch_size=5, **PARTS)
    clean = recitation(model, paragraphs)
    places = [(kind, place) for kind, listed in PARTS.items() for place in listed]
    assert found.sizes["row"] == len(places)
    for number, (kind, place) in enumerate(places):
        with ablated(model, how=how, means=means, source=source, seed=3, **{kind: [place]}):
            slow = recitation(model, paragraphs)
        cell = found.isel(row=number)
        rise = (slow["nll"] - clean["nll"]).mean("pos").values
        assert cell["nll_rise"].values == pytest.approx(rise, rel=1e-5, abs=1e-5), (kind, place)
        assert (cell["em_drop"].values == (clean["exact_match"] - slow["exact_match"]).values).all()


def test_parts_are_named(model, paragraphs):
    names = ablate_each(model, paragraphs, **PARTS)["row"].values.tolist()
    assert names[:4] == ["L0H1", "L3H2", "L1H0", "L1 neuron 5"]
    assert names[5:] == [
        "L1H2 query 11 key 5",
        "L2H0 query 23 key 0",
        "L0H3 query 12 key 12",
        "MLP 2",
        "MLP 0",
        "attention 3",
    ]
    assert len(every_head(model)) == 16
    assert ablate_each(model, paragraphs, **every_layer(model)).sizes["row"] == 8


def test_the_head_that_carries_the_organisms_recitation_is_found(organism):
    planted = memhooks.load_planted("A", at_least=128).sample(3, seed=0)
    control = memhooks.load_controls("prose").sample(3, seed=0)
    memorized, other = (silence_heads(organism, rows)["nll_rise"].mean("paragraph") for rows in (planted, control))
    worst = memorized.stack(cell=("layer", "head")).idxmax().item()
    assert worst == (0, 5)
    assert float(memorized.sel(layer=0, head=5)) > float(other.sel(layer=0, head=5))


def test_the_result_says_how_much_was_run_and_what_full_passes_would_have_been(model, paragraphs):
    found = silence_heads(model, paragraphs)
    assert found.attrs["block_positions_of_full_passes"] == 6 * 16 * 4 * 24  # paragraphs, heads, layers, tokens
    assert found.attrs["block_positions_run"] == 6 * 4 * (3 + 2 + 1) * 23  # heads of a layer need those above


def test_a_head_that_writes_nothing_is_worth_nothing(model, paragraphs):
    with torch.no_grad():
        model.blocks[2].attn.W_O[1] = 0
    found = silence_heads(model, paragraphs)
    assert abs(found["nll_rise"].sel(layer=2, head=1).values).max() == 0
    assert abs(found["nll_rise"].sel(layer=2, head=0).values).max() > 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"how": "median"}, "how must be one of zero, mean, resample, got 'median'"),
        ({"how": "mean"}, r'how="mean" needs means='),
        ({"how": "resample"}, r'how="resample" needs source='),
        ({"how": "resample", "source": torch.zeros(1, 24, dtype=torch.long)}, "at least 2 rows of 24 tokens"),
        ({"how": "resample", "source": torch.zeros(3, 20, dtype=torch.long)}, r"of 24 tokens, got shape \(3, 20\)"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_silenced_is_refused(model, paragraphs, arguments, message):
    with pytest.raises(InputError, match=message):
        inspect.unwrap(ablate_each)(model, paragraphs, heads=[(0, 0)], **arguments)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "nothing to ablate"),
        ({"heads": [(0, 4)]}, "head must lie in 0..3, got 4"),
        ({"edges": [(1, 0, 30, 29)]}, "the paragraphs have 24 tokens, too short for an edge from query 30"),
    ],
)
def test_parts_that_are_not_there_are_refused(model, paragraphs, parts, message):
    with pytest.raises(InputError, match=message):
        ablate_each(model, paragraphs, **parts)


def test_hooks_on_the_model_are_refused_because_the_sweep_would_not_see_them(model, paragraphs):
    with pytest.raises(InputError, match=r"does not run through hooks, and blocks.0.attn.hook_z has one"):
        with ablated(model, heads=[(0, 0)]):
            model(paragraphs.tokens)
            silence_heads(model, paragraphs)
