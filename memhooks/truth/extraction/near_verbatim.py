"""How nearly does the model say the continuation? Edit similarity of what it says by itself, at any alignment.

Position by position one token more or less spoils all that follows, though the text is there. So what the model says
greedily is compared by edits (Levenshtein over tokens) and by the longest stretch in common. Language alone gives
some of both: other paragraphs' continuations, dealt at random, are the chance level.
"""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.continuations import longest_shared_run
from memhooks.measure.recitation import exact_match, with_own_continuation
from memhooks.model.ablated import cycle
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs

SIMILAR = (0.9, 0.8)


def near_verbatim(model: HookedModel, paragraphs: Paragraphs, *, seed: int, batch_size: int = 64) -> xr.Dataset:
    """Compare the model's own greedy continuation with the text's.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: at least two, as each also meets another's continuation.
        seed: of which other one.
        batch_size: prefixes per decoding.

    Returns:
        Dataset over `paragraph`: `similarity` (1 - edits over the length: 1 = verbatim, 0 = nothing in common),
        `common_run` (longest stretch in common as a share of the continuation, 0 = none), `exact_match` (tokens before
        the first miss); `similarity_shuffled` and `common_run_shuffled`, of what was said after this prefix with
        another paragraph's continuation: what language alone gives; `shifted_9` and `shifted_8`: similar by more than
        0.9 or 0.8 although not recited in full.

    Raises:
        InputError: a single paragraph, or as `with_own_continuation`.
    """
    paragraphs.check(model)
    if len(paragraphs) < 2:
        raise InputError("near-verbatim rates need at least 2 paragraphs: each also meets another's continuation")
    said = with_own_continuation(model, paragraphs, batch_size=batch_size).continuation
    true, other = paragraphs.continuation, paragraphs.continuation[cycle(len(paragraphs), seed)]
    n = paragraphs.n_continuation
    start = torch.zeros(len(paragraphs), dtype=torch.long)
    columns = {}
    for end, text in (("", true), ("_shuffled", other)):
        columns[f"similarity{end}"] = 1 - edit_distance(said, text).double() / n
        columns[f"common_run{end}"] = longest_shared_run(said, text, first=start).double() / n
    em = exact_match(said == true)
    columns |= {f"shifted_{round(10 * least)}": (columns["similarity"] > least) & (em < n) for least in SIMILAR}
    units = {"similarity": "share, 1 = verbatim, 0 = nothing in common", "common_run": "share of the continuation"}
    found = {
        name: Variable(values, ("paragraph",), units.get(name.removesuffix("_shuffled"), "whether similar, not equal"))
        for name, values in columns.items()
    }
    ids = {"paragraph": paragraphs.ids}
    found["exact_match"] = Variable(em, ("paragraph",), f"tokens before the first miss, of {n}", ids)
    return labelled(provenance(model, paragraphs.tokens) | {"n_continuation": n, "seed": seed}, **found)


def edit_distance(one: Int[Tensor, "row pos"], other: Int[Tensor, "row length"]) -> Int[Tensor, " row"]:
    """Fewest tokens to insert, delete or replace (Levenshtein), row by row; all rows at once."""
    a, b = one.numpy(), other.numpy()
    ladder = np.arange(b.shape[1] + 1)
    costs = np.tile(ladder, (len(a), 1))
    for i in range(a.shape[1]):
        changed = costs[:, :-1] + (a[:, i : i + 1] != b)
        best = np.concatenate([np.full((len(a), 1), i + 1), np.minimum(changed, costs[:, 1:] + 1)], axis=1)
        # An insertion costs 1 more than the cell before: the running minimum of cost minus place, plus place.
        costs = np.minimum.accumulate(best - ladder, axis=1) + ladder
    return torch.from_numpy(costs[:, -1])
