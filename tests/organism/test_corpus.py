from pathlib import Path

import numpy as np
import pytest

from memhooks.organism import corpus, sources
from memhooks.organism.corpus import build_corpus
from memhooks.organism.recipe import Recipe
from memhooks.organism.sources import Document, fetch
from memhooks.paragraphs.ngrams import ngram_counts, ngram_hashes

RECIPE = Recipe(
    d_vocab=400,
    n_tokens=20,
    held_out_share=0.2,
    frequent_copies=4,
    natural_copies=4,
    n_licences_once=5,
    n_licences_never=5,
    near_duplicate=6,
    short_licence=0,
)


def sentences(rng, n):
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "ten", "sur", "pal") for b in ("ra", "no", "dis", "mel", "gru")]
    return " ".join(" ".join(rng.choice(words, size=9)) + "." for _ in range(n))


@pytest.fixture(scope="module")
def built():
    rng = np.random.default_rng(0)
    boilerplate = sentences(rng, 12)
    texts = [Document(f"prose/{i}", sentences(rng, 30)) for i in range(20)]
    licences = [Document(f"spdx/dup{i}", boilerplate + f" Variant {i}.") for i in range(6)]
    licences += [Document(f"spdx/rare{i}", sentences(rng, 12)) for i in range(12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "prose", lambda folder: texts)
        patch.setattr(corpus, "licences", lambda folder: licences)
        return build_corpus(RECIPE, Path())


def test_held_out_paragraphs_share_nothing_with_the_trunk_or_each_other(built):
    trunk, _ = ngram_counts([*built.prose, *built.licences_repeated, *built.licences_once], 6)
    own = [set(ngram_hashes(p.tokens, 6).tolist()) for p in built.held_out]
    assert len(built.held_out) > 10
    assert all(grams.isdisjoint(trunk.tolist()) for grams in own)
    assert sum(map(len, own)) == len(set.union(*own))


def test_licences_made_of_frequent_passages_are_the_repeated_ones(built):
    assert (len(built.licences_repeated), len(built.licences_once)) == (6, 5)
    assert built.natural
    for passage, copies in zip(built.natural, built.natural_copies, strict=True):
        places = sum(
            (np.lib.stride_tricks.sliding_window_view(text, 20) == passage.tokens).all(1).sum()
            for text in built.licences_repeated
        )
        assert places == copies >= 4


def test_never_seen_licence_passages_are_not_in_the_trunk(built):
    trunk, _ = ngram_counts([*built.prose, *built.licences_repeated, *built.licences_once], 6)
    assert built.licence_never
    assert all(set(ngram_hashes(p.tokens, 6).tolist()).isdisjoint(trunk.tolist()) for p in built.licence_never)


def test_a_tampered_archive_is_refused(tmp_path):
    (tmp_path / sources.SPDX.archive).write_bytes(b"other content")
    with pytest.raises(RuntimeError, match="the recipe pins"):
        fetch(sources.SPDX, tmp_path)
