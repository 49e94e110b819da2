"""A substitute for the bin 0-10, whose file is not to be had: prefixes of the extraction benchmark.

1. The benchmark's distinct prefixes, in a random order, without those that share 20 tokens with memorized rows.
2. The model continues each greedily; kept where at most 10 tokens agree with the true continuation from its start.
3. Rows are the prefix and the model's own continuation, as in the published files.

These are slices that a larger model can recite, not random text: rows that use them are statistical.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from memhooks.errors import InputError
from memhooks.measure.recitation import exact_match, with_own_continuation
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.paragraphs.files import load_paragraphs, save_paragraphs
from memhooks.paragraphs.ngrams import ngram_hashes
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked
from memhooks.truth.published.files import BIN_FILES, Held, digest
from memhooks.truth.published.targets import MP, NMP

PREFIXES, SUFFIXES = "train_prefix.npy", "train_suffix.npy"
_MOST, _BATCH, _SHARED = 10, 32, 20


@dataclass(frozen=True)
class Benchmark:
    """Where the extraction benchmark lies, and where substitutes are kept, as decoding them takes minutes.

    Attributes:
        folder: of `train_prefix.npy` and `train_suffix.npy`.
        kept: of what was decoded; None keeps nothing.
    """

    folder: Path
    kept: Path | None = None

    def place(self, of: list) -> Path | None:
        """The file of substitutes that were made with these settings."""
        name = blake2b(repr(of).encode(), digest_size=8).hexdigest()
        return None if self.kept is None else self.kept / f"substitute-{name}.parquet"


def extraction_rows(folder: Path) -> Paragraphs:
    """The benchmark's paragraphs.

    Raises:
        InputError: its files are not there.
    """
    if not (folder / PREFIXES).is_file():
        raise InputError(f"no {PREFIXES} in {folder}; the extraction benchmark has it with train_suffix.npy")
    return load_paragraphs(folder / PREFIXES)


def with_substitute(model: HookedModel, held: Held, benchmark: Benchmark, *, n: int, seed: int) -> Held:
    """The same files with up to `n` substitutes as bin 0-10; as they are where its file is there.

    Raises:
        InputError: the benchmark's files are missing, or no row can be used.
    """
    if NMP in held.sets:
        return held
    rows = extraction_rows(benchmark.folder).check(model)
    memorized = held.sets.get(MP)
    known = "" if memorized is None else tensor_hash(memorized.tokens)
    place = benchmark.place([model_hash(model), tensor_hash(rows.tokens), known, n, seed])
    if place is not None and place.is_file():
        own = load_paragraphs(place)
    else:
        own = _made(model, rows, _candidates(rows, memorized, seed), n, benchmark.folder)
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            save_paragraphs(own, place)
    name = f"{len(own)} rows of the extraction benchmark in place of {BIN_FILES[NMP]}"
    given = {name: digest(benchmark.folder / name) for name in (PREFIXES, SUFFIXES)}
    hashes: Mapping[str, str] = {**held.hashes, **given}
    return replace(held, sets={**held.sets, NMP: own}, substitute=name, hashes=hashes)


def _made(model: HookedModel, rows: Paragraphs, order: Int[np.ndarray, " row"], n: int, folder: Path) -> Paragraphs:
    """The substitutes.

    Raises:
        InputError: no row can be used.
    """
    chosen = list(_unrecited(model, rows, order, n))
    if not chosen:
        raise InputError(f"{folder}: the model recites all prefixes, or memorized rows share text with each of them")
    tokens = torch.cat([one.tokens for one in chosen])[:n]
    return Paragraphs(tokens, rows.n_prefix, ids=tuple(f"{NMP} row {number}" for number in range(len(tokens))))


def _candidates(rows: Paragraphs, memorized: Paragraphs | None, seed: int) -> Int[np.ndarray, " row"]:
    """One row of each distinct prefix in a random order, none that shares text with memorized ones."""
    _, first = np.unique(rows.prefix.numpy(), axis=0, return_index=True)
    if memorized is not None:
        known = np.unique(ngram_hashes(memorized.tokens.numpy(), _SHARED))
        first = first[~np.isin(ngram_hashes(rows.tokens.numpy()[first], _SHARED), known).any(1)]
    return np.random.default_rng(seed).permutation(first)


def _unrecited(model: HookedModel, rows: Paragraphs, order: Int[np.ndarray, " row"], n: int) -> Iterator[Paragraphs]:
    there = 0
    for begin in tracked(range(0, len(order), _BATCH), "substitutes"):
        if there >= n:
            return
        some = rows.select(order[begin : begin + _BATCH])
        own = with_own_continuation(model, some)
        low = exact_match(own.continuation == some.continuation) <= _MOST
        if low.any():
            yield own.select(low)
            there += int(low.sum())
