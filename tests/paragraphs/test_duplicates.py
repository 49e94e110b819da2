import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.errors import InputError
from memhooks.model.labelled import load_result, save_result
from memhooks.paragraphs import duplicates as module
from memhooks.paragraphs.duplicates import duplicates, overlap
from memhooks.paragraphs.files import load_paragraphs
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters

sets = st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=1, max_size=10)
n_grams = st.integers(1, 6)


def grams(row, n):
    return {tuple(row[i : i + n]) for i in range(len(row) - n + 1)}


def slow_nearest(row, others, n):
    """The first of the most similar among `others` (pairs of id and row), by comparing with every one."""
    best = ("", 0.0)
    for name, other in others:
        share = len(grams(row, n) & grams(other, n)) / len(grams(row, n))
        if share > best[1]:
            best = (name, share)
    return best


@settings(max_examples=80, deadline=None)
@given(sets, n_grams)
def test_duplicates_equal_a_comparison_of_all_pairs(rows, n):
    paragraphs = Paragraphs(torch.tensor(rows), 3)
    found = duplicates(paragraphs, n=n)
    assert found["copies"].values.tolist() == [rows.count(row) - 1 for row in rows]
    prefixes = [row[:3] for row in rows]
    assert found["prefix_copies"].values.tolist() == [prefixes.count(prefix) - 1 for prefix in prefixes]
    for i, row in enumerate(rows):
        others = [(str(j), other) for j, other in enumerate(rows) if j != i]
        name, share = slow_nearest(row, others, n)
        assert (found["nearest"].values[i], found["similarity"].values[i]) == (name, pytest.approx(share))
    cluster = clusters(paragraphs, n=n).tolist()
    assert found["cluster"].values.tolist() == cluster
    assert found["cluster_size"].values.tolist() == [cluster.count(own) for own in cluster]


@settings(max_examples=60, deadline=None)
@given(sets, st.lists(st.lists(st.integers(0, 2), min_size=7, max_size=7), min_size=1, max_size=8), n_grams)
def test_overlap_equals_a_comparison_of_all_pairs(rows, others, n):
    found = overlap(Paragraphs(torch.tensor(rows), 3), Paragraphs(torch.tensor(others), 3), n=n)
    for i, row in enumerate(rows):
        name, share = slow_nearest(row, [(str(j), other) for j, other in enumerate(others)], n)
        assert (found["nearest"].values[i], found["similarity"].values[i]) == (name, pytest.approx(share))
        assert bool(found["shares_ngram"].values[i]) == (share > 0)
    assert not found["identical"].values.any()  # rows of another length


def test_a_set_overlaps_with_itself_in_full():
    paragraphs = Paragraphs(torch.randint(9, (5, 30), generator=torch.Generator().manual_seed(0)), 10)
    found = overlap(paragraphs, paragraphs.select([4, 2]))
    assert found["identical"].values.tolist() == [False, False, True, False, True]
    assert found["nearest"].values.tolist() == ["", "", "2", "", "4"]


def test_the_size_of_blocks_does_not_matter(monkeypatch):
    rows = torch.randint(3, (40, 12), generator=torch.Generator().manual_seed(0))
    rows[7] = rows[30]
    paragraphs = Paragraphs(rows, 6)
    whole = duplicates(paragraphs, n=4)
    monkeypatch.setattr(module, "_BLOCK", 7)
    assert duplicates(paragraphs, n=4).identical(whole)


def test_results_are_labelled_and_survive_a_file(tmp_path):
    paragraphs = Paragraphs(torch.arange(60).reshape(2, 30), 10, ids=("x", "y"))
    found = duplicates(paragraphs)
    assert found["paragraph"].values.tolist() == ["x", "y"]
    assert found.attrs["n"] == 20
    assert all(found[name].attrs["units"] for name in found)
    save_result(found, tmp_path / "d.nc")
    assert load_result(tmp_path / "d.nc").equals(found)


@pytest.mark.parametrize("n", [0, 13])
def test_n_grams_that_do_not_fit_are_refused(n):
    short = Paragraphs(torch.zeros(2, 12, dtype=torch.long), 4)
    message = rf"n must lie in 1\.\.12 for paragraphs of 12 tokens, got {n}; give a smaller n"
    with pytest.raises(InputError, match=message):
        duplicates(short, n=n)
    with pytest.raises(InputError, match=message):
        overlap(short, Paragraphs(torch.zeros(2, 30, dtype=torch.long), 4), n=n)


def test_published_paragraphs_repeat_each_other_and_the_extraction_benchmark(shared_data):
    published = load_paragraphs(shared_data / "gpt-neo-125m" / "50_50_preds.pt")
    found = duplicates(published)
    sizes = np.sort(np.bincount(found["cluster"]))[::-1]
    assert (len(sizes), sizes[:5].tolist(), int((sizes == 1).sum())) == (71, [49, 46, 44, 35, 33], 37)
    assert not found["copies"].values.any()
    assert ((found["similarity"] > 0) == (found["cluster_size"] > 1)).all()
    extraction = load_paragraphs(shared_data / "lm-extraction" / "train_prefix.npy")
    shared = overlap(published, extraction)
    assert (int(shared["shares_ngram"].sum()), int(shared["identical"].sum())) == (282, 7)
    repeated = duplicates(extraction)
    distinct = len({row.tobytes() for row in extraction.prefix.contiguous().numpy()})
    assert (distinct, int((repeated["prefix_copies"] > 0).sum())) == (12699, 3450)
