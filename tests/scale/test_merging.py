"""Near-duplicates fall together as by comparing each find with every kept one."""

import inspect

import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.scale.merging import _bands, merged

LENGTH = 40


def families(seed):
    """Texts with copies of several degrees of likeness, and windows that overlap by half."""
    rng = np.random.default_rng(seed)
    rows = []
    for text in rng.integers(0, 500, (15, 2 * LENGTH)):
        rows += [text[:LENGTH], text[LENGTH // 2 :][:LENGTH], text[:LENGTH]]
        for n_edits in (1, 2, 8):
            edited = text[:LENGTH].copy()
            edited[rng.integers(0, LENGTH, n_edits)] = rng.integers(0, 500, n_edits)
            rows.append(edited)
    order = rng.permutation(len(rows))
    return np.array(rows)[order], rng.integers(0, 5, len(rows)).astype(float)


def by_brute_force(rows, rank, similar, n=5):
    def grams(row):
        return {tuple(row[start : start + n]) for start in range(len(row) - n + 1)}

    kept, stands, known = [], {}, {}
    for at in sorted(range(len(rows)), key=lambda at: (-rank[at], at)):
        own, row = grams(rows[at]), tuple(rows[at])
        if row in known:  # a copy goes with the best of its kind
            stands[at] = stands[known[row]]
            continue
        known[row] = at
        alike = [(len(own & other) / len(own | other), -place) for place, (_, other) in enumerate(kept)]
        best = max(alike, default=(0, 0))
        if best[0] >= similar:
            stands[at] = kept[-best[1]][0]
        else:
            stands[at] = at
            kept.append((at, own))
    return [stands[at] for at in range(len(rows))]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("similar", [0.6, 0.9])
def test_representatives_are_those_of_brute_force(seed, similar):
    rows, rank = families(seed)
    found = merged(rows, rank, similar=similar)
    assert found.representative.tolist() == by_brute_force(rows, rank, similar)
    kept = np.unique(found.representative)
    assert found.near[kept].sum() == len(np.unique(rows, axis=0)) - len(kept)
    assert found.copies.tolist() == [int((rows == row).all(1).sum()) for row in rows]


def test_neighbouring_windows_stay_and_copies_alone_can_be_merged():
    text = np.arange(200)
    windows = np.stack([text[start : start + 100] for start in (0, 50, 100)])
    assert merged(windows, np.zeros(3)).representative.tolist() == [0, 1, 2]
    nearly = np.stack([text[:100], text[:100], np.r_[text[:99], 0]])
    assert merged(nearly, np.array([0.0, 1.0, 2.0])).representative.tolist() == [2, 2, 2]
    assert merged(nearly, np.array([0.0, 1.0, 2.0]), similar=1).representative.tolist() == [1, 1, 2]


def test_a_small_similarity_needs_more_permutations_and_finds_what_brute_force_finds():
    rows, rank = families(7)
    with pytest.raises(InputError, match=r"similar=0\.02 needs n_permutations of at least 263, got 128"):
        merged(rows, rank, similar=0.02)
    for similar, n_permutations in ((0.2, 128), (0.02, 300)):
        found = merged(rows, rank, similar=similar, n_permutations=n_permutations)
        assert found.representative.tolist() == by_brute_force(rows, rank, similar)


@pytest.mark.parametrize("similar", [0.3, 0.5, 0.7, 0.95])
def test_bands_let_through_what_is_just_similar_enough(similar):
    n_bands, n_rows = _bands(similar, 128)
    assert n_bands * n_rows <= 128
    assert 1 - (1 - similar**n_rows) ** n_bands >= 0.995
    assert 1 - (1 - similar ** (n_rows + 1)) ** (128 // (n_rows + 1)) < 0.995  # more rows would miss too many


def test_ranks_of_unsigned_numbers_are_compared_as_numbers():
    rows = np.stack([np.arange(40)] * 3)
    assert merged(rows, np.array([0, 200, 100], np.uint8)).representative.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("tokens", "rank", "message"),
    [
        (np.zeros((0, 9), int), np.zeros(0), r"finds need tokens of shape .* got \(0, 9\)"),
        (np.zeros(9, int), np.zeros(9), r"finds need tokens of shape .* got \(9,\)"),
        (np.zeros((2, 9), int), np.zeros(3), r"one rank each: got ranks of shape \(3,\) for 2 finds"),
        (np.zeros((2, 9), int), np.array([0.0, np.nan]), r"ranks must be numbers, but 1 of 2 are NaN"),
    ],
)
def test_what_cannot_be_merged_is_refused(tokens, rank, message):
    with pytest.raises(InputError, match=message):
        inspect.unwrap(merged)(tokens, rank)  # without the check of shapes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 10}, r"n must lie in 1\.\.9"),
        ({"similar": 0}, r"similar must lie above 0 and up to 1, got 0"),
        ({"similar": 1.5}, r"similar must lie above 0 and up to 1, got 1\.5"),
        ({"n_permutations": 0}, r"n_permutations must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        merged(np.zeros((2, 9), int), np.zeros(2), **settings)
