import pytest
import torch

from memhooks.errors import InputError
from memhooks.paragraphs.paragraphs import Paragraphs

ROWS = torch.arange(40).reshape(4, 10)


def test_prefix_and_continuation_are_the_row_cut_in_two():
    paragraphs = Paragraphs(ROWS, n_prefix=4)
    assert torch.equal(torch.cat([paragraphs.prefix, paragraphs.continuation], dim=1), ROWS)
    assert (len(paragraphs), paragraphs.n_continuation) == (4, 6)


def test_rows_stay_raw_and_small_integers_become_int64():
    paragraphs = Paragraphs(ROWS.to(torch.int16), n_prefix=4)
    assert paragraphs.tokens.dtype == torch.int64
    assert torch.equal(paragraphs.tokens, ROWS)


def test_selection_keeps_labels_with_their_rows():
    paragraphs = Paragraphs(ROWS, 4, ids=("a", "b", "c", "d"), counts=(1, 2, 3, 4), sources=("w", "x", "y", "z"))
    chosen = paragraphs.select(torch.tensor([False, True, False, True]))
    assert (chosen.ids, chosen.counts, chosen.sources) == (("b", "d"), (2, 4), ("x", "z"))
    assert torch.equal(chosen.tokens, ROWS[[1, 3]])
    assert paragraphs.select(slice(1, 3)).ids == ("b", "c")
    assert paragraphs.select([-1]).ids == ("d",)


def test_samples_are_the_same_for_a_seed_and_never_repeat():
    paragraphs = Paragraphs(torch.arange(1000).reshape(100, 10), 4)
    one, again, other = (paragraphs.sample(30, seed=seed) for seed in (1, 1, 2))
    assert one.ids == again.ids != other.ids
    assert len(set(one.ids)) == 30
    assert paragraphs.sample(1000, seed=0) is paragraphs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Paragraphs(torch.zeros(0, 10, dtype=torch.long)), "non-empty"),
        (lambda: Paragraphs(ROWS, n_prefix=10), r"n_prefix must lie in 1..9 for paragraphs of 10 tokens, got 10"),
        (lambda: Paragraphs(ROWS, n_prefix=0), "n_prefix must lie in"),
        (lambda: Paragraphs(-ROWS, n_prefix=4), "must not be negative, got -39"),
        (lambda: Paragraphs(ROWS + 2**31, n_prefix=4), "token ids must lie below 2147483648, got 2147483687"),
        (lambda: Paragraphs(ROWS, 4, ids=("a",)), "ids must name 4 paragraphs, got 1"),
        (lambda: Paragraphs(ROWS, 4, counts=(1, 2)), "counts must name 4 paragraphs, got 2"),
        (lambda: Paragraphs(ROWS, 4).select([]), "no paragraphs selected"),
        (lambda: Paragraphs(ROWS, 4).select([4]), r"rows must lie in 0..3"),
    ],
)
def test_unusable_paragraphs_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_paragraphs_a_model_cannot_read_are_refused(model):
    with pytest.raises(InputError, match="were the paragraphs made with another tokenizer"):
        Paragraphs(torch.full((1, 10), 101), 4).check(model)
    with pytest.raises(InputError, match="100 tokens do not fit the model's context of 64"):
        Paragraphs(torch.zeros(1, 100, dtype=torch.long)).check(model)
