import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.overlap import SMALLEST_P, mask_overlap
from memhooks.localize.masks.weight_mask import WeightMask

SIZES = {"a": 40, "b": 25, "c": 10}


def mask_of(**indices):
    return WeightMask({name: torch.tensor(own, dtype=torch.int32) for name, own in indices.items()}, SIZES)


def test_chance_is_what_blind_draws_share():
    one = mask_of(a=list(range(12)), b=list(range(10, 15)), c=[])
    other = mask_of(a=list(range(8, 28)), b=list(range(12, 20)), c=[1, 2])
    found = mask_overlap(one, other)
    shared = {name: set(one.of(name).tolist()) & set(other.of(name).tolist()) for name in SIZES}
    assert found.shared == sum(map(len, shared.values())) == 7
    assert found.jaccard == pytest.approx(7 / (17 + 30 - 7))
    draws = np.array(
        [
            mask_overlap(matched_random_weights(one, seed=2 * n), matched_random_weights(other, seed=2 * n + 1)).shared
            for n in range(2000)
        ]
    )
    assert found.expected == pytest.approx(draws.mean(), abs=4 * draws.std() / 2000**0.5)
    assert found.spread == pytest.approx(draws.std(), rel=0.08)
    chance = (draws >= 7).mean()
    assert found.p_value == pytest.approx(chance, abs=4 * (chance / 2000) ** 0.5)
    assert found.ratio == pytest.approx(7 / found.expected)


def test_the_expectation_knows_which_parameters_a_mask_prefers():
    """Ten of each parameter's entries: what is shared by preference of a parameter alone is no surprise."""
    one, other = mask_of(c=[0, 1, 2, 3, 4]), mask_of(c=[2, 3, 4, 5, 6])
    assert mask_overlap(one, other).expected == pytest.approx(2.5)
    assert mask_overlap(one, other).p_value > 0.4


def test_a_mask_shares_everything_with_itself_and_nothing_with_another_parameter():
    one = mask_of(a=list(range(0, 40, 2)))
    same = mask_overlap(one, one)
    assert (same.shared, same.jaccard) == (20, 1.0)
    assert same.p_value == pytest.approx(1 / 137846528820, rel=0.2) or same.p_value == SMALLEST_P
    apart = mask_overlap(one, mask_of(b=[1]))
    assert (apart.shared, apart.jaccard, apart.expected, apart.p_value) == (0, 0.0, 0.0, 1.0)
    assert np.isnan(apart.ratio)


def test_masks_of_a_real_size_take_no_time():
    generator = torch.Generator().manual_seed(0)
    sizes = {str(n): 1_000_000 for n in range(20)}
    one, other = (
        WeightMask(
            {k: torch.randperm(n, generator=generator)[:5000].sort().values.int() for k, n in sizes.items()}, sizes
        )
        for _ in range(2)
    )
    found = mask_overlap(one, other)
    assert found.expected == pytest.approx(500)
    assert 0.001 < found.p_value < 0.999
    assert mask_overlap(one, one).p_value == SMALLEST_P


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="an empty mask shares nothing"):
        mask_overlap(mask_of(a=[]), mask_of(a=[1]))
    with pytest.raises(InputError, match="different parameters"):
        mask_overlap(mask_of(a=[1]), WeightMask({"a": torch.tensor([1], dtype=torch.int32)}, {"a": 40}))
