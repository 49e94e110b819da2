from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.errors import InputError
from memhooks.paragraphs.files import load_paragraphs
from memhooks.paragraphs.filters import (
    PAPER_KEYWORDS,
    at_most_per_count,
    filtered,
    in_count_range,
    mentions,
    unique_share,
)
from memhooks.paragraphs.paragraphs import Paragraphs


def rows_of(n, n_pos=10):
    return torch.arange(n * n_pos).reshape(n, n_pos)


def texts(*text):
    return Paragraphs(rows_of(len(text)), 4, text=text)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=8))
def test_the_unique_share_is_the_size_of_a_set(rows):
    assert unique_share(Paragraphs(torch.tensor(rows), 3)).tolist() == [len(set(row)) / 6 for row in rows]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the license.", True),
        ("LICENSE", True),
        ("License-text", True),
        ("(TripAdvisor)", True),
        ("tripadvisor", True),
        ("licensed software-free", True),
        ("licensed", False),
        ("sublicense", False),
        ("lIcEnSe", False),
        ("hrefs=", False),
        ("cense li", False),
        ("", False),
    ],
)
def test_keywords_are_found_as_whole_words_in_four_spellings(text, found):
    assert mentions(texts(text), PAPER_KEYWORDS).tolist() == [found]


def test_the_tokens_of_a_keyword_in_another_order_are_no_keyword():
    pieces = ["copy", "right", " holder"]
    right_order, shuffled = "".join(pieces), "".join(reversed(pieces))
    token_of = {piece: number for number, piece in enumerate(pieces)}
    tokens = torch.tensor([[0, 1, 2], [2, 1, 0]])
    assert [set(row) for row in tokens.tolist()] == [set(token_of.values())] * 2
    both = Paragraphs(tokens, 1, text=(right_order, shuffled))
    assert mentions(both, ["copyright"]).tolist() == [True, False]


def test_keywords_of_signs_are_taken_literally_and_no_keyword_is_in_no_text():
    paragraphs = texts("in C++ now", "in C+++", "in c", "in CX now")
    assert mentions(paragraphs, ["C++"]).tolist() == [True, True, False, False]
    assert not mentions(paragraphs, []).any()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_so_many_of_each_count_stay_as_there_are_or_k(counts, k, seed):
    paragraphs = Paragraphs(rows_of(len(counts)), 4, counts=tuple(counts))
    chosen = at_most_per_count(paragraphs, k, seed=seed)
    assert torch.equal(chosen, at_most_per_count(paragraphs, k, seed=seed))
    kept = Counter(count for count, stays in zip(counts, chosen.tolist(), strict=True) if stays)
    assert kept == {count: min(k, n) for count, n in Counter(counts).items()}


def test_who_stays_is_drawn_evenly():
    paragraphs = Paragraphs(rows_of(4), 4, counts=(7, 7, 7, 7))
    times = torch.stack([at_most_per_count(paragraphs, 1, seed=seed) for seed in range(400)]).sum(0)
    assert times.min() > 60


def test_both_ends_of_a_count_range_are_included():
    paragraphs = Paragraphs(rows_of(4), 4, counts=(1, 2, 3, 4))
    assert in_count_range(paragraphs, 2, 3).tolist() == [False, True, True, False]
    assert in_count_range(paragraphs, 2, None).tolist() == [False, True, True, True]
    assert in_count_range(paragraphs, None, 2).tolist() == [True, True, False, False]


def test_filtered_is_all_filters_at_once_and_reports_each():
    tokens = rows_of(6)
    tokens[0] = 1
    paragraphs = Paragraphs(tokens, 4, counts=(0, 0, 5, 5, 5, 9), text=("a license", "b", "License", "c", "d", "e"))
    chosen, report = filtered(paragraphs, per_count=1, seed=3)
    assert (report.n_before, report.n_after) == (6, 2) == (6, len(chosen))
    assert report.dropped == {"min_unique": 1, "without": 2, "counts": 2, "per_count": 1}
    alone = (unique_share(paragraphs) >= 0.5) & ~mentions(paragraphs, PAPER_KEYWORDS)
    alone &= in_count_range(paragraphs, 1, None)
    assert set(chosen.ids) < set(paragraphs.select(alone).ids) == {"3", "4", "5"}


def test_filters_that_are_switched_off_need_neither_text_nor_counts():
    paragraphs = Paragraphs(rows_of(3), 4)
    chosen, report = filtered(paragraphs, without=(), counts=None)
    assert (len(chosen), report.dropped) == (3, {"min_unique": 0})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: filtered(p, counts=None), r"looked up in text, and these paragraphs have none; load them with"),
        (lambda p: filtered(p, without=()), "these paragraphs have no counts; load them with a column `count`"),
        (lambda p: filtered(p, without=(), counts=None, min_unique=1.5), r"min_unique must lie in 0\.\.1, got 1.5"),
        (
            lambda p: filtered(p, without=(), counts=None, min_unique=1.0),
            r"none of 2 paragraphs passes the filters \(min_unique drops 2\); loosen one",
        ),
        (lambda p: mentions(texts("x"), "license"), "keywords must be a list of words, none of them empty, got 'lic"),
        (lambda p: mentions(texts("x"), [""]), "keywords must be a list of words, none of them empty"),
        (lambda p: in_count_range(p, 3, 2), "the least count must not exceed the greatest, got 3 and 2"),
        (lambda p: at_most_per_count(p, 0, seed=0), "at least one paragraph per count must stay, got 0"),
    ],
)
def test_unusable_settings_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(Paragraphs(torch.zeros(2, 10, dtype=torch.long), 4))


def test_the_published_memorized_paragraphs_pass_the_papers_filters(shared_data):
    import csv

    published = shared_data / "gpt-neo-125m"
    with (published / "mem_strings.csv").open(newline="", encoding="utf8") as file:
        table = list(csv.DictReader(file))
    paragraphs = Paragraphs(
        load_paragraphs(published / "50_50_preds.pt").tokens,
        counts=tuple(int(float(row["count"])) for row in table),
        text=tuple(row["paragraph"] for row in table),
    )
    chosen, report = filtered(paragraphs)
    assert len(chosen) == 442
    assert report.dropped == {"min_unique": 0, "without": 0, "counts": 0}
