import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.errors import InputError
from memhooks.paragraphs.rarity import rarity_ranks


def slow_rank(row, counts, pos, ties):
    own = counts[row[pos]]
    rarer = [other for other in row if counts[other] < own]
    alike = [place for place, other in enumerate(row) if counts[other] == own]
    return {
        "dense": len({counts[other] for other in rarer}),
        "min": len(rarer),
        "max": len(rarer) + len(alike) - 1,
        "average": len(rarer) + (len(alike) - 1) / 2,
        "ordinal": len(rarer) + alike.index(pos),
    }[ties]


@pytest.mark.parametrize("ties", ["dense", "average", "min", "max", "ordinal"])
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 7), min_size=9, max_size=9), min_size=1, max_size=4),
    st.lists(st.integers(0, 5), min_size=8, max_size=8),
)
def test_ranks_equal_a_double_loop(ties, rows, counts):
    ranks = rarity_ranks(torch.tensor(rows), torch.tensor(counts), ties=ties)
    assert ranks.tolist() == [[slow_rank(row, counts, pos, ties) for pos in range(9)] for row in rows]
    assert ranks.is_floating_point() == (ties == "average")


def test_the_default_is_dense_as_published():
    ranks = rarity_ranks(torch.tensor([[3, 0, 3, 1, 2]]), torch.tensor([9, 4, 4, 1]))
    assert ranks.tolist() == [[0, 2, 0, 1, 1]]


@pytest.mark.parametrize(
    ("tokens", "counts", "message"),
    [
        (
            torch.zeros(0, 5, dtype=torch.long),
            torch.ones(3),
            r"non-empty \[paragraph, pos\] tensor, got shape \(0, 5\)",
        ),
        (torch.tensor([[1, 3]]), torch.ones(3), r"must lie in 0\.\.2, where there are counts, got 1\.\.3; give counts"),
        (torch.tensor([[-1, 1]]), torch.ones(3), r"must lie in 0\.\.2, where there are counts, got -1\.\.1"),
        (torch.tensor([[0, 1]]), torch.tensor([1.0, float("nan")]), "counts must be numbers, got NaN; put 0 for"),
    ],
)
def test_tokens_without_counts_are_refused(tokens, counts, message):
    with pytest.raises(InputError, match=message):
        rarity_ranks(tokens, counts)
