import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr

from memhooks.errors import InputError
from memhooks.localize.attention import rare_token_attention
from memhooks.localize.attention_rows import query_attention, reachable_keys
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


def test_heads_that_prefer_some_tokens_for_no_reason_of_rarity_are_not_a_finding(model):
    """Tokens recur within and across paragraphs, and each head has its own tastes: only counts may decide."""
    smallest, within = [], []
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        common = torch.rand(101, generator=generator) ** 6
        tokens = torch.multinomial(common, 60 * 24, replacement=True, generator=generator).reshape(60, 24)
        paragraphs = Paragraphs(tokens, 12)
        counts = torch.randint(1, 1000, (101,), generator=generator)
        taste = torch.randn(4, 101, generator=generator)

        def by_taste(pattern, hook, taste=taste, prefix=paragraphs.prefix):
            keys = reachable_keys(model, 11)[int(hook.name.split(".")[1])]
            pattern = pattern.clone()
            scores = taste[:, prefix].transpose(0, 1).masked_fill(~keys, float("-inf"))
            pattern[:, :, -1, :] = scores.softmax(-1)
            return pattern

        with hooked(model, [(name, by_taste) for name in PATTERNS]):
            found = rare_token_attention(model, paragraphs, counts, seed=seed, n_shuffles=60, batch_size=60)
        smallest.append(float(found["p_value"].min()))
        within.append(float(found["p_within"].min()))
    assert sum(p <= 0.05 for p in smallest) <= 5
    assert 0.25 < sum(smallest) / len(smallest) < 0.75
    # Why the other null is no evidence of rarity: it takes every occurrence of a token for a new observation.
    assert sum(p <= 0.05 for p in within) >= 15


def test_p_values_hold_every_head_against_the_most_negative_of_all(model, paragraphs):
    found = rare_token_attention(model, paragraphs, COUNTS, seed=3, n_shuffles=50, queries=[11, 10])
    rows = query_attention(model, paragraphs.tokens, [11, 10]).double().numpy()
    prefix = paragraphs.prefix.numpy()
    types = np.unique(prefix)
    generator = torch.Generator().manual_seed(3)
    lowest = []
    for _ in range(50):
        dealt = np.zeros(101)
        dealt[types] = COUNTS[types][torch.randperm(len(types), generator=generator)]
        means = []
        for number, layer, head in np.ndindex(2, 4, 4):
            keys = keys_of((11, 10)[number], layer)
            each = [spearmanr(rows[i, layer, head, number, keys], dealt[prefix[i, keys]]).statistic for i in range(6)]
            means.append(np.mean(each))
        lowest.append(min(means))
    mean = found["spearman"].mean("paragraph").values
    slow = (1 + (np.array(lowest) <= mean[..., None] + 1e-9).sum(-1)) / 51
    np.testing.assert_allclose(found["p_value"].values, slow)


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
