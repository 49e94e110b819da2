import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.model.labelled import Variable, labelled
from memhooks.truth.forks.verdict import localizer_verdict, parts_verdict


def swaps(removes, brings):
    """Two layers, one head, and both layers at once."""
    columns = {
        "kind": Variable(
            np.array(["layer", "layer", "head", "bottom"]),
            ("row",),
            "kind",
            {"row": ["L0", "L1", "L0H0", "layers 0-1"]},
        ),
        "layer": Variable(np.array([0, 1, 0, -1]), ("row",), "layer"),
    }
    for name, values in (
        ("removes", removes),
        ("brings", brings),
        ("removes_mirror", removes),
        ("brings_mirror", brings),
    ):
        columns |= ends(name, values)
    for name in ("control_rise", "blind", "blind_control_rise"):
        columns |= ends(name, [0.0] * 4)
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
        ([0.2, 0.1, 0.0, 0.9], [0.1, 0.1, 0.0, 0.9], "recitation is spread out"),
        ([0.9, 0.8, 0.0, 1.0], [0.1, 0.1, 0.0, 1.0], "needs several layers"),
    ],
)
def test_one_place_needs_removal_and_gain_alike(removes, brings, words):
    assert words in parts_verdict(swaps(removes, brings))[-1]


def test_localizers_are_called_what_their_intervals_say():
    names = ["blind", "shared", "own"]
    curves = {
        "localizer": Variable(np.array(names), ("row",), "name", {"row": names}),
        "fraction": Variable(np.array([0.01] * 3), ("row",), "fraction"),
    }
    for name, values in (("target", [0.1, 0.5, 0.6]), ("random", [0.1] * 3), ("others", [0.1, 0.5, 0.1])):
        curves |= ends(name, values)
    curves |= ends("beyond_random", [0.0, 0.4, 0.5]) | ends("own", [0.0, 0.0, 0.5])
    ranks = {"cut": Variable(np.array(["matrices"] * 3), ("row",), "cut", {"row": names})}
    ranks |= {"localizer": Variable(np.array(names), ("row",), "name")}
    for name, values in (("spearman", [np.nan, 0.1, 0.9]), ("p", [np.nan, 0.4, 0.001])):
        ranks |= {name: Variable(np.array(values), ("row",), "x")}
    ranks |= {"partial": ranks["spearman"], "p_partial": ranks["p"]}
    made = labelled({}, **curves), labelled({}, **ranks)
    said = localizer_verdict(*made, fraction=0.01)
    assert "no better than random" in said[0]
    assert "names none of the parts" in said[0]
    assert "not this text's own" in said[1]
    assert "does not rank parts" in said[1]
    assert "this text rather than other" in said[2]
    assert "ranks parts as swaps do" in said[2]
    with pytest.raises(InputError, match=r"no swaps at fraction 0\.5, or no agreement over matrices"):
        localizer_verdict(*made, fraction=0.5)


def test_swaps_without_layers_are_refused_and_without_heads_say_nothing_of_heads():
    some = swaps([0.1] * 4, [0.1] * 4)
    assert not any(line.startswith("One head") for line in parts_verdict(some.isel(row=(some["kind"] != "head").values)))
    with pytest.raises(InputError, match="the swaps hold no part of the kind 'layer'"):
        parts_verdict(some.isel(row=(some["kind"] != "layer").values))
