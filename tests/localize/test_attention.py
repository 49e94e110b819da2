import pytest
import torch
from scipy.stats import spearmanr

from memhooks.errors import InputError
from memhooks.localize.attention import prefix_attention, rare_token_attention, reachable_keys
from memhooks.model.hooks import hooked
from memhooks.paragraphs.paragraphs import Paragraphs

COUNTS = torch.randint(1, 1000, (101,), generator=torch.Generator().manual_seed(9))


def test_correlations_equal_scipys_one_paragraph_and_head_at_a_time(model, paragraphs):
    found = rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=2)
    _, cache = model.run_with_cache(paragraphs.prefix)
    for row in range(len(paragraphs)):
        for layer, window in ((0, 12), (1, 8), (2, 12), (3, 8)):
            keys = slice(12 - window, 12)
            count = COUNTS[paragraphs.prefix[row]][keys]
            for head in range(4):
                looked_at = cache["pattern", layer][row, head, -1, keys]
                slow = spearmanr(looked_at.detach(), count).statistic
                assert float(found["spearman"][row, layer, head]) == pytest.approx(slow, abs=1e-9)
    assert found["reach"].values.tolist() == [12, 8, 12, 8]


def planted(model, paragraphs, layer, head):
    """Make one head attend by rarity: a hand-built truth that the probe must find."""
    rarity = -COUNTS[paragraphs.prefix].float()

    def by_rarity(pattern, hook):
        pattern = pattern.clone()
        keys = reachable_keys(model, 11)[layer]
        scores = (rarity / 100).masked_fill(~keys, float("-inf"))
        pattern[:, head, -1, :] = scores.softmax(-1)
        return pattern

    return hooked(model, [(f"blocks.{layer}.attn.hook_pattern", by_rarity)])


@pytest.mark.parametrize("place", [(0, 3), (1, 2)])
def test_the_one_head_that_attends_by_rarity_is_found_and_no_other(model, place):
    tokens = torch.randint(101, (40, 24), generator=torch.Generator().manual_seed(4))
    paragraphs = Paragraphs(tokens, 12)
    with planted(model, paragraphs, *place):
        found = rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=100, batch_size=40)
    mean, p_value = found["spearman"].mean("paragraph").values, found["p_value"].values
    assert mean[place] == pytest.approx(-1.0, abs=0.05)
    assert p_value[place] == pytest.approx(1 / 101)
    p_value[place] = 1.0
    assert p_value.min() > 0.05


def test_uniform_attention_correlates_with_nothing(model, paragraphs):
    def uniform(pattern, hook):
        return torch.ones_like(pattern).tril() / torch.arange(1, 13)[:, None]

    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(4)]
    with hooked(model, [(name, uniform) for name in names]):
        found = rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=5)
    assert abs(found["spearman"].values).max() == 0
    assert found["p_value"].values.min() == 1.0


def test_heads_that_prefer_some_tokens_for_no_reason_of_rarity_are_not_a_finding(model):
    """Tokens recur within and across paragraphs, and each head has its own tastes: only counts may decide."""
    smallest = []
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

        with hooked(model, [(f"blocks.{layer}.attn.hook_pattern", by_taste) for layer in range(4)]):
            found = rare_token_attention(model, paragraphs, counts, seed=seed, n_shuffles=60, batch_size=60)
        smallest.append(float(found["p_value"].min()))
    assert sum(p <= 0.05 for p in smallest) <= 5
    assert 0.25 < sum(smallest) / len(smallest) < 0.75


def test_attention_is_the_last_positions_row(model, paragraphs):
    found = prefix_attention(model, paragraphs.prefix)
    assert found.shape == (6, 4, 4, 12)
    torch.testing.assert_close(found.sum(-1), torch.ones(6, 4, 4))
    assert found[:, 1, :, :4].abs().max() == 0  # outside the local window of 8


def test_counts_of_another_vocabulary_are_refused(model, paragraphs):
    with pytest.raises(InputError, match="counts must cover the vocabulary of 101 tokens, got 50"):
        rare_token_attention(model, paragraphs, COUNTS[:50], seed=0)
