import inspect

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from memhooks.errors import InputError
from memhooks.localize.attention import rare_token_attention
from memhooks.measure.intervals import bootstrap_mean
from memhooks.model.hooks import hooked, recorded
from memhooks.truth.rare_token_without import rare_token_without
from memhooks.truth.sinks import attention_sinks, coincidence, coincidences, sink_heads

COUNTS = torch.from_numpy(np.random.default_rng(0).permutation(101) * 3)


@pytest.fixture
def patterns(model, paragraphs):
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(4)]
    with recorded(model, names) as store:
        model(paragraphs.prefix)
    return [store[name].double().numpy() for name in names]  # [row head query key]


def test_attention_to_position_0_is_the_mean_over_those_that_see_it(model, paragraphs, patterns):
    found = attention_sinks(model, paragraphs, batch_size=4)
    for layer, pattern in enumerate(patterns):
        seeing = range(1, 12) if layer % 2 == 0 else range(1, 8)  # the window is 8
        for head in range(4):
            expected = [np.mean([pattern[row, head, query, 0] for query in seeing]) for row in range(6)]
            np.testing.assert_allclose(found["first"][:, layer, head], expected, atol=1e-5)
        last = found["first_last"].values[:, layer]
        if layer % 2:
            assert np.isnan(last).all()
        else:
            np.testing.assert_allclose(last, pattern[:, :, 11, 0], atol=1e-5)
        assert float(found["uniform"][layer]) == pytest.approx(np.mean([1 / (query + 1) for query in seeing]))
        key = 3
        seeing = [query for query in range(4, 12) if layer % 2 == 0 or query - key < 8]
        expected = np.mean([pattern[:, :, query, key] for query in seeing], axis=(0, 1))
        np.testing.assert_allclose(found["received"][layer, :, key], expected, atol=1e-5)
    assert found["n_looks"].values.tolist() == [11, 7, 11, 7]


def test_a_head_made_to_look_at_position_0_is_named_and_no_other(model, paragraphs):
    def sink(scores, hook):
        scores[:, 2, :, 0] = 50.0
        return scores

    def spread(scores, hook):
        return torch.where(scores > -1e4, torch.zeros_like(scores), scores)

    with hooked(model, [(lambda name: name.endswith("attn_scores"), spread), (("attn_scores", 2), sink)]):
        found = attention_sinks(model, paragraphs)
    table = sink_heads({"memorized": found}, seed=0)
    planted = table.sel(row="L2H2")
    assert (float(planted["memorized"]), int(planted["strongest"])) == (pytest.approx(1), 0)
    # Uniform attention puts the share of its reach on position 0, in early rows a lot.
    others = table.drop_sel(row="L2H2")
    np.testing.assert_allclose(others["memorized"], others["uniform"], atol=1e-6)
    assert table["row"].values[table["is_sink"].values].tolist() == ["L2H2"]


def by_hand(attention, counts, gone):
    kept = [key for key in range(len(attention)) if key != gone]
    return spearmanr(attention[kept], counts[kept]).statistic


@pytest.mark.parametrize("drop", ["nothing", "first", "strongest", "given"])
def test_the_statistic_without_a_key_is_that_of_the_keys_that_are_left(model, paragraphs, patterns, drop):
    given = torch.tensor([0, 5, 11, 2, 7, 4])
    found = rare_token_without(
        model, paragraphs, COUNTS, drop=given if drop == "given" else drop, n_rarest=3, batch_size=4
    )
    for layer, pattern in enumerate(patterns):
        low = 0 if layer % 2 == 0 else 4
        for row in range(6):
            counts = COUNTS[paragraphs.prefix[row, low:]].double().numpy()
            for head in range(4):
                own = pattern[row, head, 11, low:]
                place = {"nothing": -1, "first": 0 - low, "strongest": own.argmax(), "given": int(given[row]) - low}
                cell = found.isel(paragraph=row, layer=layer, head=head)
                assert float(cell["spearman"]) == pytest.approx(by_hand(own, counts, place[drop]), abs=1e-5)
                kept = [key for key in range(len(own)) if key != place[drop]]
                rarest = sorted(kept, key=lambda key, counts=counts: counts[key])[:3]
                if len(set(counts)) == len(counts):
                    share = own[rarest].sum() / own[kept].sum()
                    assert float(cell["share_on_rarest"]) == pytest.approx(share, abs=1e-5)
                assert bool(cell["dropped"]) == (place[drop] >= 0)


def test_without_position_0_it_is_the_librarys_own_probe(model, paragraphs):
    for drop, skip in (("nothing", False), ("first", True)):
        mine = rare_token_without(model, paragraphs, COUNTS, drop=drop)
        theirs = rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=1, skip_first=skip).isel(query=0)
        for name in ("spearman", "partial_spearman", "share_on_rarest"):
            np.testing.assert_allclose(mine[name], theirs[name], atol=1e-9)


def test_heads_have_the_intervals_of_their_set(model, paragraphs):
    found = attention_sinks(model, paragraphs)
    label = np.array([0, 0, 1, 2, 3, 4])
    table = sink_heads({"memorized": found}, seed=3, clusters={"memorized": label})
    mean, low, high = bootstrap_mean(found["first"].values.reshape(6, -1), seed=3, clusters=label)
    for end, values in (("", mean), ("_low", low), ("_high", high)):
        np.testing.assert_allclose(table[f"memorized{end}"], values)


def test_coincidence_is_spearman_and_layers_alone_do_not_pass_within():
    generator = np.random.default_rng(0)
    layer = np.repeat(np.arange(8), 8)
    one, other = layer + 0.01 * generator.random(64), layer + 0.01 * generator.random(64)
    found = coincidence(one, other, layer=layer, seed=0, n_shuffles=999)
    assert found["spearman"] == pytest.approx(spearmanr(one, other).statistic)
    assert found["p"] == 0.001
    assert found["p_within_layer"] > 0.05
    shuffled = generator.permutation(64)
    same = coincidence(one[shuffled], -one[shuffled], layer=layer[shuffled], seed=0, n_shuffles=999)
    assert (same["spearman"], same["p_within_layer"]) == (pytest.approx(-1), 0.001)
    assert np.isnan(coincidence(np.ones(64), one, layer=layer, seed=0)["p"])


def test_within_layers_nothing_between_them_counts():
    generator = np.random.default_rng(0)
    layer = np.repeat(np.arange(8), 8)
    inside = generator.random((8, 8))
    one, other = (10 * np.arange(8)[:, None] + inside).ravel(), (10 * np.arange(8)[:, None] - inside).ravel()
    found = coincidence(one, other, layer=layer, seed=0, n_shuffles=999)
    ranks = [np.argsort(np.argsort(each.reshape(8, 8))) - 3.5 for each in (one, other)]
    expected = (ranks[0] * ranks[1]).sum() / (ranks[0] ** 2).sum()
    assert found["spearman"] > 0.9  # between layers
    assert found["spearman_within"] == pytest.approx(expected) == pytest.approx(-1)
    assert found["p_within_layer"] == 0.001


def test_heads_without_a_number_are_left_out_and_make_no_discovery():
    generator = np.random.default_rng(1)
    layer, one, other = np.repeat(np.arange(4), 4), generator.random(16), generator.random(16)
    holed = one.copy()
    holed[5] = np.nan
    found = coincidence(holed, other, layer=layer, seed=0, n_shuffles=999)
    kept = np.arange(16) != 5
    assert found == coincidence(one[kept], other[kept], layer=layer[kept], seed=0, n_shuffles=999)
    assert (found["n"], found["spearman"]) == (15, pytest.approx(spearmanr(one[kept], other[kept]).statistic))
    nothing = coincidence(np.full(16, np.nan), other, layer=layer, seed=0)
    assert np.isnan([nothing["spearman_within"], nothing["p"], nothing["p_within_layer"]]).all()


def test_several_questions_are_corrected_for_their_number():
    generator = np.random.default_rng(2)
    layer, one = np.repeat(np.arange(4), 4), generator.random(16)
    others = {"same": one, "noise": generator.random(16), "none": np.ones(16)}
    found = coincidences(one, others, layer=layer, seed=0)
    assert found["same"]["p_corrected"] == pytest.approx(3 * found["same"]["p_within_layer"])
    assert found["noise"]["p_corrected"] <= 1
    assert np.isnan(found["none"]["p_corrected"])


def test_uniform_attention_in_a_short_prefix_is_no_sink(model, paragraphs):
    short = type(paragraphs)(paragraphs.tokens, n_prefix=3)

    def spread(scores, hook):
        return torch.where(scores > -1e4, torch.zeros_like(scores), scores)

    with hooked(model, [(lambda name: name.endswith("attn_scores"), spread)]):
        table = sink_heads({"memorized": attention_sinks(model, short)}, seed=0)
    assert (table["memorized_low"] > 0.3).all()  # (1/2 + 1/3) / 2
    assert not table["is_sink"].any()


@pytest.mark.parametrize("drop", ["strongest", "first"])
def test_the_null_leaves_out_the_key_at_the_other_end_of_the_ranking(model, paragraphs, patterns, drop):
    found = rare_token_without(model, paragraphs, COUNTS, drop=drop, mirrored=True, batch_size=4)
    for layer, low in ((0, 0), (1, 4)):
        for row in range(6):
            counts = COUNTS[paragraphs.prefix[row, low:]].double().numpy()
            for head in range(4):
                own = patterns[layer][row, head, 11, low:]
                order = own.argsort(kind="stable").tolist()
                gone = order[0] if drop == "strongest" else order[len(own) - 1 - order.index(0)]
                expected = by_hand(own, counts, gone if drop == "strongest" or low == 0 else -1)
                assert float(found["spearman"][row, layer, head]) == pytest.approx(expected, abs=1e-5)


def test_unusable_input_is_refused(model, paragraphs):
    with pytest.raises(InputError, match="sinks need a prefix of at least 3 tokens, got 2"):
        attention_sinks(model, type(paragraphs)(paragraphs.tokens, n_prefix=2))
    with pytest.raises(InputError, match="drop must be one of nothing, first, strongest, or positions, got 'last'"):
        inspect.unwrap(rare_token_without)(model, paragraphs, COUNTS, drop="last")
    with pytest.raises(InputError, match=r"drop must name one prefix position \(0..11\) for each of 6 paragraphs"):
        rare_token_without(model, paragraphs, COUNTS, drop=torch.full((6,), 12))
    short = type(paragraphs)(paragraphs.tokens, n_prefix=3)
    with pytest.raises(InputError, match="needs at least 4 in sight; use a longer prefix"):
        rare_token_without(model, short, COUNTS)
    with pytest.raises(InputError, match="no results of attention_sinks given"):
        sink_heads({}, seed=0)
    found = attention_sinks(model, paragraphs)
    with pytest.raises(InputError, match="'control' has other layers or heads than 'memorized'"):
        sink_heads({"memorized": found, "control": found.isel(layer=[0])}, seed=0)
    with pytest.raises(InputError, match="one value per head is needed, at least 3, got 2, 2 and 2"):
        coincidence(np.zeros(2), np.zeros(2), layer=np.zeros(2, int), seed=0)
