import pytest

from memhooks.truth.published.run import QUANTITIES
from memhooks.truth.published.targets import BINS, LAYER_SUMS, NUMBERS, TARGETS, target


def test_all_rows_of_the_table_are_there_and_each_is_measured_once():
    assert tuple(range(1, 22)) == NUMBERS
    keys = [one.key for one in TARGETS]
    assert len(set(keys)) == len(keys)
    assert sorted(keys) == sorted(key for one in QUANTITIES for key in one.keys)
    assert [one.number for one in TARGETS] == sorted(one.number for one in TARGETS)


@pytest.mark.parametrize("of", BINS)
def test_published_layer_sums_add_up_to_the_published_sum(of):
    assert len(LAYER_SUMS[of]) == 12
    assert sum(LAYER_SUMS[of]) == pytest.approx(target(f"6.{of}").published[0], abs=0.03)  # twelve roundings
    assert target(f"6.layers {of}").published == LAYER_SUMS[of]


def test_tolerance_is_the_rounding_of_the_published_digits():
    ours = target("6.50")
    assert ours.within((9.7149,))
    assert ours.within((9.705,))
    assert not ours.within((9.74,))
    counts = target("1.MP")
    assert counts.within((442.0,))
    assert not counts.within((443.0,))
    layers = target("6.layers 50")
    off = list(LAYER_SUMS["50"])
    assert layers.within(tuple(off))
    off[3] += 0.02
    assert not layers.within(tuple(off))
