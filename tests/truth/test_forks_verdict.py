import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.model.labelled import Variable, labelled
from memhooks.truth.forks.joint import beyond_sum, largest
from memhooks.truth.forks.verdict import localizer_verdict, parts_verdict

NAMES, KINDS = ["L0", "L1", "L0H0", "layers 0-1"], ["layer", "layer", "head", "bottom"]


def swaps(removes, brings, *, spread=0.02, costs=0.0, n=8):
    """Two layers, one head, and both layers at once; each of n paragraphs a little above or below the mean."""
    shift = spread * np.tile([-1.0, 1.0], n)[:n]
    after = {
        "nll_model": 4 * (np.array(removes)[:, None] + shift),
        "nll_other": 4 * (1 - np.array(brings)[:, None] - shift),
    }
    columns = {
        "kind": Variable(np.array(KINDS), ("row",), "kind", {"row": NAMES}),
        "layer": Variable(np.array([0, 1, 0, -1]), ("row",), "layer"),
        "set": Variable(np.repeat("memorized", n), ("paragraph",), "set"),
        "cluster": Variable(np.arange(n), ("paragraph",), "cluster"),
        "clean_nll_model": Variable(np.zeros(n), ("paragraph",), "nats"),
        "clean_nll_other": Variable(np.full(n, 4.0), ("paragraph",), "nats"),
    }
    columns |= {name: Variable(one, ("row", "paragraph"), "nats") for name, one in after.items()}
    for name, values in (("removes", removes), ("brings", brings)):
        columns |= ends(name, values) | ends(f"{name}_mirror", values)
    for name in ("control_rise", "control_rise_other", "blind", "blind_control_rise"):
        columns |= ends(name, [costs] * 4)
    return labelled({}, **columns)


def ends(name, values, labels=None):
    return {
        f"{name}{end}": Variable(np.asarray(values) + shift, ("row",), "share", labels or {})
        for end, shift in (("", 0.0), ("_low", -0.05), ("_high", 0.05))
    }


@pytest.mark.parametrize(
    ("removes", "brings", "words"),
    [
        ([0.9, 0.1, 0.0, 1.0], [0.8, 0.0, 0.0, 1.0], "mostly kept in L0"),
        # The layer that removes most is not the one that holds it.
        ([0.9, 0.8, 0.0, 1.0], [0.1, 0.7, 0.0, 1.0], "mostly kept in L1"),
        ([0.9, 0.8, 0.0, 1.0], [0.1, 0.2, 0.0, 1.0], "no single layer holds half of it: none brings more than 20.0%"),
        ([0.9, 0.8, 0.0, 1.0], [0.5, 0.2, 0.0, 1.0], "Whether one layer holds half of it is open: L0 brings 50.0%"),
    ],
)
def test_one_place_needs_removal_and_gain_alike(removes, brings, words):
    assert words in parts_verdict(swaps(removes, brings))[-1]


def test_the_layer_that_brings_most_is_named_beside_the_one_that_removes_most():
    said = parts_verdict(swaps([0.9, 0.8, 0.05, 1.0], [0.1, 0.2, 0.0, 1.0]))
    assert "the largest loss is 90.0%" in said[0]
    assert "of the gap (L0; never-read text +0.000 nats" in said[0]
    assert "the largest gain in the other fork 20.0%" in said[0]
    assert "(L1; never-read text" in said[0]
    assert "loss speaks of sensitivity" in said[1]
    assert said[2].startswith("One head for the other fork's: the largest loss is 5.0%")


def test_sums_are_called_additive_or_not_by_their_intervals_alone():
    said = parts_verdict(swaps([0.3, 0.3, 0.0, 0.9], [0.5, 0.5, 0.0, 0.9]))[3]
    assert "single layers are less than additive in what they remove" in said
    assert "more than additive in what they bring" in said
    said = parts_verdict(swaps([0.3, 0.3, 0.0, 0.61], [0.5, 0.4, 0.0, 0.9], spread=0.2))[3]
    assert said.count("not shown to be other than additive") == 2


def test_one_cluster_costs_and_hills_silence_the_verdict():
    held = [0.9, 0.1, 0.0, 1.0], [0.8, 0.0, 0.0, 1.0]
    assert parts_verdict(swaps(*held), interpretable=False) == [
        "Swaps are not interpretable (see the line), so nothing is said about where the text is kept."
    ]
    said = parts_verdict(swaps(*held, costs=0.2))
    assert "L0; costs never-read text, too: +0.200 nats" in said[0]
    assert said[-1].startswith("Most of it goes and comes with L0, but that costs never-read text, too")
    alone = swaps(*held, n=1)
    for name in ("removes", "brings", "control_rise"):
        alone[f"{name}_low"][:] = alone[f"{name}_high"][:] = np.nan
    said = parts_verdict(alone)
    assert said[-1] == "Whether one layer holds it is open: one cluster has no interval."
    assert "its cost is open: one cluster" in said[0]


def test_the_largest_of_many_is_chosen_anew_in_each_draw():
    some = swaps([0.5, 0.5, 0.0, 1.0], [0.2, 0.1, 0.0, 0.9])
    opposite = np.tile([-1.0, 1.0], 4)
    some["nll_model"][0], some["nll_model"][1] = 2 + opposite, 2 - opposite
    found = largest(some, "layer", "removes", seed=0)
    assert found.value == pytest.approx(0.5)
    assert found.low >= 0.5 - 1e-9  # whichever is luckier in a draw
    times = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=2000) / 32
    drawn = np.max([times @ (2 + opposite), times @ (2 - opposite)], axis=0)
    assert drawn.min() <= found.low <= np.median(drawn) <= found.high <= drawn.max()
    sums = beyond_sum(some, "brings", whole="layers 0-1", seed=0)
    assert sums.value == pytest.approx(0.9 - 0.3)
    assert sums.low <= sums.value <= sums.high


def judged(beyond, own):
    """Three localizers by the middle of their intervals."""
    names = ["one", "two", "three"]
    curves = {
        "localizer": Variable(np.array(names), ("row",), "name", {"row": names}),
        "fraction": Variable(np.array([0.01] * 3), ("row",), "fraction"),
    }
    for name, values in (("target", [0.1, 0.5, 0.6]), ("random", [0.1] * 3), ("others", [0.1, 0.5, 0.1])):
        curves |= ends(name, values)
    curves |= ends("beyond_random", beyond) | ends("own", own) | ends("control_rise", [0.0, 0.0, 0.2])
    ranks = {"cut": Variable(np.array(["matrices"] * 3), ("row",), "cut", {"row": names})}
    ranks |= {"localizer": Variable(np.array(names), ("row",), "name")}
    for name, values in (
        ("spearman", [np.nan, 0.1, 0.9]),
        ("p", [np.nan, 0.4, 0.001]),
        ("spearman_brings", [np.nan, 0.8, 0.2]),
        ("p_brings", [np.nan, 0.001, 0.4]),
    ):
        ranks |= {name: Variable(np.array(values), ("row",), "x")}
    for end in ("", "_brings"):
        ranks |= {f"partial{end}": ranks[f"spearman{end}"], f"p_partial{end}": ranks[f"p{end}"]}
    return labelled({}, **curves), labelled({}, **ranks)


def test_localizers_are_called_what_their_intervals_say():
    made = judged([0.0, 0.4, 0.5], [0.0, 0.0, 0.5])
    said = localizer_verdict(*made, fraction=0.01)
    assert "not shown to be better than random" in said[0]
    assert "names none of the parts" in said[0]
    assert "not shown to be this text's own" in said[1]
    assert "not shown to rank parts as losses do at equal size (Spearman +0.10" in said[1]
    assert "ranks parts as gains do (Spearman +0.80" in said[1]
    assert "needs more than other recited text does" in said[2]
    assert "; ranks parts as losses do" in said[2]
    assert "costs never-read text, too: +0.200 nats" in said[2]
    assert "costs" not in said[1]
    said = localizer_verdict(*judged([np.nan, -0.3, 0.5], [0.0, 0.0, -0.5]), fraction=0.01)
    assert "open: one cluster" in said[0]
    assert "worse than random weights" in said[1]
    assert "that other recited text needs even more" in said[2]
    assert len(localizer_verdict(*made, fraction=0.01, interpretable=False)) == 1
    with pytest.raises(InputError, match=r"no swaps at fraction 0\.5, or no agreement over matrices"):
        localizer_verdict(*made, fraction=0.5)


def test_swaps_without_layers_are_refused_and_without_heads_say_nothing_of_heads():
    some = swaps([0.1] * 4, [0.1] * 4)
    assert not any(
        line.startswith("One head") for line in parts_verdict(some.isel(row=(some["kind"] != "head").values))
    )
    with pytest.raises(InputError, match="swaps of every layer and of 'layers 0-0' are needed"):
        parts_verdict(some.isel(row=(some["kind"] != "layer").values))
    with pytest.raises(InputError, match="the swaps hold no part of the kind 'mlp'"):
        largest(some, "mlp", "brings", seed=0)
