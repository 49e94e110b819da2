import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.errors import InputError
from memhooks.localize.masks import selection
from memhooks.localize.masks.groups import budgets, grouped
from memhooks.localize.masks.selection import Part, best
from memhooks.localize.masks.top import all_but_top, bottom_weights, top_weights
from memhooks.model.components import component_parameters, components, head_view


def slow_top(scores, k, *, smallest=False):
    """A full sort in Python: value, then parameter order, then index."""
    every = [(abs(v), place, i) for place, s in enumerate(scores.values()) for i, v in enumerate(s.flatten().tolist())]
    names = list(scores)
    sign = 1 if smallest else -1
    ranked = sorted(every, key=lambda one: (sign * one[0], one[1], one[2]))
    return {(names[place], i) for _, place, i in ranked[:k]}


def entries(mask):
    return {(name, int(i)) for name, own in mask.indices.items() for i in own}


@st.composite
def tied_scores(draw):
    """Few distinct values, so that ties are everywhere, or many."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    values = st.integers(-3, 3) if draw(st.booleans()) else st.floats(-(2.0**100), 2.0**100, width=32)
    return {
        f"p{n}": torch.tensor(draw(st.lists(values, min_size=size, max_size=size)), dtype=torch.float32)
        for n, size in enumerate(sizes)
    }


@settings(max_examples=60, deadline=None)
@given(tied_scores(), st.floats(0.001, 1.0), st.booleans())
def test_the_selection_equals_a_full_sort(scores, fraction, tiny):
    n = sum(map(len, scores.values()))
    k = max(1, round(fraction * n))
    before = selection.SMALL, selection.CHUNK
    if tiny:  # so that thresholds, retries and chunks are met, too
        selection.SMALL, selection.CHUNK = 16, 7
    try:
        top, bottom = top_weights(scores, fraction=fraction), bottom_weights(scores, fraction=fraction)
        rest = all_but_top(scores, fraction=fraction)
    finally:
        selection.SMALL, selection.CHUNK = before
    assert entries(top) == slow_top(scores, k)
    assert entries(bottom) == slow_top(scores, k, smallest=True)
    assert entries(rest) == entries(top.complement())
    assert (len(top), len(bottom), len(rest)) == (k, k, n - k)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("fraction", [0.001, 0.3])
def test_large_scores_of_every_dtype_are_ranked_exactly(dtype, fraction):
    generator = torch.Generator().manual_seed(0)
    scores = {
        name: (1000 * torch.randn(n, generator=generator)).to(dtype) for name, n in (("a", 900_000), ("b", 700_000))
    }
    k = round(fraction * 1_600_000)
    values = torch.cat([one.double() for one in scores.values()]).abs()
    for mask, order in (
        (top_weights(scores, fraction=fraction), values.sort(descending=True, stable=True).indices),
        (bottom_weights(scores, fraction=fraction), values.sort(stable=True).indices),
    ):
        found = torch.cat([mask.indices["a"].long(), mask.indices["b"].long() + 900_000])
        assert torch.equal(found, order[:k].sort().values)


def test_a_sample_that_misleads_costs_time_alone():
    """All large values sit where a threshold from the sample lets too few pass."""
    scores = torch.zeros(2_000_000)
    scores[:5] = torch.arange(5, 0, -1)
    (found,) = best([Part("a", 0, scores)], 7)
    assert found.tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_the_size_is_exact_even_when_all_scores_tie(fraction):
    mask = top_weights({"a": torch.zeros(10, 10), "b": torch.zeros(100)}, fraction=fraction)
    assert len(mask) == round(fraction * 200)
    assert mask.fraction == pytest.approx(fraction)
    assert mask.indices["a"].tolist() == list(range(min(100, round(fraction * 200))))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.floats(0, 1))
def test_budgets_sum_to_k_and_are_within_one_of_the_share(sizes, share):
    k = round(share * sum(sizes))
    found = budgets(sizes, k)
    assert sum(found) == k
    for places, size in zip(found, sizes, strict=True):
        assert abs(places - k * size / sum(sizes)) < 1
        assert places <= size


@pytest.mark.parametrize("fraction", [0.0003, 0.01, 0.3])
@pytest.mark.parametrize("per", ["parameter", "layer", "component"])
def test_groups_choose_their_own_top(model, per, fraction):
    generator = torch.Generator().manual_seed(0)
    scores = {
        name: torch.randint(50, w.shape, generator=generator).float() for name, w in component_parameters(model).items()
    }
    mask = top_weights(scores, fraction=fraction, per=per, model=model)
    assert len(mask) == round(fraction * sum(mask.sizes.values()))
    expected = set()
    cells = components(model)
    keys = {
        "parameter": lambda cell: cell.parameter_name,
        "layer": lambda cell: cell.layer,
        "component": lambda cell: cell,
    }
    groups = {}  # group -> {(parameter, index): score}, in the order of the parameters
    for cell in sorted(cells, key=lambda cell: (list(scores).index(cell.parameter_name), cell.head or 0)):
        own = head_view(scores[cell.parameter_name], cell).flatten()
        start = (cell.head or 0) * len(own)
        inside = groups.setdefault(keys[per](cell), {})
        inside |= {(cell.parameter_name, start + i): value for i, value in enumerate(own.tolist())}
    total = sum(map(len, groups.values()))
    k = round(fraction * total)
    order = {"layer": sorted(groups), "parameter": list(scores), "component": cells}[per]
    shares = [k * len(groups[key]) / total for key in order]
    places = [int(share) for share in shares]
    for place in sorted(range(len(order)), key=lambda g: -round(shares[g] % 1, 9))[: k - sum(places)]:
        places[place] += 1
    for key, n in zip(order, places, strict=True):
        expected |= set(sorted(groups[key], key=lambda one: -groups[key][one])[:n])
    assert entries(mask) == expected


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(InputError, match=r"fraction must lie in \(0, 1\]"):
        top_weights({"a": torch.ones(3)}, fraction=fraction)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [10, 2_000_000])
@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_scores_without_a_rank_are_refused(bad, size, fraction):
    scores = {"a": torch.ones(size), "b": torch.ones(3)}
    scores["a"][size // 2] = bad
    for select in (top_weights, bottom_weights):
        with pytest.raises(InputError, match="scores of a contain NaN or infinity, which has no rank"):
            select(scores, fraction=fraction)


def test_groups_that_cannot_be_made_are_refused(model):
    with pytest.raises(InputError, match="per must be one of all, parameter, layer, component, got 'head'"):
        inspect.unwrap(grouped)({"a": torch.ones(3)}, "head", None)
    with pytest.raises(InputError, match="per='layer' needs model="):
        top_weights({"a": torch.ones(3)}, fraction=0.5, per="layer")
    with pytest.raises(InputError, match="a belongs to no layer or component"):
        top_weights({"a": torch.ones(3)}, fraction=0.5, per="component", model=model)
    with pytest.raises(InputError, match="the mask belongs to another model: a has 3"):
        top_weights({"a": torch.ones(3)}, fraction=0.5, model=model)
    for scores in ({}, {"a": torch.ones(3), "b": torch.ones(0)}):
        with pytest.raises(InputError, match="no scores to choose from"):
            top_weights(scores, fraction=0.5)
