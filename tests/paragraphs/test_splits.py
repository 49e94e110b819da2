import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memhooks.errors import InputError
from memhooks.paragraphs.files import load_paragraphs
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import check_apart, clusters, split


def slow_clusters(rows, n):
    """Merge any two paragraphs that share n tokens in a row, until nothing changes."""
    grams = [{tuple(row[i : i + n]) for i in range(len(row) - n + 1)} for row in rows]
    label = list(range(len(rows)))
    changed = True
    while changed:
        changed = False
        for a in range(len(rows)):
            for b in range(len(rows)):
                if grams[a] & grams[b] and label[a] != label[b]:
                    label[a] = label[b] = min(label[a], label[b])
                    changed = True
    return label


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=8, max_size=8), min_size=1, max_size=12), st.integers(2, 6))
def test_clusters_equal_brute_force(rows, n):
    found = clusters(Paragraphs(torch.tensor(rows), 4), n=n).tolist()
    slow = slow_clusters(rows, n)
    assert [found[a] == found[b] for a in range(len(rows)) for b in range(len(rows))] == [
        slow[a] == slow[b] for a in range(len(rows)) for b in range(len(rows))
    ]


def test_paragraphs_shorter_than_the_n_gram_are_linked_only_if_identical():
    rows = torch.tensor([[0] * 8, [1] * 8, [0] * 8, [0] * 7 + [1]])
    assert clusters(Paragraphs(rows, 4), n=20).tolist() == [0, 1, 0, 2]


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 0.8), st.integers(0, 1000))
def test_a_split_never_puts_a_cluster_on_both_sides(share, seed):
    tokens = torch.randint(5000, (40, 30), generator=torch.Generator().manual_seed(seed))
    tokens[5:9, 3:25] = tokens[4, 3:25]
    paragraphs = Paragraphs(tokens, 10)
    one, other = split(paragraphs, share=share, seed=seed)
    label = dict(zip(paragraphs.ids, clusters(paragraphs).tolist(), strict=True))
    assert len(one) + len(other) == 40
    assert {label[i] for i in one.ids}.isdisjoint({label[i] for i in other.ids})
    assert abs(len(one) / 40 - share) < 0.15


def test_what_cannot_be_split_is_refused():
    same = Paragraphs(torch.arange(30).repeat(4, 1), 10)
    with pytest.raises(InputError, match="4 paragraphs form 1 clusters, which cannot be split"):
        split(same, share=0.5, seed=0)
    with pytest.raises(InputError, match="share must lie between 0 and 1, got 1"):
        split(same, share=1.0, seed=0)


def numbered(first, n, *, width=30, names="x"):
    """Paragraphs whose tokens occur once in all."""
    tokens = torch.arange(first, first + n * width).reshape(n, width)
    return Paragraphs(tokens, 10, ids=tuple(f"{names}{row}" for row in range(n)))


def test_sets_that_share_nothing_may_stand_beside_each_other():
    check_apart({})
    check_apart({"forget": numbered(0, 2)})
    check_apart({"forget": numbered(0, 2), "retain": numbered(1000, 3), "held_out": numbered(2000, 2, width=24)})


def test_sets_that_share_a_near_duplicate_are_named_with_their_paragraphs():
    forget, retain = numbered(0, 3, names="f"), numbered(1000, 3, names="r")
    retain.tokens[2, :20] = forget.tokens[1, 5:25]
    message = (
        r"forget and retain share near-duplicates \(20 tokens in a row\): f1 of forget and r2 of retain; "
        r"leave them out of retain, or pass allow_shared=True"
    )
    sets = {"forget": forget, "others": numbered(2000, 2), "retain": retain}
    with pytest.raises(InputError, match=message):
        check_apart(sets)
    check_apart(sets, allow_shared=True)
    check_apart({"others": sets["others"], "forget": forget, "retain": retain})  # the later two are not compared
    retain.tokens[2, 19] = 9999  # 19 tokens in a row are left
    check_apart(sets)


def test_sets_of_other_lengths_are_compared_and_links_go_through_others():
    forget, retain = numbered(0, 2, names="f"), numbered(1000, 2, width=40, names="r")
    retain.tokens[0, 3:23] = forget.tokens[0, :20]
    retain.tokens[1, 0:20] = retain.tokens[0, 20:40]
    with pytest.raises(InputError, match="f0 of forget and r0, r1 of retain"):
        check_apart({"forget": forget, "retain": retain})


def test_of_many_shared_paragraphs_some_are_named():
    with pytest.raises(InputError, match=r"x0, x1, .*, x19 and 10 more of forget"):
        check_apart({"forget": numbered(0, 30), "retain": numbered(0, 30)})


def test_the_published_paragraphs_form_71_clusters(shared_data):
    label = clusters(load_paragraphs(shared_data / "gpt-neo-125m" / "50_50_preds.pt"))
    sizes = label.bincount().sort(descending=True).values
    assert len(sizes) == 71
    assert sizes[:5].tolist() == [49, 46, 44, 35, 33]
    assert int((sizes == 1).sum()) == 37
