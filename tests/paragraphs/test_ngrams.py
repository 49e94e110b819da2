import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memhooks.paragraphs.ngrams import lookup, ngram_counts, ngram_hashes

texts = st.lists(st.integers(0, 4), max_size=40)


@given(st.lists(texts, min_size=1, max_size=5), st.integers(1, 6))
def test_counts_equal_a_dictionary_of_tuples(rows, n):
    slow: dict = {}
    for row in rows:
        for i in range(len(row) - n + 1):
            slow[tuple(row[i : i + n])] = slow.get(tuple(row[i : i + n]), 0) + 1
    arrays = [np.array(row, dtype=np.int64) for row in rows]
    known, counts = ngram_counts(arrays, n)
    assert len(known) == len(slow)
    for row, array in zip(rows, arrays, strict=True):
        expected = [slow[tuple(row[i : i + n])] for i in range(len(row) - n + 1)]
        assert lookup(ngram_hashes(array, n), known, counts).tolist() == expected


def test_unknown_hashes_count_zero():
    nothing = (np.zeros(0, np.uint64), np.zeros(0, np.int64))
    assert lookup(ngram_hashes(np.arange(5), 2), *nothing).tolist() == [0, 0, 0, 0]
    known = ngram_counts([np.arange(5)], 2)
    assert lookup(ngram_hashes(np.arange(5)[::-1].copy(), 2), *known).tolist() == [0, 0, 0, 0]


def test_a_hash_does_not_depend_on_the_rest_of_the_text():
    small, large = np.array([1, 2, 3]), np.array([50000, 1, 2, 3])
    assert ngram_hashes(small, 3)[0] == ngram_hashes(large, 3)[1]


def test_rows_of_tokens_are_hashed_as_each_row_alone_and_large_ids_need_no_table():
    rows = np.random.default_rng(0).integers(2**62, size=(4, 9))
    together = ngram_hashes(rows, 3)
    assert together.shape == (4, 7)
    assert all((together[i] == ngram_hashes(row, 3)).all() for i, row in enumerate(rows))
    assert ngram_hashes(rows, 10).shape == (4, 0)


def test_n_must_be_positive():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        ngram_hashes(np.arange(3), 0)
