import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.localize.cumulative import ablate_cumulatively
from memhooks.measure.recitation import recitation
from memhooks.model.ablated import ablated

HEADS = [(1, 2), (0, 0), (3, 1)]


def test_each_row_is_an_ablation_of_the_first_heads(model, paragraphs):
    found = ablate_cumulatively(model, {"memorized": paragraphs}, HEADS, n_random=2, seed=4)
    assert found["row"].values.tolist() == [0, 1, 2, 3]
    assert float(found["memorized_nll"][0]) == pytest.approx(float(recitation(model, paragraphs)["nll"].mean()))
    for number in (1, 2, 3):
        with ablated(model, heads=HEADS[:number]):
            slow = recitation(model, paragraphs)
        assert float(found["memorized_nll"][number]) == pytest.approx(float(slow["nll"].mean()), abs=1e-5)
        assert float(found["memorized_em"][number]) == float(slow["exact_match"].mean())
    random = found["memorized_nll_random"].values
    assert random[0] == pytest.approx(found["memorized_nll"].values[0])
    assert not np.isclose(random[1:], found["memorized_nll"].values[1:]).any()


def test_a_negative_number_of_orders_is_refused(model, paragraphs):
    with pytest.raises(InputError, match="n_random must be at least 0, got -1"):
        ablate_cumulatively(model, {"a": paragraphs}, HEADS, n_random=-1)


def test_without_random_orders_their_columns_are_empty(model, paragraphs):
    found = ablate_cumulatively(model, {"a": paragraphs}, HEADS[:1], n_random=0)
    assert np.isnan(found["a_em_random"].values).all()


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([], "give paragraphs to measure and heads to ablate"),
        ([(0, 1), (0, 1)], "each head once"),
        ([(layer, head) for layer in range(4) for head in range(3)], "only 4 other heads to draw 12 from"),
        ([(9, 0)], "layer must lie in 0..3"),
    ],
)
def test_orders_that_make_no_sense_are_refused(model, paragraphs, heads, message):
    with pytest.raises(InputError, match=message):
        ablate_cumulatively(model, {"a": paragraphs}, heads)
