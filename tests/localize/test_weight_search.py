import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.top import top_weights
from memhooks.localize.objectives import forget_nll
from memhooks.localize.weight_search import (
    as_mask,
    largest,
    random_weights_like,
    search_frequency,
    search_weights,
)
from memhooks.model.components import component_parameters, components, head_view
from memhooks.model.labelled import load_result, save_result

REGIONS = [
    {},
    {"layer": 1},
    {"matrices": ("W_V", "W_out")},
    {"head": 2},
    {"layer": 3, "matrices": ("W_O",), "head": 1},
    {"layer": 0, "matrices": ("W_in",)},
]


@pytest.fixture
def gradients(model, paragraphs):
    return weight_gradients(model, paragraphs)


def everything(model, scores, layer=None, matrices=None, head=None):
    """Every weight of a region, one at a time."""
    parameters = dict(model.named_parameters())
    rows = []
    for cell in components(model):
        if (
            layer not in (None, cell.layer)
            or head not in (None, cell.head)
            or cell.matrix not in (matrices or cell.matrix)
        ):
            continue
        own = head_view(scores[cell.parameter_name], cell)
        weights = head_view(parameters[cell.parameter_name], cell)
        for i in range(own.shape[0]):
            for j in range(own.shape[1]):
                place = (cell.layer, cell.label, -1 if cell.head is None else cell.head, i, j)
                rows.append((*place, own[i, j].item(), weights[i, j].item()))
    return rows


@pytest.mark.parametrize("region", REGIONS)
def test_the_rows_are_those_of_a_full_sort_of_the_region(model, gradients, region):
    expected = sorted(everything(model, gradients, **region), key=lambda row: -abs(row[5]))[:37]
    rows = search_weights(model, gradients, k=37, **region)
    names = ("layer", "component", "head", "input", "output", "score", "weight")
    assert list(zip(*(rows[name].values.tolist() for name in names), strict=True)) == expected
    first = expected[0]
    assert rows["row"].values[0] == f"L{first[0]} {first[1]} [{first[3]}, {first[4]}]"


def test_a_filter_for_head_2_finds_the_weight_planted_there_and_not_in_head_0(model):
    """The published code read the slice's indices as those of the whole tensor, so that all noise fell into head 0."""
    scores = {name: torch.zeros_like(weight) for name, weight in component_parameters(model).items()}
    scores["blocks.1.attn.W_V"][2, 30, 5] = -4.0
    scores["blocks.1.attn.W_V"][0, 30, 5] = 9.0
    rows = search_weights(model, scores, k=1, layer=1, matrices=("W_V",), head=2)
    assert rows["row"].values.tolist() == ["L1 W_V 2 [30, 5]"]
    assert rows["score"].item() == -4.0
    assert rows["weight"].item() == model.blocks[1].attn.W_V[2, 30, 5].item()
    indices = {name: own.tolist() for name, own in as_mask(rows, model).indices.items() if len(own)}
    assert indices == {"blocks.1.attn.W_V": [2 * 32 * 8 + 30 * 8 + 5]}
    assert search_weights(model, scores, k=1)["row"].item() == "L1 W_V 0 [30, 5]"


def test_ties_go_to_the_first_and_exactly_k_are_found(model):
    scores = {name: torch.ones_like(weight) for name, weight in component_parameters(model).items()}
    rows = search_weights(model, scores, k=300)
    assert rows.sizes["row"] == 300
    expected = [f"L0 W_Q {n // 256} [{n % 256 // 8}, {n % 8}]" for n in range(300)]
    assert rows["row"].values.tolist() == expected


@pytest.mark.parametrize("n", [0, 1, 4, 9, 20])
def test_the_largest_are_found_whatever_ties(n):
    values = torch.tensor([2, 3, 3, 1, 3, 2, 0, 3, 2])
    assert largest(values, n).tolist() == [1, 2, 4, 7, 0, 5, 8, 3, 6][:n]


def test_rows_as_a_mask_are_the_top_weights(model, gradients):
    total = sum(weight.numel() for weight in gradients.values())
    mask, expected = (
        as_mask(search_weights(model, gradients, k=123), model),
        top_weights(gradients, fraction=123 / total),
    )
    assert len(mask) == 123
    assert dict(mask.sizes) == dict(expected.sizes)
    for name, own in expected.indices.items():
        assert mask.indices[name].tolist() == own.tolist()


def test_random_weights_lie_in_the_same_region_once_each(model, gradients):
    rows = search_weights(model, gradients, k=200, matrices=("W_V", "W_O"), head=2)
    drawn = random_weights_like(model, rows, gradients, seed=1)
    region = {row[:5]: row[5:] for row in everything(model, gradients, matrices=("W_V", "W_O"), head=2)}
    names = ("layer", "component", "head", "input", "output")
    places = list(zip(*(drawn[name].values.tolist() for name in names), strict=True))
    assert len(set(places)) == 200
    assert [region[place] for place in places] == list(
        zip(drawn["score"].values.tolist(), drawn["weight"].values.tolist(), strict=True)
    )
    assert (np.diff(np.abs(drawn["score"])) <= 0).all()
    assert random_weights_like(model, rows, gradients, seed=1).identical(drawn)
    assert not random_weights_like(model, rows, gradients, seed=2)["row"].equals(drawn["row"])


def test_random_weights_are_drawn_evenly(model, gradients):
    """All of a region are found when all are asked for; a third of it hits every cell by its size."""
    whole = search_weights(model, gradients, k=256, layer=2, matrices=("W_K",), head=3)
    assert set(random_weights_like(model, whole, gradients, seed=0)["row"].values) == set(whole["row"].values)
    many = search_weights(model, gradients, k=4000)
    drawn = random_weights_like(model, many, gradients, seed=0)
    share = float(drawn["component"].isin(["W_in", "W_out"]).mean())
    sizes = {name: weight.numel() for name, weight in gradients.items()}
    assert share == pytest.approx(sum(n for name, n in sizes.items() if "mlp" in name) / sum(sizes.values()), abs=0.03)


def test_frequencies_count_each_paragraphs_own_top_weights(model, paragraphs):
    paragraphs = paragraphs.select([0, 3])
    result = search_frequency(model, paragraphs, k=50)
    assert search_frequency(model, paragraphs, k=50, objective=forget_nll)["found"].equals(result["found"])
    for row in range(len(paragraphs)):
        own = sorted(
            everything(model, weight_gradients(model, paragraphs.select([row]))), key=lambda one: -abs(one[5])
        )[:50]
        labels = result["component"].values
        counts = [[sum(one[:2] == (layer, label) for one in own) for label in labels] for layer in range(4)]
        np.testing.assert_array_equal(result["found"][row], counts)
    np.testing.assert_allclose(result["share"], result["found"].mean("paragraph") / 50)
    assert float(result["share"].sum()) == pytest.approx(1)
    assert float(result["expected"].sum()) == pytest.approx(1)
    ratio = result["expected"].sel(layer=1, component="W_in") / result["expected"].sel(layer=1, component="W_V 2")
    assert float(ratio) == pytest.approx(32 * 96 / (32 * 8))


def test_results_are_saved_and_read_back(model, paragraphs, gradients, tmp_path):
    for result in (search_weights(model, gradients, k=5, head=1), search_frequency(model, paragraphs, k=3)):
        save_result(result, tmp_path / "rows.nc")
        assert load_result(tmp_path / "rows.nc").equals(result)
    assert random_weights_like(model, load_result_of(tmp_path, gradients, model), gradients, seed=0).sizes["row"] == 5


def load_result_of(folder, gradients, model):
    save_result(search_weights(model, gradients, k=5, layer=1, matrices=["W_V"]), folder / "again.nc")
    return load_result(folder / "again.nc")


def test_one_matrix_may_be_named_alone(model, gradients):
    one = search_weights(model, gradients, k=4, matrices="W_K")
    assert one.equals(search_weights(model, gradients, k=4, matrices=("W_K",)))


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"layer": 4}, "layer must lie in 0..3, got 4"),
        ({"head": -1}, "head must lie in 0..3, got -1"),
        ({"matrices": ("W_E",)}, "matrices must be among W_Q, W_K, W_V, W_O, W_in, W_out, got 'W_E'"),
        ({"matrices": ("W_in",), "head": 0}, "no scored weights in this region.*MLP matrices have no heads"),
        ({"layers": 1}, "no filter called 'layers'; there are layer, matrices, head"),
    ],
)
def test_regions_that_the_model_lacks_are_refused(model, gradients, region, message):
    with pytest.raises(InputError, match=message):
        search_weights(model, gradients, k=1, **region)


def test_impossible_numbers_and_foreign_scores_are_refused(model, gradients, paragraphs):
    for k in (0, 257):
        with pytest.raises(InputError, match=f"k must lie in 1..256, the number of weights searched, got {k}"):
            search_weights(model, gradients, k=k, layer=0, matrices=("W_V",), head=0)
    with pytest.raises(InputError, match=r"k must lie in 1.."):
        search_frequency(model, paragraphs, k=0)
    with pytest.raises(InputError, match=r"scores are of the weight matrices.*got 'embed.W_E'"):
        search_weights(model, {"embed.W_E": torch.ones(3)}, k=1)
    name = "blocks.0.attn.W_V"
    with pytest.raises(InputError, match=r"must have the weight's shape \(4, 32, 8\), got \(3,\)"):
        search_weights(model, {name: torch.ones(3)}, k=1)
    with pytest.raises(InputError, match="contain NaN"):
        search_weights(model, {name: torch.full((4, 32, 8), torch.nan)}, k=1)
    with pytest.raises(InputError, match="no scored weights in this region"):
        search_weights(model, {name: gradients[name]}, k=1, layer=2)
