"""Memorized paragraphs and what one replaced token makes of them: the published MP/PMP pairs.

1. Of all replacements take the one after which the least of the continuation is recited (lowest EM).
2. Let the model continue the prefix that has it: the perturbed paragraph (PMP).
3. The impact token is the first of the continuation that differs from the memorized paragraph's (MP).

Section 4 of Stoehr et al. (2024, arXiv:2403.19851); attribution and patching start from them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.effects import check_effect, drops, replaced
from memhooks.measure.recitation import exact_match, with_own_continuation
from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable, labelled, load_result, save_result
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import tensor_hash
from memhooks.paragraphs.paragraphs import Paragraphs

_SAVED = ("clean", "perturbed", "position", "impact")


@dataclass(frozen=True)
class Pairs:
    """Paragraphs beside their perturbed twins, row by row.

    Attributes:
        clean: the original paragraphs.
        perturbed: the same with one prefix token replaced, and the model's own continuation of that.
        position: the prefix position that is replaced.
        impact: index in the row of the first continuation token that differs; -1 if none does.
    """

    clean: Paragraphs
    perturbed: Paragraphs
    position: Int[Tensor, " paragraph"]
    impact: Int[Tensor, " paragraph"]

    def __post_init__(self) -> None:
        """Check that all four are of the same paragraphs.

        Raises:
            InputError: they are not.
        """
        shapes = [(*one.tokens.shape, one.n_prefix) for one in (self.clean, self.perturbed)]
        if shapes[0] != shapes[1] or self.clean.ids != self.perturbed.ids:
            raise InputError(
                f"clean and perturbed paragraphs must have the same ids and shape, got {self.clean} and "
                f"{self.perturbed}"
            )
        for name in ("position", "impact"):
            if tuple(getattr(self, name).shape) != (len(self.clean),):
                raise InputError(
                    f"{name} must name one index for each of {len(self.clean)} paragraphs, "
                    f"got shape {tuple(getattr(self, name).shape)}"
                )

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def tokens_with_clean_continuation(self) -> Int[Tensor, "paragraph pos"]:
        """The perturbed prefix before the clean continuation: what teacher-forced patching runs on."""
        return torch.cat([self.perturbed.prefix, self.clean.continuation], dim=1)

    @property
    def changed(self) -> Bool[Tensor, " paragraph"]:
        """Whether the model continues the perturbed prefix otherwise."""
        return self.impact >= 0

    def select(self, rows: ArrayLike | Tensor | slice) -> "Pairs":
        """The pairs of these rows (numbers, a slice, or one boolean per paragraph).

        Raises:
            InputError: nothing is selected, a row does not exist, or booleans of another number.
        """
        clean, perturbed = self.clean.select(rows), self.perturbed.select(rows)  # they refuse what cannot be selected
        numbers = np.arange(len(self))[rows if isinstance(rows, slice) else np.asarray(rows)]
        chosen = torch.tensor(np.atleast_1d(numbers).tolist())
        return Pairs(clean, perturbed, self.position[chosen], self.impact[chosen])


def make_pairs(model: HookedModel, paragraphs: Paragraphs, effect: xr.Dataset, *, batch_size: int = 64) -> Pairs:
    """Each paragraph with its perturbed twin.

    For text that the model does not recite, give `with_own_continuation(model, paragraphs)`: otherwise the impact
    token is merely the first that it never said, whatever is replaced.

    The replaced position is the one with the lowest EM after replacement (the largest `em_drop`); of
    equals the earliest, as published, and there the first draw. The published code leaves position 0
    out, which it keeps for the untouched run; here it competes with the rest.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: those that were perturbed; EM counts their own continuation.
        effect: what `perturb` returned.
        batch_size: prefixes per decoding.

    Raises:
        InputError: a batch size below one, paragraphs that the model cannot read, or an effect of others.
    """
    check_batch_size(batch_size)
    check_effect(effect, paragraphs.check(model))
    drop = drops(effect, "em_drop").swapaxes(1, 2)  # the first of equals, by position and then draw
    place = torch.from_numpy(drop.reshape(len(drop), -1).argmax(1))
    position, draw = place // drop.shape[2], place % drop.shape[2]
    tokens = replaced(paragraphs, effect, torch.arange(len(paragraphs)), draw, position)
    perturbed = with_own_continuation(model, replace(paragraphs, tokens=tokens), batch_size=batch_size)
    hits = perturbed.continuation == paragraphs.continuation
    impact = torch.where(hits.all(1), -1, paragraphs.n_prefix + exact_match(hits))
    return Pairs(paragraphs, perturbed, position, impact)


def save_pairs(pairs: Pairs, path: Path | str) -> None:
    """Write pairs as netCDF, with ids, counts and sources; the text is left out, as it follows from the tokens."""
    clean, each = pairs.clean, ("paragraph",)
    labels = {"paragraph": clean.ids, "pos": range(clean.tokens.shape[1])}
    variables = {
        "clean": Variable(clean.tokens, ("paragraph", "pos"), "token id", labels),
        "perturbed": Variable(pairs.perturbed.tokens, ("paragraph", "pos"), "token id"),
        "position": Variable(pairs.position, each, "index of the replaced token, 0 = first of the prefix"),
        "impact": Variable(pairs.impact, each, "index of the first token that differs, -1 = none"),
    }
    if clean.counts is not None:
        variables["counts"] = Variable(np.array(clean.counts, np.int64), each, "occurrences in the training data")
    if clean.sources is not None:
        variables["sources"] = Variable(np.array(clean.sources, object), each, "where the paragraph comes from")
    about = {"n_prefix": clean.n_prefix, "tokens_hash": tensor_hash(clean.tokens)}
    save_result(labelled(about, **variables), Path(path))


def load_pairs(path: Path | str) -> Pairs:
    """Read pairs back, as they were saved.

    Raises:
        InputError: there is no such file, it is damaged, or it holds something else.
    """
    saved = load_result(path)
    missing = [name for name in _SAVED if name not in saved] + [
        name for name in ("n_prefix",) if name not in saved.attrs
    ]
    if missing:
        raise InputError(f"{path}: not saved pairs; {', '.join(missing)} missing among {', '.join(map(str, saved))}")
    clean = Paragraphs(
        torch.from_numpy(saved["clean"].values),
        n_prefix=int(saved.attrs["n_prefix"]),
        ids=tuple(map(str, saved["paragraph"].values)),
        counts=tuple(saved["counts"].values.tolist()) if "counts" in saved else None,
        sources=tuple(map(str, saved["sources"].values)) if "sources" in saved else None,
    )
    position, impact = (torch.from_numpy(saved[name].values) for name in ("position", "impact"))
    return Pairs(clean, replace(clean, tokens=torch.from_numpy(saved["perturbed"].values)), position, impact)
