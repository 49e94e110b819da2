import pytest
import torch

from memhooks.measure.recitation import recitation
from memhooks.measure.summary import by_count


def test_rows_average_over_the_paragraphs_of_each_count(model, paragraphs):
    result = recitation(model, paragraphs)
    rows = by_count(result, (1, 2, 1, 2, 2, 4))
    assert [row["count"] for row in rows] == ["all", "1", "2", "4"]
    assert [row["paragraphs"] for row in rows] == [6, 2, 3, 1]
    nll = torch.from_numpy(result["nll"].values)
    assert rows[2]["NLL"] == pytest.approx(nll[[1, 3, 4]].mean().item(), abs=1e-3)


def test_unknown_or_too_many_counts_give_one_row(model, paragraphs):
    result = recitation(model, paragraphs)
    assert [row["count"] for row in by_count(result, None)] == ["all"]
    assert [row["count"] for row in by_count(result, (3,) * 6)] == ["all"]
