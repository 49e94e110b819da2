from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.errors import InputError
from memhooks.paragraphs.matching import matched_pairs
from memhooks.paragraphs.paragraphs import Paragraphs


def some(n, **labels):
    return Paragraphs(torch.arange(n * 10).reshape(n, 10), 4, **labels)


def distances(on):
    """Euclidean distances of all pairs after division by the pooled standard deviation, in plain loops."""
    spread = {name: np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2) for name, (a, b) in on.items()}
    n, m = (len(next(iter(on.values()))[side]) for side in (0, 1))
    squares = np.zeros((n, m))
    for name, (a, b) in on.items():
        for i in range(n):
            for j in range(m):
                squares[i, j] += ((a[i] - b[j]) / spread[name]) ** 2
    return np.sqrt(squares)


def draw(seed, n=5, m=5):
    rng = np.random.default_rng(seed)
    return {"nll": (rng.normal(size=n), rng.normal(1, 2, m)), "length": (rng.integers(9, size=n), rng.normal(size=m))}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_total_distance_is_the_least_of_all_permutations(seed):
    on = draw(seed)
    cost = distances(on)
    least = min(sum(cost[i, p] for i, p in enumerate(order)) for order in permutations(range(5)))
    pairs = matched_pairs(some(5), some(5), on=on)
    assert pairs.distance.sum() == pytest.approx(least)
    at = [(int(one), int(other)) for one, other in zip(pairs.one.ids, pairs.other.ids, strict=True)]
    assert pairs.distance == pytest.approx([cost[pair] for pair in at])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 2.0))
def test_a_caliper_leaves_the_most_pairs_and_of_those_the_least_distance(seed, caliper):
    on = draw(seed)
    cost = distances(on)
    orders = [[cost[i, p] for i, p in enumerate(order) if cost[i, p] <= caliper] for order in permutations(range(5))]
    n_pairs, total = max((len(kept), -sum(kept)) for kept in orders)
    if n_pairs == 0:
        with pytest.raises(InputError, match="no pair is allowed"):
            matched_pairs(some(5), some(5), on=on, caliper=caliper)
        return
    pairs = matched_pairs(some(5), some(5), on=on, caliper=caliper)
    assert len(pairs.one) == len(pairs.other) == n_pairs
    assert pairs.distance.sum() == pytest.approx(-total)
    assert pairs.distance.max() <= caliper


@pytest.mark.parametrize(("n", "m"), [(3, 8), (8, 3)])
def test_the_smaller_set_is_matched_in_full_and_nobody_twice(n, m):
    pairs = matched_pairs(some(n), some(m), on=draw(0, n, m))
    assert len(set(pairs.one.ids)) == len(set(pairs.other.ids)) == 3 == len(pairs.one)


def test_pairs_of_the_same_source_share_it():
    one = some(4, sources=("book", "code", "book", "web"))
    other = some(4, sources=("code", "book", "code", "book"))
    pairs = matched_pairs(one, other, on={"nll": ([0.0, 1.0, 2.0, 3.0], [1.1, 0.5, 1.2, 6.0])}, same_source=True)
    assert pairs.one.sources == pairs.other.sources == ("book", "code", "book")
    assert pairs.other.ids == ("1", "0", "3")


def test_equal_sets_match_themselves_and_ties_always_fall_alike():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    pairs = matched_pairs(some(4), some(4), on={"nll": (values, values)})
    assert pairs.one.ids == pairs.other.ids
    assert not pairs.distance.any()
    tied = [matched_pairs(some(3), some(6), on={"x": ([1, 1, 1], [1] * 6)}) for _ in range(3)]
    assert len({pairs.other.ids for pairs in tied}) == 1


def test_balance_is_told_before_and_after_in_the_spread_before():
    on = {"nll": (np.array([0.0, 1.0]), np.array([0.1, 1.1, 9.0, 10.0]))}
    (row,) = matched_pairs(some(2), some(4), on=on).balance
    spread = np.sqrt((np.var(on["nll"][0], ddof=1) + np.var(on["nll"][1], ddof=1)) / 2)
    assert row["covariate"] == "nll"
    assert (row["one_before"], row["other_before"]) == pytest.approx((0.5, 5.05))
    assert (row["one_after"], row["other_after"]) == pytest.approx((0.5, 0.6))
    assert row["difference_before"] == pytest.approx(-4.55 / spread)
    assert row["difference_after"] == pytest.approx(-0.1 / spread)


FOUR = ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 5.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on": {}}, "matched on at least one covariate, got none"),
        (
            {"on": {"nll": ([1.0, 2.0], FOUR[1])}},
            r"covariate 'nll' needs one number per paragraph, 4 in all, got shape \(",
        ),
        (
            {"on": {"nll": (FOUR[0], [1.0, 2.0, float("nan"), 3.0])}},
            "covariate 'nll' is NaN or infinite for 1 paragraphs",
        ),
        ({"on": {"nll": (["a", "b", "c", "d"], FOUR[1])}}, "covariate 'nll' must hold numbers, got"),
        ({"on": {"nll": ([1.0] * 4, [2.0] * 4)}}, "is 1 in all of one set and 2 in all of the other, so it cannot"),
        ({"on": {"nll": FOUR}, "same_source": True}, "same_source needs sources in both sets"),
        (
            {"on": {"nll": FOUR}, "caliper": -1.0},
            "caliper must be a distance of at least 0 standard deviations, got -1",
        ),
        ({"on": {"nll": FOUR}, "caliper": float("nan")}, "caliper must be a distance of at least 0"),
        (
            {"on": {"nll": ([1.0, 2.0, 3.0, 4.0], [9.0, 8.0, 7.0, 6.0])}, "caliper": 0.1},
            "no pair is allowed: the nearest",
        ),
    ],
)
def test_unusable_covariates_and_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        matched_pairs(some(4), some(4), **settings)


def test_sets_of_another_shape_are_refused():
    longer = Paragraphs(torch.arange(44).reshape(4, 11), 4)
    with pytest.raises(InputError, match="got 10 tokens with a prefix of 4 and 11 with 4; load them with the same"):
        matched_pairs(some(4), longer, on={"nll": FOUR})
    other_prefix = Paragraphs(torch.arange(40).reshape(4, 10), 5)
    with pytest.raises(InputError, match="got 10 tokens with a prefix of 4 and 10 with 5"):
        matched_pairs(some(4), other_prefix, on={"nll": FOUR})
