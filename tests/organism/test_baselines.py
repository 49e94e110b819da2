import numpy as np
import pytest

from memhooks.organism.baselines import Trigram, unigram_nll


def slow_trigram(texts, d_vocab, a, b, c):
    """Witten and Bell's interpolation, counted by hand."""
    p = 1 / d_vocab
    for context in ((), (b,), (a, b)):
        n = len(context)
        following = [t[i + n] for t in texts for i in range(len(t) - n) if tuple(t[i : i + n]) == context]
        if following:
            p = (following.count(c) + len(set(following)) * p) / (len(following) + len(set(following)))
    return p


def test_the_trigram_equals_counting_by_hand_and_sums_to_one():
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, size=40), rng.integers(5, size=30)]
    model = Trigram(texts, 5)
    for a, b in ((0, 1), (4, 4), (2, 3)):
        p = [np.exp(-model.nll(np.array([a, b, c]))[2]) for c in range(5)]
        assert sum(p) == pytest.approx(1.0)
        assert p == pytest.approx([slow_trigram([t.tolist() for t in texts], 5, a, b, c) for c in range(5)])


def test_an_unseen_context_falls_back_to_the_shorter_one():
    model = Trigram([np.array([0, 1, 2])], 4)
    assert model.nll(np.array([3, 3, 1]))[2] == pytest.approx(model.nll(np.array([1]))[0])


def test_the_unigram_sums_to_one():
    counts = np.array([5, 0, 3])
    assert np.exp(-unigram_nll(np.arange(3), counts)).sum() == pytest.approx(1.0)
