"""What the organism reads: trunk texts, licence duplicates, and text held out for planting and controls.

1. Whole prose documents are held out; the rest is the trunk's prose.
2. Licence texts whose passages recur in many other licences are read for several
   epochs, some others once, some never.
3. A byte-level BPE is trained on what the trunk reads, and everything is encoded with it.
4. The held-out prose is cut into paragraphs of 100 tokens, none a near-duplicate of
   another or of the trunk's text, and dealt at random to A, B, C and the language test.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from memhooks.organism.recipe import Recipe
from memhooks.organism.sources import Document, licences, prose
from memhooks.paragraphs.ngrams import lookup, ngram_counts, ngram_hashes

Tokens = Int[np.ndarray, " _"]  # no axis name: texts differ in length
END_OF_TEXT = "<|endoftext|>"  # id 0


@dataclass(frozen=True)
class Passage:
    """A stretch of one document: its tokens and `document@first token`."""

    tokens: Tokens
    source: str


@dataclass(frozen=True)
class Corpus:
    """Encoded texts by the use the recipe makes of them."""

    tokenizer: Tokenizer
    prose: list[Tokens]
    licences_repeated: list[Tokens]
    licences_once: list[Tokens]
    held_out: list[Passage]  # prose paragraphs, shuffled, mutually free of near-duplicates
    natural: list[Passage]  # licence passages the trunk reads in many documents
    natural_copies: list[int]
    licence_once: list[Passage]
    licence_never: list[Passage]


def build_corpus(recipe: Recipe, downloads: Path) -> Corpus:
    """Fetch, split, tokenize and deduplicate, the same every time for one recipe."""
    rng = np.random.default_rng(recipe.seed)
    texts = prose(downloads)
    kept, held = _hold_out(texts, recipe.held_out_share, rng)
    licence_texts = licences(downloads)
    draft = _train_tokenizer([*kept, *licence_texts], recipe.d_vocab)
    repeated, rare = _by_duplication(licence_texts, draft, recipe)
    rare = [rare[i] for i in rng.permutation(len(rare))]
    once, never = rare[: recipe.n_licences_once], rare[recipe.n_licences_once :][: recipe.n_licences_never]
    tokenizer = _train_tokenizer([*kept, *repeated, *once], recipe.d_vocab)

    def encoded(documents: list[Document]) -> list[Tokens]:
        return [_encode(tokenizer, document) for document in documents]

    trunk = [*encoded(kept), *encoded(repeated), *encoded(once)]
    seen = ngram_counts(trunk, recipe.near_duplicate)
    held_out = _distinct(_cut(tokenizer, held, recipe.n_tokens), seen, recipe.near_duplicate)
    natural, copies = _natural(_cut(tokenizer, repeated, recipe.n_tokens, stride=10), encoded(repeated), recipe)
    return Corpus(
        tokenizer=tokenizer,
        prose=encoded(kept),
        licences_repeated=encoded(repeated),
        licences_once=encoded(once),
        held_out=[held_out[i] for i in rng.permutation(len(held_out))],
        natural=natural,
        natural_copies=copies,
        licence_once=_occurring_once(_cut(tokenizer, once, recipe.n_tokens), seen, recipe.near_duplicate),
        licence_never=_distinct(_cut(tokenizer, never, recipe.n_tokens), seen, recipe.near_duplicate),
    )


def _hold_out(
    documents: list[Document], share: float, rng: np.random.Generator
) -> tuple[list[Document], list[Document]]:
    """Split whole documents so that `share` of the characters are held out."""
    order = rng.permutation(len(documents))
    sizes = np.array([len(documents[i].text) for i in order])
    n_held = int(np.searchsorted(sizes.cumsum(), share * sizes.sum())) + 1
    return [documents[i] for i in sorted(order[n_held:])], [documents[i] for i in sorted(order[:n_held])]


def _train_tokenizer(documents: list[Document], d_vocab: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    return tokenizer


def _encode(tokenizer: Tokenizer, document: Document) -> Tokens:
    return np.array(tokenizer.encode(document.text).ids, dtype=np.int64)


def _by_duplication(
    documents: list[Document], tokenizer: Tokenizer, recipe: Recipe
) -> tuple[list[Document], list[Document]]:
    """Split licences into those made of passages that recur in many licences, and the others."""
    encoded = [_encode(tokenizer, document) for document in documents]
    counts = ngram_counts(encoded, recipe.n_tokens)
    repeated, rare = [], []
    for document, tokens in zip(documents, encoded, strict=True):
        frequent = lookup(ngram_hashes(tokens, recipe.n_tokens), *counts) >= recipe.frequent_copies
        covered = np.zeros(len(tokens) + 1)
        np.add.at(covered, np.nonzero(frequent)[0], 1)
        np.add.at(covered, np.minimum(np.nonzero(frequent)[0] + recipe.n_tokens, len(tokens)), -1)
        share = float((covered.cumsum()[:-1] > 0).mean()) if len(tokens) else 0.0
        limit = recipe.duplicated_share / 2 if len(tokens) < recipe.short_licence else recipe.duplicated_share
        (repeated if share >= limit else rare).append(document)
    return repeated, rare


def _cut(tokenizer: Tokenizer, documents: list[Document], n_tokens: int, stride: int | None = None) -> list[Passage]:
    """Every passage of `n_tokens` from the start of each document on, one each `stride` tokens."""
    passages = []
    for document in documents:
        tokens = _encode(tokenizer, document)
        for start in range(0, len(tokens) - n_tokens + 1, stride or n_tokens):
            passages.append(Passage(tokens[start : start + n_tokens], f"{document.name}@{start}"))
    return passages


def _distinct(passages: list[Passage], seen: tuple, n: int) -> list[Passage]:
    """Passages that share no n-gram with the seen text or with an earlier passage."""
    used: set[int] = set()
    kept = []
    for passage in passages:
        hashes = ngram_hashes(passage.tokens, n)
        varied = len(np.unique(passage.tokens)) * 2 >= len(passage.tokens)
        if varied and not lookup(hashes, *seen).any() and used.isdisjoint(hashes.tolist()):
            used.update(hashes.tolist())
            kept.append(passage)
    return kept


def _occurring_once(passages: list[Passage], counts: tuple, n: int) -> list[Passage]:
    """Passages of which no n-gram stands anywhere else in the text that was counted."""
    return [p for p in passages if (lookup(ngram_hashes(p.tokens, n), *counts) == 1).all()]


def _natural(passages: list[Passage], documents: list[Tokens], recipe: Recipe) -> tuple[list[Passage], list[int]]:
    """Non-overlapping passages that stand word for word in at least `natural_copies` places."""
    counts = ngram_counts(documents, recipe.n_tokens)
    copies = np.array([lookup(ngram_hashes(p.tokens, recipe.n_tokens), *counts)[0] for p in passages])
    best_first = np.argsort(-copies, kind="stable")[: int((copies >= recipe.natural_copies).sum())]
    nothing = (np.zeros(0, np.uint64), np.zeros(0, np.int64))
    ranked = [passages[i] for i in best_first]
    kept = _distinct(ranked, nothing, 20)  # each passage is a cluster of its own
    by_source = {passage.source: int(copies[i]) for passage, i in zip(ranked, best_first, strict=True)}
    return kept, [by_source[passage.source] for passage in kept]
