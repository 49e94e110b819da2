import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.perturbation_statistics import drop_by_position, drop_by_rarity, perturbation_statistics
from memhooks.model.labelled import Variable, labelled, load_result, save_result
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters

MEAN = "mean drop per replaced token"
WITH_POSITION = "Spearman of drop with position"
WITH_COUNT = "Spearman of drop with token count"
COUNT_ALONE = "the same, position partialled out"
POSITION_ALONE = "Spearman of drop with position, token count partialled out"
HALF = "positions that hold half of the drop"
WORST = "share of the drop held by the 5 worst positions"


def effect_of(paragraphs, **drops):
    """A result of perturb with these drops, `[paragraph, draw, pos]`."""
    axes = ("paragraph", "draw", "pos")
    shape = next(iter(drops.values())).shape
    names = {"paragraph": paragraphs.ids, "draw": range(shape[1]), "pos": range(shape[2])}
    variables = {name: Variable(drop, axes, f"unit of {name}", names) for name, drop in drops.items()}
    replacement = Variable(np.zeros(shape, np.int64), axes, "token id")
    return labelled({"n_prefix": shape[2], "seed": 7, "model_hash": "abc"}, replacement=replacement, **variables)


def row(table, name):
    return {column: float(table[column].sel(row=name)) for column in table}


@pytest.fixture
def many():
    """40 paragraphs of 20 prefix tokens out of a vocabulary of 60 with some frequent tokens."""
    tokens = (torch.rand(40, 26, generator=torch.Generator().manual_seed(2)) ** 2 * 60).long()
    return Paragraphs(tokens, 20)


@pytest.fixture
def counts():
    return torch.randint(1, 30, (60,), generator=torch.Generator().manual_seed(3))  # with ties


def test_every_estimate_equals_plain_loops_over_paragraphs(paragraphs):
    random = np.random.default_rng(0)
    drop = random.normal(0.5, 1, (6, 3, 12)).astype(np.float32)
    drop[4] = 0.25  # nothing to correlate here
    drop[5] = -1  # nor a positive drop to spread
    counts = torch.randint(9, (101,), generator=torch.Generator().manual_seed(0))
    table = perturbation_statistics(effect_of(paragraphs, nll_rise=drop), paragraphs, counts, seed=0, n_shuffles=5)
    assert table["row"].values.tolist() == [
        MEAN, WITH_POSITION, WITH_COUNT, COUNT_ALONE, POSITION_ALONE, HALF, WORST,
    ]  # fmt: skip

    values = {name: [] for name in table["row"].values}
    for p in range(6):
        mean = [float(np.mean([float(drop[p, d, t]) for d in range(3)])) for t in range(12)]
        values[MEAN].append(sum(mean) / 12)
        if p < 4:
            count, position = [int(counts[token]) for token in paragraphs.prefix[p]], list(range(12))
            values[WITH_POSITION].append(spearmanr(mean, position).statistic)
            values[WITH_COUNT].append(spearmanr(mean, count).statistic)
            ranks = [rankdata(one) for one in (mean, count, position)]
            values[COUNT_ALONE].append(partial_by_least_squares(ranks[0], ranks[1], ranks[2]))
            values[POSITION_ALONE].append(partial_by_least_squares(ranks[0], ranks[2], ranks[1]))
        if p < 5:
            positive = sorted((max(one, 0) for one in mean), reverse=True)
            n = 0
            while sum(positive[:n]) < sum(positive) / 2:
                n += 1
            values[HALF].append(n)
            values[WORST].append(sum(positive[:5]) / sum(positive))
    for name, slow in values.items():
        assert row(table, name)["estimate"] == pytest.approx(np.mean(slow), abs=1e-9), name
        interval = bootstrap_mean(np.array(slow, np.float64), seed=0)
        assert (row(table, name)["low"], row(table, name)["high"]) == pytest.approx(
            (float(interval[1]), float(interval[2])), abs=1e-9
        )


def test_without_counts_the_other_rows_are_the_same(many, counts):
    effect = effect_of(many, nll_rise=np.random.default_rng(1).normal(size=(40, 1, 20)))
    known, without = (perturbation_statistics(effect, many, one, seed=0, n_shuffles=50) for one in (counts, None))
    assert without["row"].values.tolist() == [MEAN, WITH_POSITION, HALF, WORST]
    for name in (MEAN, HALF, WORST):
        assert row(without, name)["estimate"] == row(known, name)["estimate"]


def partial_by_least_squares(one, other, given):
    design = np.column_stack([np.ones(len(one)), given])
    left = [ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0] for ranks in (one, other)]
    return np.corrcoef(*left)[0, 1]


def test_drops_that_depend_on_position_alone_are_told_from_drops_of_rare_tokens(many, counts):
    # Rare tokens are planted late, so that each correlation is there without its cause.
    order = counts[many.tokens[:, :20]].double() + 8 * torch.rand(40, 20, generator=torch.Generator().manual_seed(0))
    prefix = many.tokens[:, :20].gather(1, order.argsort(1, descending=True))
    late = Paragraphs(torch.cat([prefix, many.tokens[:, 20:]], dim=1), 20)
    noise = np.random.default_rng(1).normal(0, 4, (40, 2, 20))
    position = np.arange(20.0) + noise
    rarity = -rankdata(counts[prefix].numpy(), axis=1)[:, None] + noise
    for drop, cause, cause_alone, other, other_alone in (
        (position, WITH_POSITION, POSITION_ALONE, WITH_COUNT, COUNT_ALONE),
        (rarity, WITH_COUNT, COUNT_ALONE, WITH_POSITION, POSITION_ALONE),
    ):
        table = perturbation_statistics(effect_of(late, nll_rise=drop), late, counts, seed=0, n_shuffles=200)
        sign = 1 if cause == WITH_POSITION else -1
        assert sign * row(table, cause)["estimate"] > 0.6
        assert sign * row(table, cause_alone)["low"] > 0.15
        for name in (cause, cause_alone, other):
            assert row(table, name)["p"] == pytest.approx(1 / 201)
        assert abs(row(table, other)["estimate"]) > 0.5  # by way of the cause
        assert abs(row(table, other_alone)["estimate"]) < 0.1
        assert abs(row(table, cause)["null"]) < 0.05


def test_what_shuffling_leaves_alone_stands_beside_an_even_spread(many, counts):
    drop = np.zeros((40, 1, 20))
    drop[:, 0, 3], drop[:, 0, 9] = 2.0, 1.0
    table = perturbation_statistics(
        effect_of(many, em_drop=drop), many, counts, seed=0, effect_of="em_drop", n_shuffles=5
    )
    assert (row(table, HALF)["estimate"], row(table, HALF)["null"]) == (1, 10)
    assert (row(table, WORST)["estimate"], row(table, WORST)["null"]) == (1, 0.25)
    even = perturbation_statistics(
        effect_of(many, nll_rise=np.full((40, 1, 20), 0.1)), many, counts, seed=0, n_shuffles=5
    )
    for name in (HALF, WORST):
        assert row(even, name)["estimate"] == pytest.approx(row(even, name)["null"])
        assert np.isnan(row(even, name)["p"])
    assert np.isnan([row(even, name)[column] for name in (WITH_POSITION, COUNT_ALONE) for column in even]).all()
    assert np.isnan(row(even, MEAN)["null"])


def test_no_positive_drop_is_no_spread_and_no_rarity_is_no_correlation(many):
    drop = -np.random.default_rng(0).random((40, 1, 20))
    table = perturbation_statistics(effect_of(many, nll_rise=drop), many, torch.ones(60), seed=0, n_shuffles=5)
    for name in (HALF, WORST):
        assert np.isnan(row(table, name)["estimate"])
    assert np.isnan(row(table, WITH_COUNT)["estimate"])
    # Regressing out equal counts leaves the plain correlation.
    assert row(table, POSITION_ALONE)["estimate"] == pytest.approx(row(table, WITH_POSITION)["estimate"])


def test_near_duplicates_are_not_independent_evidence(many, counts):
    random = np.random.default_rng(0)
    drop = random.random((40, 1, 20))
    twice = Paragraphs(many.tokens.repeat(4, 1), 20)
    once = perturbation_statistics(effect_of(many, nll_rise=drop), many, counts, seed=0, n_shuffles=5)
    again = perturbation_statistics(
        effect_of(twice, nll_rise=np.tile(drop, (4, 1, 1))), twice, counts, seed=0, n_shuffles=5
    )
    assert int(clusters(twice).max()) == 39
    for column in ("estimate", "low", "high"):
        assert again[column].values == pytest.approx(once[column].values, abs=1e-9)


def test_integers_are_averaged_over_draws_and_the_seed_decides_everything(many, counts):
    drop = np.random.default_rng(0).integers(-2, 9, (40, 3, 20))
    effect = effect_of(many, match_drop=drop)
    one, two = (
        perturbation_statistics(effect, many, counts, seed=4, effect_of="match_drop", n_shuffles=20) for _ in range(2)
    )
    assert one.identical(two)
    assert row(one, MEAN)["estimate"] == pytest.approx(drop.mean())
    other = perturbation_statistics(effect, many, counts, seed=5, effect_of="match_drop", n_shuffles=20)
    assert (other["estimate"] == one["estimate"]).all()
    assert row(other, WITH_COUNT)["null"] != row(one, WITH_COUNT)["null"]


def test_results_say_what_they_were_computed_from_also_when_the_effect_came_from_disk(many, counts, tmp_path):
    effect = effect_of(many, nll_rise=np.random.default_rng(0).random((40, 2, 20)))
    save_result(effect, tmp_path / "effect.nc")
    again = load_result(tmp_path / "effect.nc")
    for made in (
        perturbation_statistics(again, many, counts, seed=3, n_shuffles=5),
        drop_by_position(again, many, seed=3),
        drop_by_rarity(again, many, counts, seed=3),
    ):
        about = {
            name: made.attrs[name] for name in ("model_hash", "seed", "n_prefix", "statistics_of", "statistics_seed")
        }
        assert about == {
            "model_hash": "abc", "seed": 7, "n_prefix": 20, "statistics_of": "nll_rise", "statistics_seed": 3,
        }  # fmt: skip
        save_result(made, tmp_path / "made.nc")
        assert load_result(tmp_path / "made.nc").equals(made)
        assert all("units" in made[name].attrs for name in made)


def test_drops_by_position_are_means_inside_what_shuffling_gives_unless_position_matters(many):
    drop = np.random.default_rng(0).random((40, 2, 20))
    drop[:, :, 17] += 1
    found = drop_by_position(effect_of(many, nll_rise=drop), many, seed=0)
    for pos in range(20):
        slow = np.mean([drop[p, :, pos].mean() for p in range(40)])
        assert float(found["mean"][pos]) == pytest.approx(slow, abs=1e-12)
        _, low, high = bootstrap_mean(drop.mean(1)[:, pos], seed=0, clusters=clusters(many).numpy())
        assert (float(found["low"][pos]), float(found["high"][pos])) == pytest.approx((float(low), float(high)))
    outside = (found["mean"] > found["shuffled_high"]).values
    assert outside[17]
    # The band is that of independent draws of a paragraph's own drops: its width follows from their spread.
    spread = np.sqrt((drop.mean(1).var(1)).sum()) / 40
    width = (found["shuffled_high"] - found["shuffled_low"]).values
    assert width == pytest.approx(np.full(20, 2 * 1.96 * spread), rel=0.12)
    assert found["shuffled_low"].values.mean() < drop.mean() < found["shuffled_high"].values.mean()


@pytest.mark.parametrize("n_bins", [2, 5, 7])
def test_drops_by_rarity_are_means_over_equal_shares_of_each_prefix(many, counts, n_bins):
    drop = np.random.default_rng(0).random((40, 2, 20))
    found = drop_by_rarity(effect_of(many, nll_rise=drop), many, counts, seed=0, n_bins=n_bins)
    bins = [[[] for _ in range(n_bins)] for _ in range(40)]
    for p in range(40):
        count = counts[many.prefix[p]].tolist()
        for t in range(20):
            rarer, same = sum(c < count[t] for c in count), sum(c == count[t] for c in count)
            bins[p][int((rarer + same / 2) / 20 * n_bins)].append(drop[p, :, t].mean())
    for b in range(n_bins):
        slow = np.array([np.mean(bins[p][b]) for p in range(40) if bins[p][b]])
        assert float(found["mean"][b]) == pytest.approx(slow.mean(), abs=1e-12)
        member = clusters(many).numpy()[[bool(bins[p][b]) for p in range(40)]]
        _, low, high = bootstrap_mean(slow, seed=0, clusters=member)
        assert (float(found["low"][b]), float(found["high"][b])) == pytest.approx((float(low), float(high)))
        assert found["shuffled_low"][b] < drop.mean() < found["shuffled_high"][b]


def test_rare_tokens_that_matter_stand_out_of_their_shuffles(many, counts):
    rare = (counts[many.prefix] < 6).double().numpy()[:, None]
    found = drop_by_rarity(effect_of(many, nll_rise=rare), many, counts, seed=0)
    assert found["row"].values.tolist() == [
        "rarest fifth", "fifth 2 of 5", "fifth 3 of 5", "fifth 4 of 5", "commonest fifth",
    ]  # fmt: skip
    assert found["mean"][0] > found["shuffled_high"][0]
    assert found["mean"][4] < found["shuffled_low"][4]


def test_a_bin_that_no_prefix_fills_has_no_mean(many):
    found = drop_by_rarity(effect_of(many, nll_rise=np.ones((40, 1, 20))), many, torch.ones(60), seed=0, n_bins=3)
    assert found["row"].values.tolist() == ["rarest third", "third 2 of 3", "commonest third"]
    for column in found:
        assert np.isnan(found[column].values).tolist() == [True, False, True]  # all tokens are equally rare


def test_unusable_input_is_refused(many, counts):
    effect = effect_of(many, nll_rise=np.random.default_rng(0).random((40, 2, 20)), kl=np.zeros((40, 2, 20)))
    with pytest.raises(InputError, match="n_shuffles must be at least 1, got 0"):
        perturbation_statistics(effect, many, counts, seed=0, n_shuffles=0)
    fewer = many.select([0, 1, 2])
    for call in (
        lambda **more: perturbation_statistics(effect, more.pop("given", many), more.pop("n", counts), seed=0, **more),
        lambda **more: drop_by_rarity(effect, more.pop("given", many), more.pop("n", counts), seed=0, **more),
    ):
        with pytest.raises(InputError, match=r"token ids must lie in 0\.\.39, where there are counts"):
            call(n=counts[:40])
        with pytest.raises(InputError, match="counts must be numbers, got NaN"):
            call(n=torch.full((60,), torch.nan))
        with pytest.raises(InputError, match="the effect has no drops called 'replacement'; it has nll_rise, kl"):
            call(effect_of="replacement")
        with pytest.raises(InputError, match="but 3 others came"):
            call(given=fewer)
    with pytest.raises(InputError, match="but 3 others came"):
        drop_by_position(effect, fewer, seed=0)
    with pytest.raises(InputError, match="the effect has no drops called 'nll'; it has nll_rise, kl"):
        drop_by_position(effect, many, seed=0, effect_of="nll")
    for n_bins in (1, 21):
        with pytest.raises(InputError, match=f"n_bins must lie between 2 and the 20 tokens of a prefix, got {n_bins}"):
            drop_by_rarity(effect, many, counts, seed=0, n_bins=n_bins)
