"""The finds of a scan, merged: one row per text, with how often and where it stands."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memhooks.model.loading import HookedModel
from memhooks.paragraphs.files import save_paragraphs
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.scale.merging import merged
from memhooks.scale.parts import Part, Tally
from memhooks.scale.scan_settings import ScanSettings
from memhooks.writing import whole_file


@dataclass(frozen=True)
class Found:
    """What a scan found.

    Attributes:
        paragraphs: one per text, copies and near-duplicates merged, in the corpus's order; `counts` are exact copies
            among the windows that were kept, `sources` document and first token. None if nothing was kept.
        exact_match: tokens recited before the first miss.
        log_probability: of one sample being the continuation, in nats; NaN where it was not read to its end.
        near: other texts that each stands for.
        n_kept: windows that the rule kept, copies included.
        tally: all windows.
    """

    paragraphs: Paragraphs | None
    exact_match: np.ndarray
    log_probability: np.ndarray
    near: np.ndarray
    n_kept: int
    tally: Tally

    def summary(self) -> dict[str, Any]:
        """Numbers of windows and texts, exact matches, and faults, as plain data."""
        return {
            "windows": self.tally.windows,
            "dropped": self.tally.dropped,
            "read": sum(self.tally.matches),
            "kept": self.n_kept,
            "texts": 0 if self.paragraphs is None else len(self.paragraphs),
            "exact_match": list(self.tally.matches),
            "faults": [asdict(fault) for fault in self.tally.faults],
        }


def merge_parts(folder: Path, parts: Iterable[Part], model: HookedModel, settings: ScanSettings) -> Found:
    """Merge the parts of a scan and write `found.parquet` (if anything was found) and `summary.json`."""
    whole = Part()
    for part in parts:
        whole = whole.plus(part)
    found = _merge(whole, model, settings)
    if found.paragraphs is not None:
        also = {
            "exact_match": found.exact_match.tolist(),
            "log_probability": found.log_probability.tolist(),
            "near": found.near.tolist(),
        }
        save_paragraphs(found.paragraphs, folder / "found.parquet", also=also)
    with whole_file(folder / "summary.json") as partial:
        partial.write_text(json.dumps(found.summary(), indent=2))
    return found


def _merge(whole: Part, model: HookedModel, settings: ScanSettings) -> Found:
    finds = whole.finds
    match, log = (finds[name].to_numpy() for name in ("exact_match", "log_probability"))
    if not len(finds):
        return Found(None, match, log, match, 0, whole.tally)
    tokens = np.stack(finds["tokens"].to_numpy())
    # Of equal exact match the likelier one stands for the other; a probability is at most 1.
    rank = match + np.nan_to_num(np.exp(log)) / 2
    groups = merged(tokens, rank, similar=settings.similar)
    first = np.nonzero(groups.representative == np.arange(len(finds)))[0]
    places = zip(finds["source"].take(first).to_pylist(), finds["offset"].take(first).to_pylist(), strict=True)
    paragraphs = Paragraphs(
        torch.from_numpy(tokens[first].astype(np.int64)),
        settings.n_prefix,
        ids=tuple(f"F{number:06d}" for number in range(len(first))),
        counts=tuple(groups.copies[first].tolist()),
        sources=tuple(f"{source}@{offset}" for source, offset in places),
    ).with_text(model.tokenizer)
    return Found(paragraphs, match[first], log[first], groups.near[first], len(finds), whole.tally)
