"""Does a head look at rare tokens? Its attention to the prefix against corpus counts, paragraph by paragraph.

1. One pass gives the attention of the asking positions in all layers and heads; it is normalised over the prefix
   tokens that the layer can see (local layers: the window).
2. In each paragraph it is correlated with the tokens' counts. Negative means: rare tokens get more attention.
3. Shuffled counts tell how negative the most negative of all heads is by chance.

The published statistic (Stoehr et al., 2024, arXiv:2403.19851, Fig. 7) sums attention over paragraphs by rarity rank.
High ranks exist in few paragraphs, so that it is strongly negative for uniform attention too: see
`published_statistic`.
"""

from typing import Unpack

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int, Num
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.attention_nulls import ShuffledCounts
from memhooks.localize.attention_probe import Asked, Probe, check_counts, probe
from memhooks.localize.attention_rows import query_attention
from memhooks.localize.attention_statistics import STATISTICS, Keys, head_statistics
from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance, tensor_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

Clusters = Int[Tensor, " paragraph"] | Int[np.ndarray, " paragraph"]
_CELLS = ("query", "layer", "head")
_UNITS = {
    "spearman": "rank correlation of attention and count, 0 = none, -1 = rarest first",
    "kendall": "Kendall's tau-b of attention and count, 0 = none, -1 = rarest first",
    "pearson": "correlation of attention and log(1 + count), 0 = none, negative = rare tokens",
    "partial_spearman": "rank correlation of attention and count without the rank of distance, 0 = none",
    "share_on_rarest": "share of attention on the n rarest keys, 0 = none; uniform attention has uniform_share",
    "entropy": "nats, 0 = all on one key; uniform attention has uniform_entropy",
}
_P_UNITS = {
    "p_value": "probability under counts dealt anew to token types, maximum over all heads and queries",
    "p_within": "probability under counts shuffled within each paragraph, maximum over all heads and queries",
}


def rare_token_attention(
    model: HookedModel,
    paragraphs: Paragraphs,
    counts: Num[Tensor, " d_vocab"],
    *,
    seed: int,
    n_shuffles: int = 200,
    clusters: Clusters | None = None,
    batch_size: int = 32,
    **asked: Unpack[Asked],
) -> xr.Dataset:
    """Correlate every head's attention to prefix tokens with how common these tokens are.

    Both p values say how often, where counts are shuffled, the most negative mean Spearman of all heads, layers and
    queries is at least as negative as this head's. Tokens recur within and across paragraphs, and every head has
    tastes for certain tokens, which correlate with their counts a little by chance, in the same way wherever they
    occur. `p_value` shuffles the counts among token types and keeps that; `p_within` shuffles each paragraph's own
    counts, counts such a taste as new evidence in every paragraph, and so calls many heads significant. The first
    is the honest one for "looks at rare tokens"; the second says whether attention goes with counts at all.

    Args:
        model: a hooked GPT-Neo; hooks that are on it have their say.
        paragraphs: whose prefix tokens are looked at.
        counts: corpus count of each token id. Counts that include planted copies make rare tokens common.
        seed: of the shuffles.
        n_shuffles: how often counts are shuffled in either way.
        clusters: of near-duplicates (`clusters(paragraphs)`), whose counts are shuffled within in the same order.
        batch_size: paragraphs per pass; memory beside the result depends on it, not on how many there are.
        **asked: `queries` (positions; by default the last prefix token, `n_prefix - 1`; the paper's is `n_prefix`),
            `layers` (all), `n_rarest` (5), `skip_first` (False; True leaves out key position 0, the attention sink).

    Returns:
        Dataset. Over `paragraph`, `query`, `layer`, `head`: `spearman`, `kendall` (tau-b), `pearson` (with log(1 +
        count)), `partial_spearman` (rank of distance regressed out), from -1 = rarest first to 1, 0 also where all
        attention or all counts are equal; `share_on_rarest` (0 to 1; keys that tie at the border share), `entropy`
        (nats). Over `query`, `layer`, `head`: `p_value`, `p_within`; with `rank` (dense, among the reachable keys)
        `attention_by_rank`: mean attention per token of that rank, NaN where there is none. Over `query`, `layer`,
        `rank`: `tokens_at_rank`. Over `query`, `layer`: `reach` (keys), `uniform_share`, `uniform_entropy`. Over
        `layer`: `local`.

    Raises:
        InputError: counts of another vocabulary, negative or NaN; queries outside the paragraphs or with fewer than
            3 reachable keys; layers that do not exist; clusters of another number; n_rarest, n_shuffles or
            batch_size below 1.
    """
    check_counts(model, counts)
    what = probe(model, paragraphs, **asked)
    check_batch_size(batch_size)
    if n_shuffles < 1:
        raise InputError(f"n_shuffles must be at least 1, got {n_shuffles}")
    label = None if clusters is None else np.asarray(clusters)
    if label is not None and len(label) != len(paragraphs):
        raise InputError(f"clusters must name {len(paragraphs)} paragraphs, got {len(label)}")
    counts = counts.cpu()
    nulls = ShuffledCounts(paragraphs.prefix, counts, seed=seed, n=n_shuffles, clusters=label)
    tally = _Tally(what, paragraphs, counts.double(), model.cfg.n_heads)
    last = max(what.queries) + 1
    for rows in tracked(torch.arange(len(paragraphs)).split(batch_size), "attention"):
        tokens = paragraphs.tokens[rows, :last]
        tally.add_(rows, query_attention(model, tokens, what.queries, layers=what.layers), nulls)
    about = {"seed": seed, "n_shuffles": n_shuffles, "counts_hash": tensor_hash(counts), "n_prefix": what.n_prefix}
    about |= {"n_rarest": what.n_rarest, "skip_first": int(what.skip_first)}
    return labelled(provenance(model, paragraphs.tokens) | about, **tally.variables(nulls))


class _Tally:
    """Statistics of every paragraph, and running sums of the rest."""

    def __init__(self, what: Probe, paragraphs: Paragraphs, counts: Float[Tensor, " d_vocab"], n_heads: int) -> None:
        self.what, self.paragraphs, self.counts = what, paragraphs, counts
        cells = (len(what.queries), len(what.layers), n_heads)
        self.found = {name: torch.empty(len(paragraphs), *cells, dtype=torch.float64) for name in STATISTICS}
        self.by_rank = torch.zeros(*cells, what.n_prefix, dtype=torch.float64)
        self.at_rank = torch.zeros(*cells[:2], what.n_prefix, dtype=torch.int64)

    def add_(
        self,
        rows: Int[Tensor, " row"],
        attention: Float[Tensor, "row layer head query key"],
        nulls: ShuffledCounts,
    ) -> None:
        """Add some paragraphs."""
        tokens, orders = self.paragraphs.prefix[rows], nulls.orders(rows)
        for number, query in enumerate(self.what.queries):
            for reach, places in self.what.same_reach(query).items():
                seen = slice(reach.start, reach.stop)
                keys = Keys(self.counts[tokens[:, seen]])
                shuffled = nulls.shuffled(tokens[:, seen], keys, orders[..., seen])
                for place in places:
                    own = _normalised(attention[:, place, :, number, seen])
                    found, ranks = head_statistics(own, keys, n_rarest=self.what.n_rarest)
                    for name, values in found.items():
                        self.found[name][rows, number, place] = values
                    nulls.add_((number, place), shuffled, ranks)
                    self._add_ranks_((number, place), own, keys.dense_ranks)

    def _add_ranks_(
        self, cell: tuple[int, int], attention: Float[Tensor, "row head key"], ranks: Int[Tensor, "row key"]
    ) -> None:
        self.by_rank[cell].index_add_(1, ranks.flatten(), attention.transpose(0, 1).flatten(1))
        self.at_rank[cell] += torch.bincount(ranks.flatten(), minlength=self.what.n_prefix)

    def variables(self, nulls: ShuffledCounts) -> dict[str, Variable]:
        """All that was found, with its null beside it."""
        what = self.what
        labels = {
            "paragraph": self.paragraphs.ids,
            "query": what.queries,
            "layer": what.layers,
            "head": range(self.by_rank.shape[2]),
            "rank": range(what.n_prefix),
        }
        reach = torch.tensor(
            [[len(what.reach(query, place)) for place in range(len(what.layers))] for query in what.queries]
        )
        mean = self.by_rank / self.at_rank[:, :, None]  # 0 / 0 is NaN where no token has the rank
        found = {
            name: Variable(values, ("paragraph", *_CELLS), _UNITS[name], labels) for name, values in self.found.items()
        }
        for name, values in nulls.p_values(self.found["spearman"].mean(0)).items():
            found[name] = Variable(values, _CELLS, _P_UNITS[name])
        uniform = (what.n_rarest / reach.double()).clamp_max(1)
        return found | {
            "attention_by_rank": Variable(mean, (*_CELLS, "rank"), "share of attention per token, NaN = no token"),
            "tokens_at_rank": Variable(self.at_rank, ("query", "layer", "rank"), "tokens of all paragraphs"),
            "reach": Variable(reach, ("query", "layer"), "prefix tokens that the layer's heads can see"),
            "uniform_share": Variable(uniform, ("query", "layer"), "share_on_rarest of uniform attention"),
            "uniform_entropy": Variable(reach.double().log(), ("query", "layer"), "nats, entropy of uniform attention"),
            "local": Variable(what.local, ("layer",), "whether the layer sees only a window"),
        }


def _normalised(attention: Float[Tensor, "row head key"]) -> Float[Tensor, "row head key"]:
    """Shares that sum to 1; a head that looks at none of these keys prefers none, so its shares are equal."""
    attention = attention.double()
    total = attention.sum(-1, keepdim=True)
    return torch.where(total > 0, attention / total, 1 / attention.shape[-1])
