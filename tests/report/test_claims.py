import numpy as np
import pytest
import xarray as xr

from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.report.claims import claims
from memhooks.report.estimates import Estimate, Values, difference, mean, share, values_of

GRADIENTS, ATTENTION, PREFIX, HARDER, ENOUGH = range(5)


def contrasts(control, pooling, ends, *, memorized="memorized", matched=False, n=20, p=0.0005):
    columns = dict(zip(("difference", "difference_low", "difference_high"), ends, strict=True))
    columns |= {"p": p, "n_memorized": n, "n_control": n, "adjusted": np.nan}
    attrs = {"memorized": memorized, "pooling": pooling} | ({"matched": 1} if matched else {})
    return xr.Dataset({key: ("row", [value]) for key, value in columns.items()}, {"row": [control]}, attrs)


def gradients(*tables):
    return {"gradient_contrasts": {str(number): one for number, one in enumerate(tables)}}


LOWER, HIGHER = (-0.5, -0.6, -0.4), (0.5, 0.4, 0.6)


@pytest.mark.parametrize(
    ("tables", "verdict", "word"),
    [
        ([contrasts("twin", "max_gradient", LOWER)], "undecided", "no control of equal loss"),
        (
            [contrasts("twin", "max_gradient", LOWER), contrasts("twin", "max_gradient", LOWER, matched=True)],
            "holds",
            "by every pooling",
        ),
        (
            [contrasts("twin", "max_gradient", LOWER), contrasts("twin", "l2_gradient", HIGHER)],
            "undecided",
            "sign depends on how gradients are pooled",
        ),
        ([contrasts("twin", "max_gradient", HIGHER)], "does not hold", "Nowhere lower"),
        # What is memorized as well is no control, and pairs too few to compare are none.
        ([contrasts("natural", "max_gradient", LOWER)], "not run", "not run"),
        ([contrasts("twin", "max_gradient", LOWER, matched=True, n=3)], "not run", "not run"),
    ],
)
def test_gradients_lie_lower_only_by_every_pooling_and_at_equal_loss(tables, verdict, word):
    claim = claims(gradients(*tables))[GRADIENTS]
    assert claim.verdict == verdict
    assert word in claim.why


def looking(rng, memorized, control, *, head=(0, 1), n=40):
    found = {}
    for name, level in (("memorized", memorized), ("control", control), ("twin", control)):
        values = rng.normal(0, 0.05, (n, 1, 4, 2))
        values[:, 0, head[0], head[1]] += level
        found[name] = xr.Dataset({"spearman": (("paragraph", "query", "layer", "head"), values)})
    return {"attention": found}


@pytest.mark.parametrize(
    ("levels", "head", "verdict", "word"),
    [
        ((-0.6, -0.6), (0, 1), "does not hold", "L0H1 looks at rare tokens, and does so just as well for"),
        ((-0.6, -0.1), (0, 1), "undecided", "its ablation has not confirmed it"),
        ((-0.6, -0.6), (3, 1), "does not hold", "L3H1, is in the upper half"),
    ],
)
def test_a_head_is_judged_beside_never_seen_text_and_the_twin(levels, head, verdict, word):
    claim = claims(looking(np.random.default_rng(0), *levels, head=head))[ATTENTION]
    assert claim.verdict == verdict
    assert word in claim.why
    assert claim.estimates[0].n == "20"  # the other half chose the head


def test_a_head_confirmed_by_ablation_holds():
    results = looking(np.random.default_rng(0), -0.6, -0.1)
    columns = {"is_confirmed": ("row", [True]), "is_rare_token_head": ("row", [True])}
    results["attention_heads"] = {"memorized": xr.Dataset(columns, {"row": ["L0H1"]})}
    assert claims(results)[ATTENTION].verdict == "holds"


def perturbed(rng, spread, em, nll, *, n=20):
    """The drop sits in the first `spread` of 40 positions."""
    rise = np.zeros((n, 1, 40))
    rise[:, :, :spread] = 1 + rng.normal(0, 0.01, (n, 1, spread))
    drop = np.full((n, 1, 40), em) + rng.normal(0, 0.1, (n, 1, 40))
    loss = nll + rng.uniform(0, 0.02, n)
    axes = ("paragraph", "draw", "pos")
    return xr.Dataset({"nll_rise": (axes, rise), "em_drop": (axes, drop), "nll": ("paragraph", loss)})


def statistics(low, high):
    columns = {"estimate": (low + high) / 2, "low": low, "high": high, "p": 0.001}
    return xr.Dataset(
        {key: ("row", [value]) for key, value in columns.items()}, {"row": ["the same, position partialled out"]}
    )


def prefixes(rarity, *, spread=(2, 8), nll=(0.01, 1.0), em=(2.0, 30.0)):
    rng = np.random.default_rng(0)
    effects = {"memorized": perturbed(rng, spread[0], em[0], nll[0])}
    effects |= {name: perturbed(rng, spread[1], em[1], nll[1]) for name in ("control_own", "twin", "control")}
    tables = {"memorized": statistics(*rarity)} | dict.fromkeys(
        ("control_own", "twin", "control"), statistics(-0.1, 0.1)
    )
    return {"perturbation": effects, "drop_statistics": tables}


@pytest.mark.parametrize(
    ("rarity", "spread", "verdict", "word"),
    [
        ((-0.6, -0.4), (2, 8), "holds", "fewer than in every control"),
        ((-0.15, -0.02), (2, 8), "does not hold", "hardly the rare ones"),
        ((-0.6, -0.4), (2, 2), "undecided", "so few, or nearly, also in"),
        ((-0.6, -0.4), (40, 8), "does not hold", "The drop is spread"),
    ],
)
def test_few_and_distinctive_are_both_needed_and_beyond_the_controls(rarity, spread, verdict, word):
    claim = claims(prefixes(rarity, spread=spread))[PREFIX]
    assert claim.verdict == verdict
    assert word in claim.why


@pytest.mark.parametrize(
    ("nll", "em", "verdict", "word"),
    [
        ((0.01, 1.0), (2.0, 30.0), "undecided", "no losses are common"),
        ((0.01, 0.01), (2.0, 30.0), "undecided", "at equal loss too"),
        ((0.01, 0.01), (30.0, 2.0), "does not hold", "costs memorized text more"),
    ],
)
def test_harder_to_corrupt_never_holds_alone_as_unlearning_has_no_control(nll, em, verdict, word):
    claim = claims(prefixes((-0.6, -0.4), nll=nll, em=em))[HARDER]
    assert claim.verdict == verdict
    assert word in claim.why


def unlearned(reached, kept):
    rows = []
    for number, done in enumerate(reached):
        for mask in ("untouched", "top 0.1 %", "random 0.1 %"):
            moved = mask != "untouched"
            rows.append((mask, f"A{number}", "target", done and moved, 1.0 if done and moved else 50.0))
            rows.append((mask, f"A{number}", "other memorized", done and moved, kept if moved else 50.0))
    columns = dict(
        zip(("mask", "target", "set", "reached", "exact_match"), map(list, zip(*rows, strict=True)), strict=True)
    )
    return {"unlearning": {"all": xr.Dataset({name: ("row", own) for name, own in columns.items()})}}


@pytest.mark.parametrize(
    ("reached", "kept", "verdict"),
    [
        ([True] * 4, 49.0, "holds"),
        ([True, True, False, True], 49.0, "undecided"),
        ([False] * 4, 50.0, "does not hold"),
        ([True] * 4, 20.0, "does not hold"),
    ],
)
def test_few_weights_are_enough_if_all_is_forgotten_and_the_rest_stays(reached, kept, verdict):
    claim = claims(unlearned(reached, kept))[ENOUGH]
    assert claim.verdict == verdict
    assert f"{sum(reached)} of 4 forgotten" in claim.why
    assert f"random 0.1 % {sum(reached)} of 4" in claim.why


def test_claims_whose_stages_were_not_run_say_so():
    found = claims({})
    assert [one.verdict for one in found] == ["not run"] * 5
    assert {(one.sign, one.kind) for one in found} == {("–", "absent")}  # noqa: RUF001 - a dash is meant


def test_missing_conditions_never_hold_and_never_fail():
    results = prefixes((-0.6, -0.4)) | looking(np.random.default_rng(0), -0.6, -0.6)
    for stage in results:
        results[stage] = {"memorized": results[stage]["memorized"]}
    assert all(one.verdict in ("undecided", "not run") for one in claims(results))


def test_estimates_equal_the_bootstrap_and_count_near_duplicates_once():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=8), rng.normal(size=6)
    label = np.array([0, 0, 0, 0, 1, 2, 3, 4])
    found = mean("", Values(one, label), ("", ""))
    assert (found.mean, found.low, found.high) == pytest.approx(
        tuple(map(float, bootstrap_mean(one, seed=0, clusters=label)))
    )
    found = difference("", Values(one, label), Values(other, np.arange(6)), ("", ""))
    expected = bootstrap_difference(one, other, seed=0, clusters=(label, np.arange(6)))
    assert (found.mean, found.low, found.high) == pytest.approx(tuple(map(float, expected)))
    assert share("", np.ones(4, bool), "").low == pytest.approx(4 / (4 + 1.959964**2))


def test_clusters_come_from_the_tokens_that_the_run_kept():
    tokens = np.random.default_rng(0).integers(0, 99, (4, 30))
    tokens[2] = tokens[0]
    kept = xr.Dataset({"tokens": (("paragraph", "pos"), tokens)}, {"paragraph": list("abcd")}, {"n_prefix": 10})
    of = xr.Dataset(coords={"paragraph": ["c", "b", "a"]})
    assert values_of({"viewed": {"memorized": kept}}, of, np.arange(3.0)).label.tolist() == [0, 1, 0]
    assert values_of({}, of, np.arange(3.0)).label.tolist() == [0, 1, 2]


def test_numbers_have_the_digits_their_interval_leaves():
    assert Estimate("", "", -0.6, -0.834, -0.339, "", "", "difference").words() == "-0.60 [-0.83, -0.34]"
    assert Estimate("", "", 31.04, 26.8, 34.9, "", "", "effect").words() == "31.0 [26.8, 34.9]"
    assert Estimate("", "", 1.0, np.nan, np.nan, "", "", "effect").words(1) == "1.0 no interval"
