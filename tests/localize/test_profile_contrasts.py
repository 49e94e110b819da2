"""Score tables with planted profiles: layer shares of which we know what they depend on."""

from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import permutation_test, ttest_ind, ttest_rel

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_scores
from memhooks.localize.common_losses import NoEqualLossError
from memhooks.localize.profile import centre_of_mass, layer_shares
from memhooks.localize.profile_contrasts import LEAST_LOSS, MIN_COMMON, nll_matched, profile_contrasts
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.measure.membership import adjusted_difference, membership_p
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from tests.conftest import THOROUGH

LAYERS = 5
N_DRAWS = 200 if THOROUGH else 100


def made_up(rng, loss, *, shift=0.0, slope=0.0, bend=0.0, noise=0.02, prefix="P", between=(1, 3)):
    """Scores of paragraphs whose centre of mass is 2, plus `shift`, plus `slope` per nat, plus `bend` times log(loss).

    What moves the centre goes from one layer to another: a share of it each, of random size of gradient.
    """
    loss = np.asarray(loss, dtype=float)
    moved = shift + slope * loss + noise * rng.normal(size=len(loss)) + (bend * np.log(loss) if bend else 0)
    shares = np.full((len(loss), LAYERS), 1 / LAYERS)
    shares[:, between[0]] -= moved / (between[1] - between[0])
    shares[:, between[1]] += moved / (between[1] - between[0])
    assert (shares > 0).all()
    cells = shares[:, :, None] * np.array([0.7, 0.2, 0.1]) * rng.random((len(loss), 1, 1))
    return xr.Dataset(
        {"max_gradient": (("paragraph", "layer", "component"), cells), "loss": ("paragraph", loss)},
        {"paragraph": [f"{prefix}{i}" for i in range(len(loss))], "layer": range(LAYERS), "component": list("abc")},
        {"model_hash": "0123", "objective": "continuation_nll", "times_weight": 0, "version_torch": "0"},
    )


def rows_of(scores, tokens):
    return Paragraphs(tokens, n_prefix=12, ids=tuple(scores["paragraph"].values.tolist()))


def random_tokens(n, seed=0):
    return torch.randint(1000, (n, 24), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def results():
    rng = np.random.default_rng(0)
    low, high = rng.random(24) * 1.5, rng.random(21) * 1.5 + 0.5
    return {
        "memorized": made_up(rng, low, shift=-0.1, slope=0.05, prefix="A"),
        "twin": made_up(rng, low + 0.3 * rng.random(24), slope=0.05, prefix="A"),
        "control": made_up(rng, high, slope=0.05, prefix="C"),
    }


def common_losses(losses, *, paired):
    """Which paragraphs lie in both ranges, by sorting; the outermost 5 % (of 24: two, of 21: one) do not count."""
    left_out = [{24: 2, 21: 1}[len(one)] for one in losses]
    low = max(sorted(one)[n] for one, n in zip(losses, left_out, strict=True))
    high = min(sorted(one)[-1 - n] for one, n in zip(losses, left_out, strict=True))
    chosen = [np.array([low <= one <= high for one in each]) for each in losses]
    return [chosen[0] & chosen[1]] * 2 if paired else chosen


def ttest_rel_or_welch(one, other, axis, *, paired):
    return (ttest_rel(one, other, axis=axis) if paired else ttest_ind(one, other, axis=axis, equal_var=False)).statistic


def plain(results, name, **settings):
    """The row of one control by the functions of measure, variable by variable."""
    shares = [layer_shares(results[one]).values for one in ("memorized", name)]
    centre = [one @ np.arange(LAYERS) for one in shares]
    losses = tuple(results[one]["loss"].values for one in ("memorized", name))
    paired, seed = name == "twin", settings["seed"]

    def interval(of, values):
        ends = bootstrap_mean(values[0] - values[1], seed=seed) if paired else bootstrap_difference(*values, seed=seed)
        return dict(zip((of, f"{of}_low", f"{of}_high"), ends, strict=True))

    how = {"clusters": tuple(np.arange(len(one)) for one in losses), "paired": paired, "seed": seed}
    test = partial(membership_p, **how, n_dealt=settings["n_dealt"])
    common = common_losses(losses, paired=paired)
    some, few = ([one[own] for one, own in zip(both, common, strict=True)] for both in (centre, losses))
    at = how | {
        "covariate": tuple(np.log(one + LEAST_LOSS) for one in few),
        "clusters": tuple(np.arange(len(one)) for one in few),
    }
    adjusted = adjusted_difference(*some, **at)
    bounds = max(map(min, losses)), min(map(max, losses))
    return {
        **interval("difference", centre),
        **interval("share_difference", shares),
        **dict(zip(("adjusted", "adjusted_low", "adjusted_high"), adjusted, strict=True)),
        "p": test(*(one[:, None] for one in centre))[0],
        "p_adjusted": membership_p(*(one[:, None] for one in some), **at, n_dealt=settings["n_dealt"])[0],
        "p_layer": test(*shares),
        "nll_memorized": losses[0].mean(),
        "nll_control": losses[1].mean(),
        "overlap": np.mean([bounds[0] <= one <= bounds[1] for both in losses for one in both]),
        "paired": paired,
        "n_memorized": 24,
        "n_control": len(losses[1]),
        "n_common_memorized": common[0].sum(),
        "n_common_control": common[1].sum(),
    }


def test_every_number_is_that_of_the_plain_functions(results):
    found = profile_contrasts(results, seed=3, n_dealt=300)
    for name in ("twin", "control"):
        expected = plain(results, name, seed=3, n_dealt=300)
        assert set(found.data_vars) == {*expected, "survives", "survives_adjusted"}
        for variable, values in expected.items():
            np.testing.assert_allclose(found[variable].sel(row=name), values, rtol=1e-9, atol=1e-12)
    assert found["row"].values.tolist() == ["twin", "control"]
    assert found["p_layer"].dims == ("row", "layer")
    assert all(one.attrs["units"] for one in found.values())
    kept = {"memorized": "memorized", "pooling": "max_gradient", "seed": 3, "n_dealt": 300, "model_hash": "0123"}
    assert kept.items() <= found.attrs.items()


def test_the_adjusted_difference_is_the_coefficient_of_least_squares_and_p_that_of_scipy(results):
    found = profile_contrasts(results, seed=0, n_dealt=4000)
    centre = {name: centre_of_mass(layer_shares(one)).values for name, one in results.items()}
    for name in ("twin", "control"):
        losses = [results[one]["loss"].values for one in ("memorized", name)]
        common = common_losses(losses, paired=name == "twin")
        assert all(8 <= one.sum() < len(one) for one in common)
        if name == "twin":  # pairs: the intercept of differences over differences
            apart = [
                (one - other)[common[0]]
                for one, other in (np.log(np.array(losses) + LEAST_LOSS), (centre["memorized"], centre[name]))
            ]
            assert float(found["adjusted"].sel(row=name)) == pytest.approx(np.polyfit(*apart, 1)[1], rel=1e-9)
            continue
        member = np.repeat([1, 0], [one.sum() for one in common])
        x, y = (
            np.concatenate([one[own] for one, own in zip(both, common, strict=True)])
            for both in (losses, (centre["memorized"], centre[name]))
        )
        design = np.column_stack([np.ones(len(x)), member, np.log(x + LEAST_LOSS)])
        expected = np.linalg.lstsq(design, y, rcond=None)[0][1]
        assert float(found["adjusted"].sel(row=name)) == pytest.approx(expected, rel=1e-9)
        p = permutation_test(
            (centre["memorized"], centre[name]),
            partial(ttest_rel_or_welch, paired=name == "twin"),
            permutation_type="samples" if name == "twin" else "independent",
            vectorized=True,
            rng=np.random.default_rng(0),
            n_resamples=9999,
        ).pvalue
        assert float(found["p"].sel(row=name)) == pytest.approx(p, abs=5 * np.sqrt(p / 4000) + 1e-3)


def test_a_planted_shift_is_found_with_its_size_and_in_its_layers():
    rng = np.random.default_rng(1)
    loss = rng.random(60)
    results = {"memorized": made_up(rng, loss, shift=-0.2), "control": made_up(rng, loss[:50])}
    found = profile_contrasts(results, seed=0, n_dealt=500).sel(row="control")
    for name in ("difference", "adjusted"):
        assert float(found[name]) == pytest.approx(-0.2, abs=0.02)
        assert float(found[f"{name}_low"]) < -0.2 < float(found[f"{name}_high"]) < 0
    assert bool(found["survives"])
    assert bool(found["survives_adjusted"])
    np.testing.assert_allclose(found["share_difference"], [0, 0.1, 0, -0.1, 0], atol=0.01)
    assert (found["p_layer"].values <= 0.05).tolist() == [False, True, False, True, False]


def test_a_profile_that_follows_the_loss_alone_differs_raw_but_not_adjusted():
    rng = np.random.default_rng(2)
    results = {
        "memorized": made_up(rng, rng.random(40), slope=0.15),
        "control": made_up(rng, rng.random(40) + 0.6, slope=0.15),
    }
    found = profile_contrasts(results, seed=0, n_dealt=500).sel(row="control")
    assert float(found["difference"]) == pytest.approx(-0.09, abs=0.03)
    assert bool(found["survives"])
    assert not bool(found["survives_adjusted"])
    assert float(found["adjusted_low"]) < 0 < float(found["adjusted_high"])
    assert float(found["p_adjusted"]) > 0.05


def test_a_shift_that_the_loss_hides_is_found_adjusted():
    rng = np.random.default_rng(3)
    results = {
        "memorized": made_up(rng, rng.random(60) + 0.4, shift=-0.06, slope=0.15),
        "control": made_up(rng, rng.random(60), slope=0.15),
    }
    found = profile_contrasts(results, seed=0, n_dealt=500).sel(row="control")
    assert not bool(found["survives"])
    assert float(found["p"]) > 0.05
    assert float(found["adjusted"]) == pytest.approx(-0.06, abs=0.03)
    assert bool(found["survives_adjusted"])


def recited(rng, n=24):
    """Losses of recited text and of text that was never read: 0.01 to 0.2 and 0.7 to 5 nats."""
    return np.exp(rng.normal(-3, 0.5, n)), np.exp(rng.normal(0.8, 0.4, n))


def follows_log_loss(rng, losses, *, shift=0.0, base=0.2):
    how = {"bend": 0.15, "noise": 0.1, "between": (0, 4)}
    return {
        "memorized": made_up(rng, losses[0], shift=base + shift, **how),
        "control": made_up(rng, losses[1], shift=base, **how),
    }


@pytest.mark.parametrize("n_outliers", [0, 1])
def test_without_losses_in_common_nothing_is_adjusted(n_outliers):
    """One recited paragraph with an ordinary loss, and one the other way round, do not make losses common."""
    rng = np.random.default_rng(4)
    losses = recited(rng)
    for one, other in (losses, losses[::-1]):
        one[:n_outliers] = np.median(other)
    found = profile_contrasts(follows_log_loss(rng, losses), seed=0, n_dealt=100).sel(row="control")
    assert (float(found["overlap"]) > 0.5) == (n_outliers == 1)
    for name in ("adjusted", "adjusted_low", "adjusted_high", "p_adjusted"):
        assert np.isnan(float(found[name]))
    assert int(found["n_common_memorized"]) == int(found["n_common_control"]) == 0
    assert bool(found["survives"])
    assert not bool(found["survives_adjusted"])


def test_each_set_needs_some_clusters_in_the_common_range():
    """Nine paragraphs share their range with the other set; as near-duplicates two of them are one: eight, seven."""
    rng = np.random.default_rng(0)
    losses = np.r_[np.linspace(0.01, 0.1, 11), np.linspace(1, 1.4, 9), 1.5], np.r_[0.9, np.linspace(0.95, 1.5, 20)]
    results = follows_log_loss(rng, losses)
    for n_copies, expected in ((1, 9), (2, 8), (3, 7)):
        tokens = random_tokens(21)
        tokens[11 : 11 + n_copies] = tokens[11]
        sets = {"memorized": rows_of(results["memorized"], tokens)}
        sets["control"] = rows_of(results["control"], random_tokens(21, 1))
        found = profile_contrasts(results, sets=sets, seed=0, n_dealt=50).sel(row="control")
        assert int(found["n_common_memorized"]) == expected
        assert int(found["n_memorized"]) == 22 - n_copies
        assert np.isnan(float(found["adjusted"])) == (expected < MIN_COMMON)


def test_a_profile_that_bends_with_the_loss_seldom_survives_at_equal_loss():
    """Sets that differ in loss alone, on which the centre depends as its logarithm: of N_DRAWS 1/20 are allowed."""
    survived = raw = 0
    for seed in range(N_DRAWS):
        rng = np.random.default_rng(seed)
        losses = np.exp(rng.normal(-1.4, 0.6, 32)), np.exp(rng.normal(-0.7, 0.6, 32))
        found = profile_contrasts(follows_log_loss(rng, losses, base=0.1), seed=seed, n_dealt=100).sel(row="control")
        raw += bool(found["survives"])
        survived += bool(found["survives_adjusted"])
    assert raw > 0.5 * N_DRAWS
    assert survived <= 0.08 * N_DRAWS


def test_an_effect_of_membership_is_found_at_equal_loss():
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        losses = np.exp(rng.normal(-1.2, 0.7, 60)), np.exp(rng.normal(-0.6, 0.7, 60))
        results = follows_log_loss(rng, losses, shift=-0.2)
        found.append(profile_contrasts(results, seed=seed, n_dealt=100).sel(row="control"))
    assert np.mean([float(one["adjusted"]) for one in found]) == pytest.approx(-0.2, abs=0.02)
    assert sum(bool(one["survives_adjusted"]) for one in found) >= 17


def test_it_survives_only_with_both_interval_and_p():
    """Five pairs: swapping within them gives p of 2 / 32 at best, however far the interval lies from 0."""
    rng = np.random.default_rng(5)
    loss = rng.random(5)
    results = {"memorized": made_up(rng, loss, shift=-0.3), "twin": made_up(rng, loss)}
    found = profile_contrasts(results, seed=0).sel(row="twin")
    assert float(found["difference_high"]) < 0
    assert float(found["p"]) > 0.05
    assert not bool(found["survives"])


def test_pairs_take_out_what_paragraphs_have_in_common():
    rng = np.random.default_rng(6)
    loss, own = rng.random(16), 0.1 * rng.normal(size=16)
    results = {
        "memorized": made_up(rng, loss, shift=own - 0.05),
        "twin": made_up(rng, loss, shift=own),
        "again": made_up(rng, loss, shift=own),
    }
    found = profile_contrasts(results, seed=0, n_dealt=500)
    assert found["survives"].values.tolist() == [True, False]
    assert found["paired"].values.tolist() == [True, False]
    width = found["difference_high"] - found["difference_low"]
    assert float(width.sel(row="twin")) < 0.5 * float(width.sel(row="again"))
    for again in ("again", ("again", "twin")):
        pairs = profile_contrasts(results, seed=0, paired=again)["paired"].values.tolist()
        assert pairs == [again != "again", True]


@pytest.mark.parametrize("paired", [False, True])
def test_clusters_of_near_duplicates_widen_the_intervals_and_raise_p(paired):
    rng = np.random.default_rng(7)
    loss, own = np.repeat(rng.random(14), 3), 0.1 * rng.normal(size=14)
    results = {
        "memorized": made_up(rng, loss, shift=np.repeat(own - own.mean() - 0.03, 3)),
        "twin": made_up(rng, loss + 0.05 * np.repeat(rng.random(14), 3)),
    }
    sets = {name: rows_of(one, random_tokens(14).repeat_interleave(3, 0)) for name, one in results.items()}
    how = {"seed": 0, "n_dealt": 500, "paired": ("twin",) if paired else ()}
    without, known = profile_contrasts(results, **how), profile_contrasts(results, sets=sets, **how)
    for name in ("difference", "adjusted", "share_difference"):
        width = [one[f"{name}_high"] - one[f"{name}_low"] for one in (without, known)]
        assert float(width[1].mean()) > 1.2 * float(width[0].mean())
        np.testing.assert_allclose(known[name], without[name], rtol=1e-9)
    for name in ("p", "p_adjusted"):
        assert float(known[name][0]) > float(without[name][0])
    assert float(known["p_layer"].min()) > float(without["p_layer"].min())


@pytest.mark.parametrize("slope", [0.0, 0.15])
def test_without_an_effect_few_contrasts_pass(slope):
    """Sets alike (slope 0), or different in loss alone: p <= 0.05 in about one of twenty."""
    small = {"p": 0, "p_adjusted": 0, "p_layer": 0}
    for seed in range(N_DRAWS):
        rng = np.random.default_rng(seed)
        results = {
            "memorized": made_up(rng, rng.random(20) + 0.5, slope=slope, shift=-slope),
            "control": made_up(rng, rng.random(24) + (0.9 if slope else 0.5), slope=slope, shift=-slope),
        }
        found = profile_contrasts(results, seed=seed, n_dealt=100)
        for name in small:
            small[name] += float(found[name].min()) <= 0.05
    assert small["p_adjusted"] <= 0.09 * N_DRAWS
    assert small["p"] >= 0.5 * N_DRAWS if slope else small["p"] <= 0.09 * N_DRAWS
    assert small["p_layer"] >= 0.5 * N_DRAWS if slope else small["p_layer"] <= 0.09 * N_DRAWS


def test_matched_pairs_have_equal_loss_and_the_scores_of_their_ids():
    rng = np.random.default_rng(8)
    one, other = made_up(rng, rng.random(30), slope=0.15), made_up(rng, rng.random(25) + 0.3, slope=0.15, prefix="C")
    rows = rows_of(one, random_tokens(30)).select(rng.permutation(30)[:26]), rows_of(other, random_tokens(25, 1))
    ours, theirs, pairs = nll_matched(one, other, *rows, caliper=0.1)
    assert tuple(ours["paragraph"].values) == pairs.one.ids
    assert tuple(theirs["paragraph"].values) == pairs.other.ids
    assert 5 < len(pairs.one) < 25
    for scores, matched, whole in ((ours, pairs.one, one), (theirs, pairs.other, other)):
        for place, name in enumerate(matched.ids):
            xr.testing.assert_equal(scores.isel(paragraph=place), whole.sel(paragraph=name))
    losses = one["loss"].sel(paragraph=list(rows[0].ids)).values, other["loss"].values
    deviation = np.sqrt(np.mean([each.var(ddof=1) for each in losses]))
    assert np.abs(ours["loss"].values - theirs["loss"].values).max() <= 0.1 * deviation
    assert pairs.balance[0]["covariate"] == "loss"
    assert pairs.balance[0]["one_after"] == pytest.approx(float(ours["loss"].mean()))
    assert abs(pairs.balance[0]["difference_after"]) < 0.1 < abs(pairs.balance[0]["difference_before"])
    whole = profile_contrasts({"memorized": one, "control": other}, seed=0, n_dealt=300)
    results, sets = {"memorized": ours, "matched": theirs}, {"memorized": pairs.one, "matched": pairs.other}
    matched = profile_contrasts(results, sets=sets, seed=0, n_dealt=300)
    assert [bool(each["survives"][0]) for each in (whole, matched)] == [True, False]
    assert abs(float(matched["difference"][0])) < 0.02 < -float(whole["difference"][0])


def test_scores_of_a_real_model(model, paragraphs):
    sets = {"memorized": paragraphs, "twin": paragraphs, "control": Paragraphs(paragraphs.tokens.flip(1), n_prefix=12)}
    results = {name: weight_scores(model, rows) for name, rows in sets.items()}
    found = profile_contrasts(results, sets=sets, seed=0, n_dealt=100)
    same = found.sel(row="twin")
    for name in ("difference", "difference_low", "difference_high"):
        assert float(same[name]) == pytest.approx(0, abs=1e-9)
    assert np.isnan(float(same["adjusted"]))  # six paragraphs are too few
    assert float(same["p"]) == 1
    assert float(same["overlap"]) == 1
    assert float(found.sel(row="control")["difference"]) != 0
    assert found.attrs["model_hash"] == results["memorized"].attrs["model_hash"]
    l2 = profile_contrasts(results, pooling="l2_gradient", seed=0, n_dealt=100)
    expected = [float(centre_of_mass(layer_shares(one, pooling="l2_gradient")).mean()) for one in results.values()]
    np.testing.assert_allclose(l2["difference"], [expected[0] - one for one in expected[1:]], atol=1e-9)


def test_clusters_are_those_of_the_paragraphs_given(results):
    tokens = {"memorized": random_tokens(24), "twin": random_tokens(24), "control": random_tokens(21, 1)}
    tokens["control"][1] = tokens["control"][0]
    sets = {name: rows_of(one, tokens[name]) for name, one in results.items()}
    found = profile_contrasts(results, sets=sets, seed=1, n_dealt=50).sel(row="control")
    labels = [clusters(sets[name]).numpy() for name in ("memorized", "control")]
    assert len(np.unique(labels[1])) == 20
    centre = [centre_of_mass(layer_shares(results[name])).values for name in ("memorized", "control")]
    _, low, high = bootstrap_difference(*centre, seed=1, clusters=tuple(labels))
    np.testing.assert_allclose([found["difference_low"], found["difference_high"]], [low, high])


@pytest.mark.parametrize("names", [["memorized"], ["control", "twin"], []])
def test_a_set_and_a_control_are_needed(results, names):
    with pytest.raises(InputError, match="profile_contrasts needs 'memorized' and a control, got"):
        profile_contrasts({name: results[name] for name in names}, seed=0)


def test_deals_layers_and_pooling_are_checked(results):
    with pytest.raises(InputError, match="n_dealt must be at least 1, got 0"):
        profile_contrasts(results, seed=0, n_dealt=0)
    with pytest.raises(InputError, match="pooling must be one of"):
        profile_contrasts(results, seed=0, pooling="sum")
    results["control"] = results["control"].isel(layer=slice(3))
    with pytest.raises(InputError, match="'control' and 'memorized' must be scores of the same layers"):
        profile_contrasts(results, seed=0)


def test_a_loss_is_needed(results):
    results["control"]["loss"][[2, 3]] = np.nan
    with pytest.raises(InputError, match="loss of control is NaN or infinite for paragraph C2, C3; leave these out"):
        profile_contrasts(results, seed=0)
    results["control"] = results["control"].drop_vars("loss")
    with pytest.raises(InputError, match="the scores of control lack `loss`; compute them with weight_scores"):
        profile_contrasts(results, seed=0)


def test_the_sets_must_be_those_of_the_scores(results):
    sets = {name: rows_of(one, random_tokens(one.sizes["paragraph"])) for name, one in results.items()}
    for wrong in (sets | {"control": sets["control"].select(slice(None, None, -1))}, {"memorized": sets["memorized"]}):
        with pytest.raises(
            InputError, match=r"sets must hold the 2[14] paragraphs of '(twin|control)', in their order"
        ):
            profile_contrasts(results, sets=wrong, seed=0)


def test_paired_controls_must_be_the_same_paragraphs(results):
    with pytest.raises(InputError, match="'control' is paired with 'memorized', so both must hold the same paragraphs"):
        profile_contrasts(results, paired=("control",), seed=0)
    results["twin"] = results["twin"].isel(paragraph=slice(None, None, -1))
    with pytest.raises(InputError, match="in the same order; leave it out of `paired` to compare two independent"):
        profile_contrasts(results, seed=0)


def test_paired_controls_must_have_the_same_near_duplicates(results):
    sets = {name: rows_of(one, random_tokens(one.sizes["paragraph"])) for name, one in results.items()}
    sets["twin"] = rows_of(results["twin"], random_tokens(12).repeat_interleave(2, 0))
    with pytest.raises(InputError, match="so their clusters must be equal"):
        profile_contrasts(results, sets=sets, seed=0)


def test_matching_needs_unique_ids_a_loss_and_a_pair(results):
    one, other = results["memorized"], results["control"]
    rows = rows_of(one, random_tokens(24)), rows_of(other, random_tokens(21))
    twice = xr.concat([one, one], "paragraph", data_vars="all")
    with pytest.raises(
        InputError, match=r"of the first set are matched by ids, which must be unique .* got A0, A1, A2"
    ):
        nll_matched(twice, other, *rows)
    with pytest.raises(InputError, match="scores and paragraphs of the second set are matched by ids"):
        nll_matched(one, other.isel(paragraph=slice(5)), *rows)
    with pytest.raises(InputError, match="of the second set are matched by ids"):
        nll_matched(one, other, rows[0], rows[1].select([0, 0]))
    with pytest.raises(InputError, match="the scores of the first set lack `loss`"):
        nll_matched(one.drop_vars("loss"), other, *rows)
    far = other.assign(loss=other["loss"] + 100)
    with pytest.raises(NoEqualLossError, match=r"no pair of equal loss: the nearest are 9\d\.?\d* nats apart, but a"):
        nll_matched(one, far, *rows)
    assert len(nll_matched(one, far, *rows, caliper=None)[2].one) == 21


def test_the_nearest_pair_is_judged_as_in_matching(results):
    one, other = results["memorized"], results["control"]
    rows = rows_of(one, random_tokens(24)), rows_of(other, random_tokens(21, 1))
    losses = one["loss"].values, other["loss"].values + 1.2
    other = other.assign(loss=("paragraph", losses[1]))
    nearest = np.abs(losses[0][:, None] - losses[1]).min() / np.sqrt(np.mean([each.var(ddof=1) for each in losses]))
    _, _, pairs = nll_matched(one, other, *rows, caliper=nearest * 1.001)
    assert len(pairs.one) == 1
    with pytest.raises(NoEqualLossError, match="standard deviations allows"):
        nll_matched(one, other, *rows, caliper=nearest * 0.999)


@pytest.mark.parametrize(("key", "value"), [("objective", "forget_nll"), ("times_weight", 1)])
def test_scores_of_another_kind_are_refused(results, key, value):
    results["control"] = results["control"].assign_attrs({key: value})
    with pytest.raises(InputError, match=f"'control' and 'memorized' must be scores of the same {key}, got .*{value}"):
        profile_contrasts(results, seed=0)


def test_only_paired_controls_may_be_of_another_model(results):
    results["twin"] = results["twin"].assign_attrs(model_hash="4567")
    profile_contrasts(results, seed=0, n_dealt=10)
    with pytest.raises(InputError, match="'twin' and 'memorized' are scores of different models, so a difference"):
        profile_contrasts(results, seed=0, paired=())


def test_paired_names_must_be_there_but_for_the_twin(results):
    with pytest.raises(InputError, match="paired names other, twins, of which there are no scores; got memorized"):
        profile_contrasts(results, seed=0, paired=("twins", "other"))
    del results["twin"]
    profile_contrasts(results, seed=0, n_dealt=10)
