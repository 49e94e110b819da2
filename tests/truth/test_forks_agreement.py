import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr, t

from memhooks.errors import InputError
from memhooks.localize.localizers import gradient
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.components import component_parameters
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.forks import counterfactual as module
from memhooks.truth.forks.counterfactual import counterfactual_memorization
from memhooks.truth.forks.curves import single_targets, swap_curves
from memhooks.truth.forks.ranking import _agreement, _of_largest, _within, localizer_agreement
from memhooks.truth.forks.scored import Scored, localized
from memhooks.truth.forks.shares import with_draws
from memhooks.truth.forks.swap_parts import swap_parts
from memhooks.truth.forks.swapped import swapped


@pytest.fixture
def head_fork(model):
    """A fork that differs in head L1H3 alone."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            weight = getattr(other.blocks[1].attn, name)
            weight[3] = -2 * weight[3]
    return other


def rows(*numbers, seed=3):
    tokens = torch.randint(101, (20, 24), generator=torch.Generator().manual_seed(seed))
    return Paragraphs(tokens[list(numbers)], n_prefix=12, ids=tuple(map(str, numbers)))


@pytest.fixture
def sets(model):
    recited = with_own_continuation(model, rows(*range(8)))
    return {"target": recited.select(range(4)), "others": recited.select(range(4, 8)), "control": rows(8, 9, 10)}


def test_the_oracle_has_all_of_the_gap_where_one_head_differs(model, head_fork, sets):
    scores = localized(model, head_fork, sets["target"], sets["control"], localizers=[gradient])
    assert list(scores) == ["gradient", "random", "oracle"]
    n_head, n_grid = 4 * 32 * 8, sum(weight.numel() for weight in component_parameters(model).values())
    found = swap_curves(model, head_fork, sets, scores, fractions=[n_head / n_grid])
    oracle = found.isel(row=2)
    assert int(oracle["n_weights"]) == n_head
    assert float(oracle["target"]) == pytest.approx(1, rel=1e-4)
    assert float(oracle["complement"]) == pytest.approx(0, abs=1e-5)
    assert float(oracle["own"]) == pytest.approx(1 - float(oracle["others"]) * 1, abs=0.5)
    blind = found.isel(row=1)
    assert float(blind["target"]) < 0.5
    assert float(blind["complement"]) > 0.5
    mirror = with_own_continuation(head_fork, rows(11, 12))
    swaps = swap_parts(model, head_fork, {"memorized": sets["target"], "mirror": mirror, "control": sets["control"]})
    agreed = localizer_agreement(model, swaps, scores, cuts=["heads"])
    assert float(agreed["spearman"].sel(row="heads: oracle")) == pytest.approx(1)
    assert str(agreed["first"].sel(row="heads: oracle").values) == "L1H3"
    assert int(agreed["rank_of_first"].sel(row="heads: oracle")) == 1


def test_curves_are_those_of_masks_swapped_by_hand(model, head_fork, sets):
    scores = localized(model, head_fork, sets["target"], sets["control"], localizers=[gradient], seed=1)
    found = swap_curves(model, head_fork, sets, scores, fractions=[0.02, 0.2], n_draws=2, seed=5)
    assert found["row"].values.tolist()[:2] == ["gradient 0.02", "gradient 0.2"]
    place, one = 1, found.isel(row=1)

    def nll(name, which=None, of=model):
        if which is None:
            return recitation(of, sets[name])["nll"].mean("pos").values.astype(float)
        with swapped(model, head_fork, which):
            return nll(name)

    mask = top_weights(scores["gradient"].scores, fraction=0.2)
    for name in ("target", "others"):
        gap = (nll(name, of=head_fork) - nll(name)).mean()
        assert float(one[name]) == pytest.approx((nll(name, mask) - nll(name)).mean() / gap, abs=1e-4)
    gap = (nll("target", of=head_fork) - nll("target")).mean()
    blind = [matched_random_weights(mask, seed=5 + 1000 * place + draw) for draw in range(2)]
    random = np.mean([nll("target", which) for which in blind], axis=0)
    assert float(one["random"]) == pytest.approx((random - nll("target")).mean() / gap, abs=1e-4)
    assert float(one["beyond_random"]) == pytest.approx(float(one["target"] - one["random"]), abs=1e-6)
    rest = nll("target", mask.complement())
    assert float(one["complement"]) == pytest.approx((rest - nll("target")).mean() / gap, abs=1e-4)
    assert float(one["control_rise"]) == pytest.approx((nll("control", mask) - nll("control")).mean(), abs=1e-5)
    rise = (nll("target", mask) - nll("target")).mean() - (nll("others", mask) - nll("others")).mean()
    assert float(one["own"]) == pytest.approx(rise / gap, abs=1e-4)


def test_single_targets_are_localized_and_swapped_one_by_one(model, head_fork, sets):
    found = single_targets(model, head_fork, sets, sets["control"], localizers=[gradient], fraction=0.1, seed=2)
    rises, gaps = [], []
    for place in range(4):
        target = sets["target"].select([place])
        mask = top_weights(gradient(model, target, sets["control"]), fraction=0.1)
        clean, apart = (float(recitation(one, target)["nll"].mean()) for one in (model, head_fork))
        with swapped(model, head_fork, mask):
            rises.append(float(recitation(model, target)["nll"].mean()) - clean)
        gaps.append(apart - clean)
    share = np.mean(rises) / np.mean(gaps)
    assert float(found["target"].sel(row="gradient")) == pytest.approx(share, abs=1e-4)
    own = found.sel(row="gradient")
    assert float(own["own"]) == pytest.approx(float(own["target"] - own["others"]), abs=1e-6)
    assert found.attrs["n_targets"] == 4
    assert float(found["target_low"].sel(row="gradient")) <= share


def test_agreement_is_spearman_of_summed_scores_with_rises(model, head_fork, sets):
    mirror = with_own_continuation(head_fork, rows(11, 12))
    swaps = swap_parts(model, head_fork, {"memorized": sets["target"], "mirror": mirror, "control": sets["control"]})
    generator = torch.Generator().manual_seed(0)
    own = {name: torch.rand(w.shape, generator=generator) for name, w in component_parameters(model).items()}
    nothing = {name: one if ".mlp." in name else torch.zeros_like(one) for name, one in own.items()}
    scores = {"mine": Scored(own, 0.0), "mlp only": Scored(nothing, 0.0)}
    found = localizer_agreement(model, swaps, scores)
    parts = [f"{kind} {layer}" for kind in ("attention", "MLP") for layer in range(4)]
    mass = [
        sum(
            float(one.sum())
            for name, one in own.items()
            if name.startswith(f"blocks.{part[-1]}.{'mlp' if 'MLP' in part else 'attn'}.")
        )
        for part in parts
    ]
    one = found.sel(row="attention and MLP: mine")
    expected = spearmanr(mass, swaps["removes"].sel(row=parts).values)
    assert float(one["spearman"]) == pytest.approx(expected.statistic)
    gains = spearmanr(mass, swaps["brings"].sel(row=parts).values)
    assert float(one["spearman_brings"]) == pytest.approx(gains.statistic)
    assert float(one["partial_low"]) <= float(one["partial_high"])
    assert float(one["partial_brings_low"]) <= float(one["partial_brings_high"])
    assert 0 < float(one["p"]) <= 1
    assert int(one["n_parts"]) == 8
    assert int(found["n_parts"].sel(row="matrices: mine")) == 24
    assert np.isnan(found["spearman"].sel(row="heads: mlp only"))
    assert str(found["first"].sel(row="heads: mlp only").values) == "none"
    # Heads are all of one size, so taking size out changes nothing.
    both = found.sel(row="heads: mine")
    assert float(both["partial"]) == pytest.approx(float(both["spearman"]))


def test_permutations_call_perfect_agreement_significant(model, head_fork, sets):
    mirror = with_own_continuation(head_fork, rows(11, 12))
    swaps = swap_parts(
        model, head_fork, {"memorized": sets["target"], "mirror": mirror, "control": sets["control"]}, parts=["matrix"]
    )
    rises = np.random.default_rng(0).normal(size=24)
    swaps["nll_model"][:] = swaps["clean_nll_model"].values + rises[:, None]
    order = np.argsort(np.argsort(rises)) + 1.0
    name = dict(zip([str(one) for one in swaps["row"].values], order, strict=True))
    scores = {
        key: torch.full_like(w, name[f"{key.split('.')[-1]} {key.split('.')[1]}"] / w.numel())
        for key, w in component_parameters(model).items()
    }
    one = localizer_agreement(model, swaps, {"perfect": Scored(scores, 0.0)}, cuts=["matrices"]).isel(row=0)
    assert float(one["spearman"]) == pytest.approx(1)
    assert float(one["p"]) == pytest.approx(1 / 2001)
    assert float(one["p_brings"]) > 0.01


def test_a_localizer_that_tells_kinds_apart_and_no_more_is_not_significant():
    kinds = np.repeat(["W_Q", "W_in"], 6)
    effects = np.where(kinds == "W_in", 5.0, 0.0) + np.random.default_rng(1).normal(size=(3, 12))
    mass = np.where(kinds == "W_in", 2.0, 1.0) + 0.01 * np.random.default_rng(3).normal(size=(1, 12))
    found = _agreement(mass, effects.T, np.ones(12, int), kinds, None, 0)
    assert found["spearman"][0] > 0.6
    assert found["p"][0] > 0.05
    drawn = _within(effects[0], kinds, 0)
    for kind in ("W_Q", "W_in"):
        assert (np.sort(drawn[:, kinds == kind], 1) == np.sort(effects[0, kinds == kind])).all()
    both = _agreement(np.stack([mass[0], effects.mean(0)]), effects.T, np.ones(12, int), kinds, None, 0)
    assert both["p"][1] < 0.01 < both["p"][0]
    assert np.isnan(_of_largest(np.array([np.nan]), np.full((5, 1), np.nan)))
    null = np.array([[np.nan, 0.1], [0.3, np.nan], [0.2, 0.2]])
    assert not np.isnan(_of_largest(np.array([0.9, 0.15]), null)).any()


def test_counterfactuals_are_differences_of_the_forks_by_count(model, head_fork):
    memorized = with_own_continuation(model, rows(*range(6)))
    memorized = Paragraphs(memorized.tokens, 12, ids=memorized.ids, counts=(1, 1, 8, 8, 8, 8))
    sets = {
        "memorized": memorized,
        "mirror": with_own_continuation(head_fork, rows(6, 7, 8)),
        "control": rows(*range(9, 16)),
    }
    found = counterfactual_memorization(model, head_fork, sets)
    nll = {
        (side, name): recitation(one, part)["nll"].mean("pos").values.astype(float)
        for side, one in (("own", model), ("fork", head_fork))
        for name, part in sets.items()
    }
    expected = np.concatenate(
        [
            nll["fork", "memorized"] - nll["own", "memorized"],
            nll["own", "mirror"] - nll["fork", "mirror"],
            nll["fork", "control"] - nll["own", "control"],
        ]
    )
    np.testing.assert_allclose(found["nll_difference"], expected, atol=1e-5)
    assert np.isnan([float(found["threshold"]), float(found["threshold_mirror"])]).all()  # 7 cannot tell 97.5 %
    assert int(found["n_null"]) == 7
    assert np.isnan(found["above"].values).all()
    assert found["row"].values.tolist() == ["memorized 1x", "memorized 8x", "mirror", "control"]
    eight = found.sel(row="memorized 8x")
    assert float(eight["mean"]) == pytest.approx(expected[2:6].mean(), abs=1e-5)
    assert (int(eight["n"]), found.attrs["draws_per_side"]) == (4, 1)
    assert found["em_difference"].values[:6].min() >= 0


def test_above_is_counted_where_the_control_can_tell_and_never_for_itself(model, head_fork, monkeypatch):
    monkeypatch.setattr(module, "QUANTILE", 0.8)  # 5 of 5 clusters
    sets = {
        "memorized": with_own_continuation(model, rows(*range(6))),
        "mirror": with_own_continuation(head_fork, rows(6, 7, 8)),
        "control": rows(*range(9, 14)),
    }
    found = counterfactual_memorization(model, head_fork, sets)
    values = found["nll_difference"].values
    assert float(found["threshold"]) == values[9:].max()
    assert float(found["threshold_mirror"]) == (-values[9:]).max()
    assert float(found["above"].sel(row="memorized")) == (values[:6] > values[9:].max()).mean()
    assert np.isnan(found["above"].sel(row="control"))


def test_the_threshold_is_conformal_over_clusters():
    values = np.arange(80.0)
    assert module.threshold(values[:39], np.arange(39)) == 38.0
    assert np.isnan(module.threshold(values[:38], np.arange(38)))
    assert module.threshold(values, np.arange(80)) == 78.0  # ceil(.975 * 81) = 79th
    assert np.isnan(module.threshold(values, np.arange(80) // 3))


def test_better_than_random_must_stand_out_from_the_draws():
    ends = tuple(np.array([one]) for one in (0.1, 0.08, 0.11))
    drawn = np.array([[0.1, 0.2, 0.3, 0.2, 0.2]])
    middle, low, high = with_draws(ends, drawn)
    half = t.ppf(0.975, 4) * np.std(drawn, ddof=1) * 1.2**0.5
    assert middle == 0.1
    assert low == pytest.approx(0.1 - (0.02**2 + half**2) ** 0.5)
    assert high == pytest.approx(0.1 + (0.01**2 + half**2) ** 0.5)
    generator = np.random.default_rng(0)
    draws = generator.normal(size=(2000, 6))
    alike = with_draws(tuple(draws[:, 0] - draws[:, 1:].mean(1) for _ in range(3)), draws[:, 1:])
    assert 0.01 < (alike[1] > 0).mean() < 0.04  # one of the draws beats the others with a chance of 2.5 %


def test_unusable_settings_are_refused(model, head_fork, sets):
    scores = localized(model, head_fork, sets["target"], sets["control"], localizers=[gradient])
    with pytest.raises(InputError, match=r"localizers need different names .* got \['gradient', 'gradient'\]"):
        localized(model, head_fork, sets["target"], sets["control"], localizers=[gradient, gradient])
    with pytest.raises(InputError, match="got none"):
        localized(model, head_fork, sets["target"], sets["control"], localizers=[])
    with pytest.raises(InputError, match=r"n_draws must be at least 2, .* got 1"):
        swap_curves(model, head_fork, sets, scores, n_draws=1)
    with pytest.raises(InputError, match="fractions and scores must not be empty"):
        swap_curves(model, head_fork, sets, scores, fractions=[])
    with pytest.raises(InputError, match="sets must be target, others, control, got target;"):
        swap_curves(model, head_fork, {"target": sets["target"]}, scores)
    mirror = with_own_continuation(head_fork, rows(11, 12))
    triple = {"memorized": sets["target"], "mirror": mirror, "control": sets["control"]}
    swaps = swap_parts(model, head_fork, triple, parts=["matrix"])
    with pytest.raises(InputError, match="cuts must be among attention and MLP, matrices, heads, got noses"):
        localizer_agreement(model, swaps, scores, cuts=["noses"])
    with pytest.raises(InputError, match="the swaps lack L0H0, a part of the cut 'heads'"):
        localizer_agreement(model, swaps, scores, cuts=["heads"])
    with pytest.raises(InputError, match="there are no scores to rank parts by"):
        localizer_agreement(model, swaps, {})
