"""Does a head look at rare tokens? Its attention to the prefix against corpus counts, paragraph by paragraph.

1. One pass gives the attention of the asking positions in all layers and heads; it is normalised over the prefix
   tokens that the layer can see (local layers: the window).
2. In each paragraph it is correlated with the tokens' counts. Negative means: rare tokens get more attention.
3. Its ranks are averaged over all occurrences of each token type, and the averages correlated with the types' counts.
4. Shuffled counts tell how negative the most negative of all heads is by chance: over types, and over paragraphs.

The published statistic (Stoehr et al., 2024, arXiv:2403.19851, Fig. 7) sums attention over paragraphs by rarity rank.
High ranks exist in few paragraphs, so that it is strongly negative for uniform attention too: see
`published_statistic`.
"""

from collections.abc import Mapping
from typing import Unpack

import torch
import xarray as xr
from jaxtyping import Float, Int, Num
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.attention_nulls import ShuffledWithin, share_as_low
from memhooks.localize.attention_probe import Asked, Clusters, Probe, check_counts, checked_clusters, probe
from memhooks.localize.attention_rows import query_attention
from memhooks.localize.attention_statistics import STATISTICS, Keys, head_statistics
from memhooks.localize.attention_types import TypeAverages
from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance, tensor_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

_CELLS = ("query", "layer", "head")
_UNITS = {
    "spearman": "rank correlation of attention and count, 0 = none, -1 = rarest first",
    "kendall": "Kendall's tau-b of attention and count, 0 = none, -1 = rarest first",
    "pearson": "correlation of attention and log(1 + count), 0 = none, negative = rare tokens",
    "partial_spearman": "rank correlation of attention and count without the rank of distance, 0 = none",
    "share_on_rarest": "share of attention on the n rarest keys, 0 = none; uniform attention has uniform_share",
    "entropy": "nats, 0 = all on one key; uniform attention has uniform_entropy",
}
_TESTED = {
    "type_spearman": "rank correlation over token types of mean attention rank and count, 0 = none, -1 = rarest first",
    "p_value": "probability under counts permuted among token types, minimum over all heads and queries",
    "p_within": "probability under counts shuffled within each paragraph, minimum over all heads and queries",
}


def rare_token_attention(
    model: HookedModel,
    paragraphs: Paragraphs,
    counts: Num[Tensor, " d_vocab"],
    *,
    seed: int,
    n_shuffles: int = 1000,
    clusters: Clusters | None = None,
    batch_size: int = 32,
    **asked: Unpack[Asked],
) -> xr.Dataset:
    """Correlate every head's attention to prefix tokens with how common these tokens are.

    Every head has tastes for certain tokens, which go with their counts a little by chance, and in the same way
    wherever a token occurs. So the unit of `p_value` is the token type: each has one average over all its occurrences,
    and the counts are permuted among the types. `p_within` shuffles each paragraph's own counts, so that a taste for
    a token that recurs passes for new evidence in every paragraph: it says that attention goes with the counts of
    these tokens, and not that it would go with those of others.

    Both p values are shares of shuffles in which the most negative of all heads, layers and queries is at least as
    negative as this head, so that many heads are no excuse; the smallest possible is 1 / (1 + n_shuffles).

    Args:
        model: a hooked GPT-Neo; hooks that are on it have their say.
        paragraphs: whose prefix tokens are looked at.
        counts: corpus count of each token id. Counts that include planted copies make rare tokens common.
        seed: of the shuffles.
        n_shuffles: how often counts are shuffled in either way.
        clusters: of near-duplicates (`clusters(paragraphs)`), whose counts are shuffled in the same order for
            `p_within`. `p_value` does without: copies add no token types.
        batch_size: paragraphs per pass. The result grows by 48 bytes per paragraph for every head of every layer and
            query (4.6 kB for 96 heads and one query). Running sums take 8 bytes for every token type that occurs and
            every such head, at most the vocabulary's; no other memory depends on how many paragraphs there are.
        **asked: `queries` (positions; by default the last prefix token, `n_prefix - 1`; the paper's is `n_prefix`),
            `layers` (all), `n_rarest` (5), `skip_first` (False; True leaves out key position 0, the attention sink).

    Returns:
        Dataset. Over `paragraph`, `query`, `layer`, `head`: `spearman`, `kendall` (tau-b), `pearson` (with log(1 +
        count)), `partial_spearman` (rank of distance regressed out), from -1 = rarest first to 1, 0 also where all
        attention or all counts are equal; `share_on_rarest` (0 to 1; keys that tie at the border share), `entropy`
        (nats). Over `query`, `layer`, `head`: `type_spearman` (-1 to 1, over token types, of the mean standardised
        rank of their attention and their count) with `p_value`; `p_within` (of the mean `spearman`); with `rank`
        (dense, among the reachable keys) `attention_by_rank`: mean attention per token of that rank, NaN where there
        is none. Over `query`, `layer`, `rank`: `tokens_at_rank`. Over `query`, `layer`: `reach` (keys),
        `uniform_share`, `uniform_entropy`. Over `layer`: `local`.

    Raises:
        InputError: counts of another vocabulary, negative or NaN; queries outside the paragraphs or with fewer than
            3 reachable keys; layers that do not exist; clusters of another number; n_rarest, n_shuffles or
            batch_size below 1; attention that is not a number, because weights are not.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> rows = memhooks.load_planted("A", at_least=128).select(slice(0, 2))
        >>> counts = memhooks.load_unigram_counts()
        >>> found = memhooks.rare_token_attention(model, rows, counts, seed=0, n_shuffles=20)
        >>> dict(found["spearman"].sizes)
        {'paragraph': 2, 'query': 1, 'layer': 8, 'head': 8}
        >>> found["query"].values, found["reach"].values
        (array([49]), array([[50, 32, 50, 32, 50, 32, 50, 32]]))
    """
    check_counts(model, counts)
    what = probe(model, paragraphs, **asked)
    check_batch_size(batch_size)
    if n_shuffles < 1:
        raise InputError(f"n_shuffles must be at least 1, got {n_shuffles}")
    label = checked_clusters(clusters, len(paragraphs))
    counts = counts.cpu()
    within = ShuffledWithin(len(paragraphs), what.n_prefix, seed=seed, n=n_shuffles, clusters=label)
    types = TypeAverages(paragraphs.prefix, counts)
    tally = _Tally(what, paragraphs, counts.double(), model.cfg.n_heads)
    last = max(what.queries) + 1
    for rows in tracked(torch.arange(len(paragraphs)).split(batch_size), "attention"):
        tokens = paragraphs.tokens[rows, :last]
        tally.add_(rows, query_attention(model, tokens, what.queries, layers=what.layers), within, types)
    spearman, lowest = types.against_counts(seed=seed, n_shuffles=n_shuffles)
    tested = {"type_spearman": spearman, "p_value": share_as_low(spearman, lowest)}
    tested["p_within"] = share_as_low(tally.found["spearman"].mean(0), within.lowest())
    about = {"seed": seed, "n_shuffles": n_shuffles, "counts_hash": tensor_hash(counts), "n_prefix": what.n_prefix}
    about |= {"n_rarest": what.n_rarest, "skip_first": int(what.skip_first)}
    return labelled(provenance(model, paragraphs.tokens) | about, **tally.variables(tested))


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
        within: ShuffledWithin,
        types: TypeAverages,
    ) -> None:
        """Add some paragraphs, here and to what the tests need."""
        tokens, orders = self.paragraphs.prefix[rows], within.orders(rows)
        for number, query in enumerate(self.what.queries):
            for reach, places in self.what.same_reach(query).items():
                seen = slice(reach.start, reach.stop)
                keys = Keys(self.counts[tokens[:, seen]])
                shuffled = within.shuffled(keys, orders[..., seen])
                for place in places:
                    own = _normalised(attention[:, place, :, number, seen])
                    found, ranks = head_statistics(own, keys, n_rarest=self.what.n_rarest)
                    for name, values in found.items():
                        self.found[name][rows, number, place] = values
                    within.add_((number, place), shuffled, ranks)
                    types.add_((number, place), tokens[:, seen], ranks)
                    self._add_ranks_((number, place), own, keys.dense_ranks)

    def _add_ranks_(
        self, cell: tuple[int, int], attention: Float[Tensor, "row head key"], ranks: Int[Tensor, "row key"]
    ) -> None:
        self.by_rank[cell].index_add_(1, ranks.flatten(), attention.transpose(0, 1).flatten(1))
        self.at_rank[cell] += torch.bincount(ranks.flatten(), minlength=self.what.n_prefix)

    def variables(self, tested: Mapping[str, Float[Tensor, "query layer head"]]) -> dict[str, Variable]:
        """All that was found, with its tests and what uniform attention gives beside it."""
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
        found |= {name: Variable(values, _CELLS, _TESTED[name]) for name, values in tested.items()}
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
