"""The perturbed twins that some objectives lead the model to: given ones, checked, or made here.

1. Every prefix token is replaced by a random other one, once.
2. Of these the replacement that leaves the lowest EM makes the pair (`memhooks.measure.pairs`).
3. What is drawn for a paragraph depends on the seed and its id alone, so that parts of a set get the whole set's pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.pairs import Pairs, make_pairs
from memhooks.measure.perturbation import perturb_exact_match
from memhooks.measure.replacements import uniform
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import tensor_hash
from memhooks.paragraphs.paragraphs import Paragraphs


def pairs_of(model: HookedModel, forget: Paragraphs, pairs: Pairs | None, *, seed: int) -> Pairs:
    """These paragraphs' pairs, in their order.

    Raises:
        InputError: pairs of other paragraphs, a paragraph that the model continues as before, whatever token is
            replaced, paragraphs that it cannot read, or (without pairs) hooks on the model.
    """
    forget.check(model)
    if pairs is None:
        effect = perturb_exact_match(model, forget, seed=seed, replace=_UniformById(seed))
        pairs = make_pairs(model, forget, effect)
    pairs = _selected(pairs, forget)
    same = [name for name, changed in zip(forget.ids, pairs.changed.tolist(), strict=True) if not changed]
    if same:
        raise InputError(
            f"{len(same)} of {len(forget)} paragraphs, such as {same[0]}, have the same continuation after the "
            "replaced token, so that there is nothing to lead the model to; leave them out, or try another seed"
        )
    return pairs


def described(pairs: Pairs | None) -> str:
    """Pairs in an objective's `repr`, which is what provenance keeps: a hash of the perturbed tokens."""
    return "None" if pairs is None else f"<{len(pairs)}, {tensor_hash(pairs.perturbed.tokens)}>"


@dataclass(frozen=True)
class _UniformById:
    """`uniform` for each paragraph by itself."""

    seed: int

    def __call__(self, model: HookedModel, paragraphs: Paragraphs, generator: torch.Generator) -> Int[Tensor, "..."]:
        rows = (paragraphs.select([row]) for row in range(len(paragraphs)))
        return torch.cat([uniform(model, one, self._own(one.ids[0])) for one in rows])

    def _own(self, name: str) -> torch.Generator:
        state = np.random.SeedSequence([self.seed % 2**64, *name.encode()]).generate_state(1)
        return torch.Generator().manual_seed(int(state[0]))


def _selected(pairs: Pairs, forget: Paragraphs) -> Pairs:
    rows = {name: row for row, name in enumerate(pairs.clean.ids)}
    lost = [name for name in forget.ids if name not in rows]
    if lost:
        raise InputError(
            f"the pairs are of other paragraphs: {lost[0]} is not among them; make pairs of the paragraphs to forget"
        )
    chosen = pairs.select([rows[name] for name in forget.ids])
    if chosen.clean.n_prefix != forget.n_prefix or not torch.equal(chosen.clean.tokens.cpu(), forget.tokens.cpu()):
        raise InputError(
            "the pairs are of other paragraphs: same ids, but other tokens or another prefix length; "
            "make pairs of the paragraphs to forget"
        )
    return chosen
