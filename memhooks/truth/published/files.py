"""What a folder of published files holds: paragraphs by EM bin, pairs, and the table of the memorized ones.

Nothing is unpickled. Files of the published names but with other content are used and said to be others.
"""

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from memhooks.errors import InputError
from memhooks.measure.pairs import Pairs
from memhooks.measure.recitation import exact_match
from memhooks.paragraphs.contents import read_bytes, read_text
from memhooks.paragraphs.files import load_paragraphs
from memhooks.paragraphs.paragraphs import Paragraphs

BIN_FILES = {"50": "50_50_preds.pt", "30-49": "30_49_preds.pt", "11-29": "11_29_preds.pt", "0-10": "0_10_preds.pt"}
CLEAN, PERTURBED, STRINGS = "mem_toks.pt", "perturbed_mem_toks.pt", "mem_strings.csv"
NEEDED = BIN_FILES | {"pairs": f"{CLEAN} with {PERTURBED}", "strings": STRINGS}
"""The file behind each thing that a row may need."""
KNOWN = {
    "50_50_preds.pt": "6d312a681d9d7dba",
    "30_49_preds.pt": "33043ff15f47b3a7",
    "11_29_preds.pt": "58203de5f4368415",
    "mem_toks.pt": "aa23f7cd3cf478b5",
    "perturbed_mem_toks.pt": "ec6c85b7e58a2cdf",
    "mem_strings.csv": "36e98191a7e90c59",
}
"""First 16 digits of the SHA-256 of the published files; that of `0_10_preds.pt` is not known, only its rows."""
_UNHASHED_ROWS = 12422
_FILES = {name: (file,) for name, file in BIN_FILES.items()} | {"pairs": (CLEAN, PERTURBED), "strings": (STRINGS,)}


@dataclass(frozen=True)
class Strings:
    """What `mem_strings.csv` says of each memorized paragraph, in the order of `50_50_preds.pt`."""

    ids: Int[np.ndarray, " paragraph"]
    counts: Int[np.ndarray, " paragraph"]
    nll: Float[np.ndarray, " paragraph"]


@dataclass(frozen=True)
class Held:
    """What was found.

    Attributes:
        sets: paragraphs by EM bin.
        pairs: memorized paragraphs with their perturbed twins.
        strings: the table of the memorized ones.
        hashes: 16 digits of the SHA-256 of each file.
        substitute: where the bin 0-10 comes from if not from its file, else "".
    """

    sets: Mapping[str, Paragraphs]
    pairs: Pairs | None = None
    strings: Strings | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    substitute: str = ""

    @property
    def others(self) -> list[str]:
        """Files of a published name with other content."""
        return [name for name, digest in self.hashes.items() if KNOWN.get(name, digest) != digest]

    def foreign(self, needs: tuple[str, ...]) -> list[str]:
        """The files with other content than the published ones, of those that a row needs."""
        files = [file for one in needs for file in _FILES.get(one, ())]
        found = [name for name in files if name in self.others]
        rows = self.sets.get("0-10")
        if "0-10" in needs and rows is not None and not self.substitute and len(rows) != _UNHASHED_ROWS:
            found.append(f"{BIN_FILES['0-10']} has {len(rows):,} rows instead of {_UNHASHED_ROWS:,}")
        return found

    def lacks(self, needs: tuple[str, ...]) -> list[str]:
        """The files that are missing of what a row needs; the model does not count."""
        have = {*self.sets} | ({"pairs"} if self.pairs else set()) | ({"strings"} if self.strings else set())
        return [NEEDED[one] for one in needs if one != "model" and one not in have]


def held(folder: Path) -> Held:
    """Read what a folder holds; every published file may be missing, but not all.

    Raises:
        InputError: there is no such folder, it holds none of the files, or one is damaged or of another shape.
    """
    if not folder.is_dir():
        raise InputError(
            f"no folder at {folder}; give one that holds some of {', '.join([*BIN_FILES.values(), STRINGS])}"
        )
    there = [name for name in (*BIN_FILES.values(), CLEAN, PERTURBED, STRINGS) if (folder / name).is_file()]
    if not there:
        raise InputError(f"{folder} holds none of {', '.join([*BIN_FILES.values(), CLEAN, PERTURBED, STRINGS])}")
    sets = {name: _rows(folder / file, name) for name, file in BIN_FILES.items() if file in there}
    pairs = None
    if CLEAN in there and PERTURBED in there:
        pairs = as_pairs(_rows(folder / CLEAN, "pair"), _rows(folder / PERTURBED, "pair"), folder)
    strings = read_strings(folder / STRINGS) if STRINGS in there else None
    if strings is not None and "50" in sets and len(strings.nll) != len(sets["50"]):
        raise InputError(
            f"{folder}: {STRINGS} has {len(strings.nll)} rows, {BIN_FILES['50']} {len(sets['50'])}; "
            "they must be of the same paragraphs in the same order"
        )
    return Held(sets, pairs, strings, {name: digest(folder / name) for name in there})


def digest(path: Path) -> str:
    """The first 16 digits of a file's SHA-256."""
    return hashlib.sha256(read_bytes(path)).hexdigest()[:16]


def as_pairs(clean: Paragraphs, perturbed: Paragraphs, folder: Path) -> Pairs:
    """Memorized paragraphs and their twins as pairs, if one prefix token of each is replaced.

    Raises:
        InputError: they are of different shape, or a prefix differs in no token or in several.
    """
    if clean.tokens.shape != perturbed.tokens.shape:
        raise InputError(
            f"{folder}: {CLEAN} and {PERTURBED} must have the same shape, got {tuple(clean.tokens.shape)} and "
            f"{tuple(perturbed.tokens.shape)}"
        )
    differs = clean.prefix != perturbed.prefix
    wrong = (differs.sum(1) != 1).nonzero().flatten().tolist()
    if wrong:
        raise InputError(
            f"{folder}: one prefix token of each pair is replaced, but row {wrong[0]} of {PERTURBED} differs in "
            f"{int(differs[wrong[0]].sum())}"
        )
    hits = clean.continuation == perturbed.continuation
    impact = torch.where(hits.all(1), -1, clean.n_prefix + exact_match(hits))
    return Pairs(clean, perturbed, differs.long().argmax(1), impact)


def read_strings(path: Path) -> Strings:
    """Read the table of memorized paragraphs: `id`, `count`, `nll`; their text is not needed.

    Raises:
        InputError: it is not CSV with these columns, holds no row, or one is not a number.
    """
    rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    missing = [name for name in ("id", "count", "nll") if not rows or name not in rows[0]]
    if missing:
        raise InputError(f"{path}: expected a table with columns id, count and nll, {', '.join(missing)} missing")
    try:
        ids, counts, nll = ([float(row[name]) for row in rows] for name in ("id", "count", "nll"))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: id, count and nll must be numbers ({error})") from error
    return Strings(np.array(ids).astype(np.int64), np.array(counts).astype(np.int64), np.array(nll))


def _rows(path: Path, name: str) -> Paragraphs:
    rows = load_paragraphs(path)
    ids = tuple(f"{name} row {number}" for number in range(len(rows)))
    return Paragraphs(rows.tokens, rows.n_prefix, ids=ids)
