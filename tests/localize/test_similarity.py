from dataclasses import replace

import numpy as np
import pytest

from memhooks.errors import InputError
from memhooks.localize.activation_gradients import directions
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.similarity import _halves, paired_similarity, set_similarity, weight_similarity
from memhooks.model.components import components, head_view


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("backward", [True, False])
def test_pairs_equal_a_loop(model, paragraphs, backward):
    one, other = (
        directions(model, paragraphs.select(rows), sites=["v", "z"], at=[2, 11], backward=backward)
        for rows in ([0, 1, 2], [3, 4, 5])
    )
    found = paired_similarity(one, other)
    for place in ((0, 0, 1, 3, 0), (2, 1, 3, 0, 1), (1, 0, 2, 2, 1)):
        a, b = (vectors["vector"].values[place].astype(float) for vectors in (one, other))
        assert float(found["cosine"].values[place]) == pytest.approx(cosine(a, b), abs=1e-9)
        slow = 2 * np.linalg.norm(a - b) / (np.linalg.norm(a) + np.linalg.norm(b))
        assert float(found["difference"].values[place]) == pytest.approx(slow, abs=1e-9)


def test_sets_equal_a_loop_over_all_pairs(model, paragraphs):
    one = directions(model, paragraphs.select([0, 1]), sites=["resid_mid"], at=[11])
    other = directions(model, paragraphs.select([2, 3, 4]), sites=["resid_mid"], at=[11])
    found = set_similarity(one, other).isel(site=0, pos=0)
    for layer in range(4):
        a, b = (vectors["vector"].values[:, 0, layer, 0].astype(float) for vectors in (one, other))
        slow = {
            "between": np.mean([cosine(x, y) for x in a for y in b]),
            "within_one": cosine(a[0], a[1]),
            "within_other": np.mean([cosine(b[i], b[j]) for i in range(3) for j in range(3) if i != j]),
        }
        for name, value in slow.items():
            assert float(found[name][layer]) == pytest.approx(value, abs=1e-9), name


def test_equal_runs_have_cosine_one_and_zero_vectors_none(model, paragraphs):
    same = directions(model, paragraphs, sites=["q"], at=[5, 23])
    found = paired_similarity(same, same)
    assert found["cosine"].sel(pos=5)[:, :, :3].values == pytest.approx(
        1.0
    )  # the last layer only asks where it is scored
    assert float(found["difference"].sel(pos=5).max()) == 0
    assert np.isnan(found["cosine"].sel(pos=23)).all()  # after the last scored token nothing has a gradient
    assert np.isnan(set_similarity(same, same)["within_one"].sel(pos=23)).all()


def test_weights_equal_a_loop_over_components(model, paragraphs):
    one, other = paragraphs.select([0, 1, 2]), paragraphs.select([3, 4, 5])
    found = weight_similarity(model, one, other, seed=4)
    halves = [weight_gradients(model, rows.select(half)) for rows in (one, other) for half in _halves(rows, 4)]
    for cell in components(model):
        views = [head_view(half[cell.parameter_name], cell).flatten().double().numpy() for half in halves]
        own = found.sel(layer=cell.layer, component=cell.label)
        assert float(own["within_one"]) == pytest.approx(cosine(views[0], views[1]), abs=1e-5)
        assert float(own["within_other"]) == pytest.approx(cosine(views[2], views[3]), abs=1e-5)
        between = np.mean([cosine(views[i], views[j]) for i in (0, 1) for j in (2, 3)])
        assert float(own["between"]) == pytest.approx(between, abs=1e-5)


def twice(paragraphs):
    return replace(paragraphs.select([0, 0, 1, 1, 2]), ids=tuple("abcde"))


def test_halves_keep_near_duplicates_together(paragraphs):
    one, other = _halves(twice(paragraphs), 0)
    assert (one ^ other).all()
    assert one[0] == one[1]
    assert one[2] == one[3]
    assert 0 < one.sum() < 5


def test_pairs_of_near_duplicates_are_left_out_of_the_null(model, paragraphs):
    some = twice(paragraphs)
    one = directions(model, some, sites=["resid_mid"], at=[11])
    found = set_similarity(one, one, sets=(some, some))["within_one"].isel(site=0, pos=0)
    for layer in range(4):
        units = one["vector"].values[:, 0, layer, 0].astype(float)
        apart = [cosine(units[i], units[j]) for i in range(5) for j in range(5) if "00112"[i] != "00112"[j]]
        assert float(found[layer]) == pytest.approx(np.mean(apart), abs=1e-9)


def test_what_cannot_be_compared_is_refused(model, paragraphs):
    one = directions(model, paragraphs.select([0, 1]), sites=["q"], at=[5])
    with pytest.raises(InputError, match="both must be of the same sites and positions"):
        paired_similarity(one, directions(model, paragraphs.select([0, 1]), sites=["k"], at=[5]))
    with pytest.raises(InputError, match="as many paragraphs on both sides, got 2 and 1"):
        paired_similarity(one, one.isel(paragraph=[0]))
    with pytest.raises(InputError, match=r"at least two paragraphs that are not near-duplicates, .* got 1 in 1"):
        weight_similarity(model, paragraphs, paragraphs.select([0]))
