import numpy as np
import pytest
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.each_part import ablate_each, silence_heads
from memhooks.localize.specificity import best_first, specificity
from memhooks.measure.intervals import bootstrap_difference


@pytest.fixture
def results(model, paragraphs):
    one, other = paragraphs.select(slice(0, 4)), paragraphs.select(slice(4, 6))
    return {"memorized": silence_heads(model, one), "control": silence_heads(model, other)}


def test_columns_are_means_and_differences_of_the_sets(results):
    found = specificity(results, seed=3)
    rises = {name: one["nll_rise"] for name, one in results.items()}
    for part in ("L0H0", "L2H3"):
        layer, head = int(part[1]), int(part[3])
        own = {name: one.sel(layer=layer, head=head).values.astype(float) for name, one in rises.items()}
        row = found.sel(row=part)
        assert float(row["memorized"]) == pytest.approx(own["memorized"].mean())
        mean, low, high = bootstrap_difference(own["memorized"], own["control"], seed=3)
        for name, value in (("", mean), ("_low", low), ("_high", high)):
            assert float(row[f"more_than_control{name}"]) == pytest.approx(float(value))


def test_near_duplicates_count_once_where_the_paragraphs_are_given(model, paragraphs):
    twice = paragraphs.select([0, 0, 1, 1, 2, 2, 3, 3])
    sets = {"memorized": twice, "control": paragraphs.select([4, 5])}
    results = {name: silence_heads(model, rows) for name, rows in sets.items()}
    without, known = specificity(results), specificity(results, sets=sets)
    width = [one["memorized_high"] - one["memorized_low"] for one in (without, known)]
    assert float((width[1] > width[0]).mean()) > 0.8
    assert known["more_than_control"].values == pytest.approx(without["more_than_control"].values)


def made_up(rng, n, shift):
    """What `ablate_each` would give for 30 parts, the third of which matters."""
    rise = rng.normal(size=(n, 30))
    rise[:, 2] += shift
    return xr.Dataset(
        {"nll_rise": (("paragraph", "row"), rise, {"units": "nats"})},
        {"paragraph": [str(i) for i in range(n)], "row": [f"part {i}" for i in range(30)]},
        {"model_hash": "", "how": "zero"},
    )


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_p_allows_for_the_best_of_many_parts(shift):
    """Without an effect the smallest p of 30 parts is below 0.05 in one run of twenty, not in nearly all."""
    small = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        p = specificity({"memorized": made_up(rng, 16, shift), "control": made_up(rng, 12, 0)}, seed=seed)
        p = p["p_more_than_control"]
        small += float(p.min()) <= 0.05
        assert not shift or p.values.argmin() == 2
    assert small >= 38 if shift else small <= 6


def test_the_order_is_by_mean_worth(model, paragraphs, results):
    order = best_first(results["memorized"])
    mean = results["memorized"]["nll_rise"].mean("paragraph")
    values = [float(mean.sel(layer=int(name[1]), head=int(name[3]))) for name in order]
    assert values == sorted(values, reverse=True)
    layers = ablate_each(model, paragraphs, mlp_layers=[0, 1, 2, 3])
    assert best_first(layers)[0] == f"MLP {int(layers['nll_rise'].mean('paragraph').values.argmax())}"


def test_an_unknown_effect_and_foreign_paragraphs_are_refused(paragraphs, results):
    with pytest.raises(InputError, match="effect must be one of nll_rise, match_drop, em_drop, got 'kl'"):
        specificity(results, effect="kl")
    for sets in ({"memorized": paragraphs}, {"memorized": paragraphs, "control": paragraphs}):
        with pytest.raises(InputError, match="sets must hold the 4 paragraphs of 'memorized', in their order"):
            specificity(results, sets=sets)


@pytest.mark.parametrize("names", [["memorized"], ["control"], []])
def test_a_set_and_a_control_are_needed(results, names):
    with pytest.raises(InputError, match="specificity needs 'memorized' and a control"):
        specificity({name: results[name] for name in names})


def test_the_parts_must_be_the_same(model, paragraphs, results):
    with pytest.raises(InputError, match="must be results for the same parts"):
        specificity({"memorized": results["memorized"], "control": ablate_each(model, paragraphs, mlp_layers=[0])})
