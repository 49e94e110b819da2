from contextlib import nullcontext

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr

from memhooks.errors import InputError
from memhooks.localize.attention import rare_token_attention
from memhooks.localize.attention_nulls import ShuffledWithin, share_as_low
from memhooks.localize.attention_rows import query_attention, reachable_keys
from memhooks.localize.attention_statistics import Keys, head_statistics, standardised
from memhooks.localize.attention_types import TypeAverages
from memhooks.localize.published_statistic import published_statistic
from memhooks.model.hooks import hooked
from memhooks.paragraphs.paragraphs import Paragraphs

COUNTS = torch.randint(1, 1000, (101,), generator=torch.Generator().manual_seed(9))
FEW = COUNTS // 200  # five different counts, so that ties are everywhere
PATTERNS = [f"blocks.{layer}.attn.hook_pattern" for layer in range(4)]
PER_PARAGRAPH = ("spearman", "kendall", "pearson", "partial_spearman", "share_on_rarest", "entropy")


def keys_of(query, layer, *, skip=False):
    low = max(int(skip), 0 if layer % 2 == 0 else query - 7)
    return list(range(low, min(query + 1, 12)))


def partial(x, y, given):
    left = [rank - np.polyval(np.polyfit(given, rank, 1), given) for rank in map(rankdata, (x, y))]
    return np.corrcoef(left)[0, 1]


def share(x, count, n):
    order = np.sort(count)
    below, border = count < order[n - 1], count == order[n - 1]
    return x[below].sum() + x[border].sum() * (n - below.sum()) / border.sum()


def by_hand(attention, count):
    """Every statistic of one row of attention, one scipy call each."""
    x = attention / attention.sum()
    return {
        "spearman": spearmanr(x, count).statistic,
        "kendall": kendalltau(x, count).statistic,
        "pearson": pearsonr(x, np.log1p(count)).statistic,
        "partial_spearman": partial(x, count, np.arange(len(x))[::-1]),
        "share_on_rarest": share(x, count, 5),
        "entropy": -(x * np.log(x)).sum(),
    }


@pytest.mark.parametrize("counts", [COUNTS, FEW], ids=["counts", "tied"])
@pytest.mark.parametrize("skip", [False, True])
def test_every_statistic_equals_scipys_one_row_at_a_time(model, paragraphs, counts, skip):
    queries = [11, 9, 13]
    found = rare_token_attention(
        model, paragraphs, counts, seed=0, n_shuffles=1, queries=queries, skip_first=skip, batch_size=6
    )
    rows = query_attention(model, paragraphs.tokens, queries).double().numpy()
    assert found["spearman"].dims == ("paragraph", "query", "layer", "head")
    for row, number, layer, head in np.ndindex(6, 3, 4, 4):
        keys = keys_of(queries[number], layer, skip=skip)
        count = counts[paragraphs.tokens[row, keys]].double().numpy()
        slow = by_hand(rows[row, layer, head, number, keys], count)
        for name in PER_PARAGRAPH:
            fast = float(found[name][row, number, layer, head])
            assert fast == pytest.approx(slow[name], abs=1e-9), (name, row, number, layer, head)


def test_attention_by_rank_is_the_mean_per_token_of_a_dense_rank(model, paragraphs):
    found = rare_token_attention(model, paragraphs, FEW, seed=0, n_shuffles=1)
    rows = query_attention(model, paragraphs.tokens, [11]).double().numpy()[:, :, :, 0]
    for layer in range(4):
        keys = keys_of(11, layer)
        mass, tokens = np.zeros((4, 12)), np.zeros(12, dtype=int)
        for row in range(6):
            x = rows[row, layer][:, keys]
            x = x / x.sum(-1, keepdims=True)
            for key, rank in enumerate(rankdata(FEW[paragraphs.tokens[row, keys]], "dense") - 1):
                mass[:, rank] += x[:, key]
                tokens[rank] += 1
        assert found["tokens_at_rank"][0, layer].values.tolist() == tokens.tolist()
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(found["attention_by_rank"][0, layer], mass / tokens, atol=1e-9)
    assert 0 < found["attention_by_rank"].isnull().mean() < 1


def test_what_uniform_attention_gives_stands_beside(model, paragraphs):
    found = rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=1, queries=[11, 13], n_rarest=10)
    assert found["reach"].values.tolist() == [[12, 8, 12, 8], [12, 6, 12, 6]]
    np.testing.assert_allclose(found["uniform_share"], [[10 / 12, 1, 10 / 12, 1], [10 / 12, 1, 10 / 12, 1]])
    np.testing.assert_allclose(found["uniform_entropy"], np.log(found["reach"]))
    np.testing.assert_allclose(found["share_on_rarest"].sel(layer=[1, 3]), 1)  # of ten rarest, all keys of a window
    assert found["local"].values.tolist() == [False, True, False, True]
    assert found["query"].values.tolist() == [11, 13]


def planted(model, paragraphs, layer, head, *, query=11):
    """Make one head attend by rarity: a hand-built truth that the probe must find."""
    rarity = -COUNTS[paragraphs.prefix].float()

    def by_rarity(pattern, hook):
        pattern = pattern.clone()
        keys = reachable_keys(model, query)[layer]
        scores = (rarity[:, : query + 1] / 100).masked_fill(~keys, float("-inf"))
        pattern[:, head, query, : query + 1] = scores.softmax(-1)
        return pattern

    return hooked(model, [(PATTERNS[layer], by_rarity)])


@pytest.mark.parametrize("place", [(0, 3), (1, 2)])
def test_the_one_head_that_attends_by_rarity_is_found_and_no_other(model, place):
    tokens = torch.randint(101, (40, 24), generator=torch.Generator().manual_seed(4))
    paragraphs = Paragraphs(tokens, 12)
    with planted(model, paragraphs, *place):
        found = rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=100, batch_size=40)
    for name in ("spearman", "kendall", "partial_spearman"):
        mean = found[name].mean("paragraph")[0].values
        assert mean[place] == pytest.approx(-1.0, abs=0.05)
        assert np.unravel_index(mean.argmin(), mean.shape) == place
    assert found["share_on_rarest"].mean("paragraph")[0].values[place] > 0.9
    for name in ("p_value", "p_within"):
        p_value = found[name][0].values
        assert p_value[place] == pytest.approx(1 / 101)
        p_value[place] = 1.0
        assert p_value.min() > 0.05


def test_a_head_that_asks_from_one_position_alone_is_found_there(model):
    tokens = torch.randint(101, (30, 24), generator=torch.Generator().manual_seed(5))
    paragraphs = Paragraphs(tokens, 12)
    with planted(model, paragraphs, 2, 1, query=9):
        found = rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=60, queries=[11, 9], batch_size=30)
    assert float(found["spearman"].sel(query=9, layer=2, head=1).mean()) < -0.95
    assert found["p_value"].sel(query=9, layer=2, head=1) <= 0.05
    assert found["p_value"].sel(query=11).min() > 0.05


def uniform(pattern, hook):
    seen = (pattern > 0).float()
    return seen / seen.sum(-1, keepdim=True)


def test_uniform_attention_correlates_with_nothing(model, paragraphs):
    with hooked(model, [(name, uniform) for name in PATTERNS]):
        found = rare_token_attention(model, paragraphs, FEW, seed=0, n_shuffles=5)
    for name in PER_PARAGRAPH[:4]:
        assert abs(found[name].values).max() == 0
    for name, null in (("share_on_rarest", "uniform_share"), ("entropy", "uniform_entropy")):
        expected = found[null].values[None, :, :, None] * np.ones((6, 1, 4, 4))
        np.testing.assert_allclose(found[name].values, expected, atol=1e-9)
    assert found["p_value"].values.min() == found["p_within"].values.min() == 1.0


def test_uniform_attention_passes_the_published_test_on_text_that_repeats_its_tokens(model):
    tokens = torch.multinomial(
        1 / torch.arange(1.0, 102) ** 1.5, 200 * 24, replacement=True, generator=torch.Generator().manual_seed(0)
    ).reshape(200, 24)
    counts = torch.bincount(tokens.flatten(), minlength=101)
    paragraphs = Paragraphs(tokens, 12)
    with hooked(model, [(name, uniform) for name in PATTERNS]):
        found = rare_token_attention(model, paragraphs, counts, seed=0, n_shuffles=2, batch_size=50)
    published = published_statistic(found)
    ranks = rankdata(counts[paragraphs.prefix], "dense", axis=1) - 1
    summed = np.array([(ranks == rank).sum() / 12 for rank in range(12)])
    for name, slow in (("pearson", pearsonr), ("spearman", spearmanr), ("kendall", kendalltau)):
        expected = slow(np.arange(12), summed).statistic
        assert expected < -0.5
        assert float(published[f"uniform_{name}"][0, 0]) == pytest.approx(expected, abs=1e-9)
        np.testing.assert_allclose(published[f"summed_{name}"][0, 0], expected, atol=1e-9)


def test_the_published_statistic_sums_attention_by_rank(model, paragraphs):
    found = published_statistic(rare_token_attention(model, paragraphs, FEW, seed=0, n_shuffles=1, queries=[11, 10]))
    rows = query_attention(model, paragraphs.tokens, [11, 10]).double().numpy()
    for number, layer, head in np.ndindex(2, 4, 4):
        keys = keys_of((11, 10)[number], layer)
        summed = np.zeros(len(keys))
        for row in range(6):
            x = rows[row, layer, head, number, keys]
            np.add.at(summed, rankdata(FEW[paragraphs.tokens[row, keys]], "dense") - 1, x / x.sum())
        for name, slow in (("pearson", pearsonr), ("spearman", spearmanr), ("kendall", kendalltau)):
            expected = slow(np.arange(len(keys)), summed).statistic
            assert float(found[f"summed_{name}"][number, layer, head]) == pytest.approx(expected, abs=1e-9)


def p_values(seed, *, n_shuffles, effect, heads):
    """p over types and within paragraphs of made-up heads with tastes for token types; counts follow occurrence.

    A few types are common, in the text and in the counts. `effect` is how much the first head likes rare types.
    """
    generator = torch.Generator().manual_seed(seed)
    often = 1 / torch.arange(1, 401).double()
    rank_of = torch.randperm(400, generator=generator)
    ranks = torch.multinomial(often.expand(60, -1), 24, replacement=True, generator=generator)
    tokens, counts = rank_of[ranks], torch.zeros(400).double()
    counts[rank_of] = (often * 1e6).round()
    taste = torch.randn(heads, 400, generator=generator).double()
    taste[0] -= effect * standardised(counts.log())
    keys = Keys(counts[tokens])
    found, ours = head_statistics(taste[:, tokens].transpose(0, 1).softmax(-1), keys, n_rarest=3)
    types = TypeAverages(tokens, counts)
    types.add_((0, 0), tokens, ours)
    within = ShuffledWithin(60, 24, seed=seed, n=n_shuffles, clusters=None)
    within.add_((0, 0), within.shuffled(keys, within.orders(torch.arange(60))), ours)
    p_value = share_as_low(*types.against_counts(seed=seed, n_shuffles=n_shuffles))
    return p_value[0, 0], share_as_low(found["spearman"].mean(0)[None, None], within.lowest())[0, 0]


@pytest.mark.parametrize("heads", [16, 1])
def test_heads_with_tastes_that_have_nothing_to_do_with_rarity_are_not_a_finding(heads):
    """Common types recur in every paragraph, and each head has its tastes: an occurrence is not an observation."""
    smallest = torch.tensor(
        [[float(p.min()) for p in p_values(seed, n_shuffles=60, effect=0.0, heads=heads)] for seed in range(150)]
    )
    assert (smallest[:, 0] <= 0.05).double().mean() <= 0.09
    assert 0.4 < smallest[:, 0].mean() < 0.6
    # Why the other null is no evidence of rarity: it takes every occurrence of a token for a new observation.
    assert (smallest[:, 1] <= 0.05).double().mean() >= 0.3


def test_a_weak_preference_for_rare_types_is_found_under_tastes_and_in_no_other_head():
    found = torch.stack([p_values(seed, n_shuffles=60, effect=0.7, heads=16)[0] for seed in range(60)])
    assert (found[:, 0] == 1 / 61).double().mean() >= 0.95
    assert (found[:, 1:].amin(1) <= 0.05).double().mean() <= 0.1


@pytest.mark.parametrize("counts", [COUNTS, FEW], ids=["counts", "tied"])
def test_types_are_correlated_and_tested_as_by_hand(model, paragraphs, counts):
    queries = [11, 10]
    tokens = paragraphs.tokens.clone()
    tokens[:, 2:5] = tokens[:, :3] = tokens[0, :3]  # types that recur within and across paragraphs
    recurring = Paragraphs(tokens, 12)
    found = rare_token_attention(model, recurring, counts, seed=3, n_shuffles=30, queries=queries, skip_first=True)
    rows = query_attention(model, tokens, queries).double().numpy()
    types = recurring.prefix.unique()
    averages = {}
    for number, layer, head in np.ndindex(2, 4, 4):
        keys, by_type = keys_of(queries[number], layer, skip=True), {}
        for i in range(6):
            ranks = rankdata(rows[i, layer, head, number, keys])
            for token, rank in zip(tokens[i, keys].tolist(), (ranks - ranks.mean()) / ranks.std(), strict=True):
                by_type.setdefault(token, []).append(rank)
        averages[number, layer, head] = {token: round(np.mean(ranks), 9) for token, ranks in by_type.items()}

    def over_types(count):
        own = dict(zip(types.tolist(), count.tolist(), strict=True))
        return {
            cell: spearmanr(list(each.values()), [own[token] for token in each]).statistic
            for cell, each in averages.items()
        }

    slow = over_types(counts[types])
    generator = torch.Generator().manual_seed(3)
    shuffles = [counts[types][torch.randperm(len(types), generator=generator)] for _ in range(30)]
    lowest = np.array([min(over_types(each).values()) for each in shuffles])
    assert len({len(each) for each in averages.values()}) > 2  # layers and queries see different types
    for cell, expected in slow.items():
        assert float(found["type_spearman"][cell]) == pytest.approx(expected, abs=1e-9)
        assert float(found["p_value"][cell]) == pytest.approx((1 + (lowest <= expected + 1e-9).sum()) / 31)
    assert len(np.unique(found["p_value"])) > 1


def test_counts_are_shuffled_within_paragraphs_as_by_hand(model, paragraphs):
    queries, label = [11, 10], np.array([0, 1, 2, 1, 3, 4])
    found = rare_token_attention(
        model, paragraphs, COUNTS, seed=3, n_shuffles=30, queries=queries, clusters=torch.from_numpy(label)
    )
    rows = query_attention(model, paragraphs.tokens, queries).double().numpy()
    orders = [np.random.default_rng([3, 1, one]).random((30, 12), dtype=np.float32) for one in label]
    lowest = []
    for shuffle in range(30):
        means = []
        for number, layer, head in np.ndindex(2, 4, 4):
            keys = keys_of(queries[number], layer)
            each = [
                spearmanr(
                    rows[i, layer, head, number, keys],
                    COUNTS[paragraphs.tokens[i, keys]].numpy()[np.argsort(orders[i][shuffle, keys])],
                ).statistic
                for i in range(6)
            ]
            means.append(np.mean(each))
        lowest.append(min(means))
    mean = found["spearman"].mean("paragraph").values
    slow = (1 + (np.array(lowest) <= mean[..., None] + 1e-9).sum(-1)) / 31
    np.testing.assert_allclose(found["p_within"].values, slow)
    assert len(np.unique(slow)) > 1


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_the_result_does_not_depend_on_the_batches(model, paragraphs, batch_size):
    options = {"seed": 1, "n_shuffles": 20, "clusters": torch.tensor([0, 1, 0, 2, 1, 3])}
    whole = rare_token_attention(model, paragraphs, COUNTS, **options)
    found = rare_token_attention(model, paragraphs, COUNTS, batch_size=batch_size, **options)
    assert set(found) == set(whole)
    for name in whole:
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_near_duplicates_are_shuffled_in_the_same_order(model):
    """Twenty copies of three paragraphs are three observations: their most negative head is no finding."""
    three = torch.randint(101, (3, 24), generator=torch.Generator().manual_seed(2))
    copies = Paragraphs(three.repeat(20, 1), 12)
    label = torch.arange(3).repeat(20)
    apart = rare_token_attention(model, copies, COUNTS, seed=0, n_shuffles=100)["p_within"]
    together = rare_token_attention(model, copies, COUNTS, seed=0, n_shuffles=100, clusters=label)["p_within"]
    alone = rare_token_attention(model, copies.select(slice(0, 3)), COUNTS, seed=0, n_shuffles=100)["p_within"]
    np.testing.assert_allclose(together, alone)
    assert float(apart.min()) == pytest.approx(1 / 101)
    assert float(alone.min()) > 0.05


def test_copies_of_paragraphs_add_no_token_types(model):
    three = torch.randint(101, (3, 24), generator=torch.Generator().manual_seed(2))
    alone, copied = (
        rare_token_attention(model, Paragraphs(rows, 12), COUNTS, seed=0, n_shuffles=100)
        for rows in (three, three.repeat(20, 1))
    )
    for name in ("type_spearman", "p_value"):
        np.testing.assert_allclose(copied[name], alone[name])
    assert float(copied["p_value"].min()) > 0.05


def test_chosen_layers_label_the_axis(model, paragraphs):
    whole = rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=1)
    some = rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=1, layers=[3, 0])
    assert some["layer"].values.tolist() == [3, 0]
    assert some["local"].values.tolist() == [True, False]
    for name in (*PER_PARAGRAPH, "attention_by_rank", "reach"):
        np.testing.assert_allclose(some[name], whole[name].sel(layer=[3, 0]), rtol=1e-5, atol=1e-6)


def test_a_head_that_looks_at_none_of_the_keys_prefers_none(model, paragraphs):
    def sink(pattern, hook):
        pattern = torch.zeros_like(pattern)
        pattern[..., 0] = 1
        return pattern

    with hooked(model, [(PATTERNS[0], sink)]):
        found = rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=1, layers=[0], skip_first=True)
    assert abs(found["spearman"].values).max() == 0
    np.testing.assert_allclose(found["entropy"], np.log(11))
    np.testing.assert_allclose(found["share_on_rarest"], 5 / 11)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("with_hook", [False, True])
def test_it_works_where_gradients_are_off(model, paragraphs, mode, with_hook):
    options = {"seed": 0, "n_shuffles": 5, "queries": [11, 12], "batch_size": 4}
    with hooked(model, [(PATTERNS[1], uniform)]) if with_hook else nullcontext():
        expected = rare_token_attention(model, paragraphs, COUNTS, **options)
        with mode():
            found = rare_token_attention(model, paragraphs, COUNTS, **options)
            published = published_statistic(found)
    xr.testing.assert_identical(found, expected)
    xr.testing.assert_identical(published, published_statistic(expected))
    assert all(weight.requires_grad for weight in model.parameters())


def test_the_smallest_question_has_an_answer(model):
    """One paragraph of one token type: all averages and all counts are equal."""
    found = rare_token_attention(model, Paragraphs(torch.full((1, 6), 7), 3), COUNTS, seed=0, n_shuffles=3)
    assert abs(found["type_spearman"].values).max() == abs(found["spearman"].values).max() == 0
    assert found["p_value"].values.min() == found["p_within"].values.min() == 1


@pytest.mark.parametrize("with_hook", [False, True])
def test_attention_that_is_not_a_number_is_refused(model, paragraphs, with_hook):
    with torch.no_grad():
        model.blocks[2].attn.W_K[1].fill_(torch.nan)
    with hooked(model, [(PATTERNS[0], lambda pattern, hook: None)]) if with_hook else nullcontext():
        with pytest.raises(InputError, match=r"the attention of layer 2 is not a number; are the weights\?"):
            rare_token_attention(model, paragraphs, COUNTS, seed=0, layers=[3, 2, 0])
        rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=1, layers=[1, 0])


def test_what_cannot_be_asked_is_refused(model, paragraphs):
    def ask(counts=COUNTS, **options):
        rare_token_attention(model, paragraphs, counts, **{"seed": 0, "n_shuffles": 1} | options)

    with pytest.raises(InputError, match="counts must cover the vocabulary of 101 tokens, got 50"):
        ask(COUNTS[:50])
    for wrong in (-1.0, torch.nan, torch.inf):
        counts = COUNTS.double()
        counts[7] = wrong
        with pytest.raises(InputError, match=f"counts must be numbers from 0 on, got {wrong} for token 7"):
            ask(counts)
    for queries in ([], [24], [-1], [3, 3]):
        with pytest.raises(InputError, match=r"queries must be different positions in 0..23, got \["):
            ask(queries=queries)
    with pytest.raises(InputError, match="query 1 sees 2 prefix tokens in layer 0, and a rank correlation needs at"):
        ask(queries=[1])
    with pytest.raises(InputError, match="query 17 sees 2 prefix tokens in layer 1"):
        ask(queries=[17])
    ask(queries=[17], layers=[0, 2])
    for name in ("n_rarest", "n_shuffles", "batch_size"):
        with pytest.raises(InputError, match=f"{name} must be at least 1, got 0"):
            ask(**{name: 0})
    with pytest.raises(InputError, match=r"layers must be different numbers in 0..3, got \[4\]"):
        ask(layers=[4])
    with pytest.raises(InputError, match="clusters must name 6 paragraphs, got 5"):
        ask(clusters=torch.zeros(5, dtype=torch.long))
