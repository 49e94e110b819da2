import inspect

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation
from memhooks.model.hooks import hooked, recorded
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.activations_by_layer import means_and_spreads
from memhooks.truth.held_units import check_n_units, hold_units

NAMES = {"resid_post": "blocks.{}.hook_resid_post", "post": "blocks.{}.mlp.hook_post"}
UNITS = [(1, 3), (2, 7)]


def rises_by_hand(model, rows, reference, units, site):
    """NLL rise of each row where units are held at their mean over the reference."""
    where = {layer: [unit for _, unit in units] for layer in range(4)}
    if site == "post":
        where = {layer: [unit] for layer, unit in units}
    names = {layer: NAMES[site].format(layer) for layer in where}
    with recorded(model, list(names.values())) as store:
        model(reference)
    mean = {layer: store[name].mean((0, 1)) for layer, name in names.items()}

    def hold(activation, hook):
        for unit in where[hook.layer()]:
            activation[:, :, unit] = mean[hook.layer()][unit]
        return activation

    clean = recitation(model, rows)
    with hooked(model, [(name, hold) for name in names.values()]):
        after = recitation(model, rows)
    return (after["nll"] - clean["nll"]).values.mean(1)


@pytest.mark.parametrize("site", ["resid_post", "post"])
def test_holding_units_is_what_hooks_by_hand_do_at_either_mean(model, paragraphs, site):
    other = Paragraphs(torch.randint(101, (4, 24), generator=torch.Generator().manual_seed(5)), n_prefix=12)
    found = hold_units(model, {"memorized": paragraphs, "control": other}, UNITS, site=site, seed=0, n_random=2)
    held, contrast = found["held"].to_dataframe(), found["contrast"].to_dataframe()
    at_control = rises_by_hand(model, paragraphs, other.tokens, UNITS, site).mean()
    assert held["nll_rise"]["memorized at control"] == pytest.approx(at_control, abs=1e-5)
    # At its own mean, each half is held at the mean of the other.
    order = np.random.default_rng(0).permutation(6)
    first, second = np.sort(order[:3]), np.sort(order[3:])
    own = np.zeros(6)
    for half, rest in ((first, second), (second, first)):
        own[half] = rises_by_hand(model, paragraphs.select(half), paragraphs.tokens[rest], UNITS, site)
    assert held["nll_rise"]["memorized at memorized"] == pytest.approx(own.mean(), abs=1e-5)
    expected = {
        "own": ("memorized at memorized", "control at control"),
        "memorized": ("memorized at memorized", "control at memorized"),
        "control": ("memorized at control", "control at control"),
    }
    assert contrast.index.tolist() == list(expected)
    for name, (one, two) in expected.items():
        assert contrast["nll_rise"][name] == pytest.approx(held["nll_rise"][one] - held["nll_rise"][two], abs=1e-9)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_the_matched_units_are_those_of_the_nearest_spread(model, paragraphs):
    found = hold_units(model, {"memorized": paragraphs}, UNITS, site="post", seed=0, n_random=2)
    _, spreads = means_and_spreads(model, paragraphs, "post")
    for layer, unit in UNITS:
        away = (spreads[layer] - spreads[layer][unit]).abs()
        away[[3, 7]] = np.inf
        assert f"[{layer}, {int(away.argmin())}]" in found["held"].attrs["matched"]
    assert "contrast" not in found  # one set has nothing to be held against


def test_an_interval_against_random_units_says_how_much_draws_differ(model, paragraphs):
    wide = hold_units(model, {"memorized": paragraphs}, UNITS, site="post", seed=0, n_random=2)["held"].isel(row=0)
    more = float(wide["nll_rise"] - wide["nll_rise_random"])
    assert float(wide["more_than_random"]) == pytest.approx(more)
    # Two draws have Student's t with one degree of freedom, 12.7: next to nothing is certain.
    assert float(wide["more_than_random_high"] - more) > float(
        wide["more_than_matched_high"] - wide["more_than_matched"]
    )


def test_unusable_input_is_refused(model, paragraphs):
    sets = {"memorized": paragraphs}
    with pytest.raises(InputError, match="site must be one of"):
        inspect.unwrap(hold_units)(model, sets, [(0, 1)], site="z", seed=0)
    with pytest.raises(InputError, match=r"units are \(layer, unit\) pairs in 0..3 and 0..31, got \[\(4, 0\)\]"):
        hold_units(model, sets, [(4, 0)], site="resid_post", seed=0)
    with pytest.raises(InputError, match="n_random must be at least 2, as draws differ, got 1"):
        hold_units(model, sets, [(0, 0)], site="resid_post", seed=0, n_random=1)
    many = [(0, unit) for unit in range(20)]
    with pytest.raises(InputError, match=r"20 of 32 units \(resid_post\) leave too few for a random control"):
        hold_units(model, sets, many, site="resid_post", seed=0)
    with pytest.raises(InputError, match="give 1 to 16"):
        check_n_units(model, 17, "resid_post")
    with pytest.raises(InputError, match="memorized: its paragraphs are one cluster of near-duplicates"):
        hold_units(model, {"memorized": paragraphs.select([0])}, [(0, 0)], site="resid_post", seed=0)
