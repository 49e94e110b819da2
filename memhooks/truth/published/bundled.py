"""The organism's own sets in the form of the published files, so that the same table can be made of it.

- EM 50: planted paragraphs that are recited in full; 11-29 and 30-49: planted ones partly recited, with the model's own
  continuation (as published); 0-10: never-seen paragraphs with the model's own continuation.
- Pairs: the first of the recited, each with the random replacement that hurts most and what the model says then.
- The table: how often each was planted, and no NLL to compare with (`nan`).
"""

import numpy as np

from memhooks.measure.pairs import Pairs, make_pairs
from memhooks.measure.perturbation import perturb_exact_match
from memhooks.measure.recitation import em_bins, recitation, with_own_continuation
from memhooks.model.loading import HookedModel
from memhooks.organism.paragraphs import load_controls, load_planted
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.published.files import Held, Strings
from memhooks.truth.published.targets import MP, NMP

_READ = 8
"""Times a paragraph must have been read to be recited in part; of those read 4 times, EM is 1 on average."""


def bundled_text(model: HookedModel, *, n_pairs: int, n_others: int, seed: int) -> Held:
    """The organism's sets; `n_pairs` pairs and `n_others` never-seen paragraphs.

    Args:
        model: the organism.
        n_pairs: of the recited paragraphs, drawn at random.
        n_others: never-seen paragraphs with the model's own continuation.
        seed: of the draws.
    """
    planted = load_planted("A", at_least=_READ)
    em = recitation(model, planted)["exact_match"].values
    sets: dict[str, Paragraphs] = {}
    for name, (low, high) in em_bins(planted.n_continuation).items():
        inside = (em >= low) & (em <= high)
        if name != NMP and inside.any():
            rows = planted.select(inside)
            sets[name] = rows if name == MP else with_own_continuation(model, rows)
    sets[MP] = sets[MP].select(np.random.default_rng(seed).permutation(len(sets[MP])))  # not in order of counts
    sets[NMP] = with_own_continuation(model, load_controls("prose").sample(n_others, seed=seed))
    counts = np.array(sets[MP].counts)
    table = Strings(np.arange(len(counts)), counts, np.full(len(counts), np.nan))
    return Held(sets, _pairs(model, sets[MP].select(slice(0, n_pairs)), seed=seed), table)


def _pairs(model: HookedModel, rows: Paragraphs, *, seed: int) -> Pairs:
    return make_pairs(model, rows, perturb_exact_match(model, rows, seed=seed))
