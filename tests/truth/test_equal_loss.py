import inspect

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_scores
from memhooks.localize.profile import centre_of_mass, layer_shares
from memhooks.measure.perturbation import perturb
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.equal_loss import MEASURES, _rank_correlations, against_twin, equal_loss
from memhooks.truth.equal_loss_pairs import EqualLossPairs, equal_loss_pairs
from memhooks.unlearn.breaking import steps_to_break


def drawn(n, seed, name):
    tokens = torch.randint(101, (n, 24), generator=torch.Generator().manual_seed(seed))
    return Paragraphs(tokens, n_prefix=12, ids=tuple(f"{name}{i}" for i in range(n)))


@pytest.fixture
def pairs(model):
    return equal_loss_pairs(model, drawn(8, 1, "r"), drawn(40, 2, "u"), caliper=1.0, n=4)


def test_pairs_are_what_the_model_says_at_equal_loss(model):
    read, unread = drawn(12, 1, "r"), drawn(60, 2, "u")
    pairs = equal_loss_pairs(model, read, unread, caliper=0.2, n=5)
    all_losses = [
        recitation(model, with_own_continuation(model, rows))["nll"].mean("pos").values for rows in (read, unread)
    ]
    limit = 0.2 * np.sqrt(np.mean([one.var(ddof=1) for one in all_losses]))
    assert 3 <= len(pairs.read) == len(pairs.unread) <= 5
    for side, loss, source in ((pairs.read, pairs.loss[:, 0], read), (pairs.unread, pairs.loss[:, 1], unread)):
        assert torch.equal(side.continuation, with_own_continuation(model, side).continuation)
        assert set(side.ids) <= set(source.ids)
        np.testing.assert_allclose(loss, recitation(model, side)["nll"].mean("pos").values, rtol=1e-5)
    assert np.abs(pairs.loss[:, 0] - pairs.loss[:, 1]).max() <= limit * (1 + 1e-6)
    for row, name in enumerate(pairs.read.ids):
        true = read.continuation[read.ids.index(name)]
        assert pairs.remembered[row] == float((true == pairs.read.continuation[row]).double().mean())


def test_what_is_remembered_is_counted(model):
    """A read set that holds the model's own words is remembered in full."""
    read = with_own_continuation(model, drawn(8, 1, "r"))
    assert equal_loss_pairs(model, read, drawn(40, 2, "u"), caliper=1.0).remembered.tolist() == pytest.approx(
        [1.0] * len(equal_loss_pairs(model, read, drawn(40, 2, "u"), caliper=1.0).read)
    )


def test_table_equals_plain_means(model, pairs):
    before = model_hash(model)
    table = equal_loss(model, pairs, n_steps=3, lr=1e-3)
    assert model_hash(model) == before
    broken = steps_to_break(model, {"read": pairs.read}, weights=0.001, lr=1e-3, n_steps=3, seed=0)
    effect = perturb(model, pairs.read, seed=0)
    expected = {
        "EM lost per replaced token": float(effect["em_drop"].mean()),
        "NLL rise per replaced token": float(effect["nll_rise"].mean()),
        "updates until EM has halved": float(np.nan_to_num(broken["steps_half"].values, nan=3).mean()),
        "updates until NLL is 1 nat higher": float(np.nan_to_num(broken["steps_nat"].values, nan=3).mean()),
        "centre of |gradient|, largest": float(centre_of_mass(layer_shares(weight_scores(model, pairs.read))).mean()),
    }
    for name, value in expected.items():
        assert float(table["read"].sel(row=name)) == pytest.approx(value, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(table["difference"], table["read"] - table["unread"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(table["difference"], table["differences"].mean("paragraph"), rtol=1e-9, atol=1e-12)
    assert not against_twin(table, table)["more"].values.any()
    assert table["row"].values.tolist() == list(MEASURES)


def test_no_difference_between_a_set_and_itself(model, pairs):
    same = EqualLossPairs(pairs.read, pairs.read, np.repeat(pairs.loss[:, :1], 2, axis=1), pairs.remembered)
    table = equal_loss(model, same, n_steps=1)
    assert not table["difference"].values.any()
    assert not table["effect"].values.any()
    assert (table["p"] == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"caliper": 1e-9}, "no pair of equal loss"),
        ({"unread": "read"}, "share"),
    ],
)
def test_refused(model, arguments, message):
    read, unread = drawn(6, 1, "r"), drawn(20, 2, "u")
    arguments = dict(arguments)
    if arguments.pop("unread", None):
        unread = read
    with pytest.raises(InputError, match=message):
        inspect.unwrap(equal_loss_pairs)(model, read, unread, **arguments)


def test_too_few_pairs_are_refused(model):
    with pytest.raises(InputError, match="only 2 pairs of equal loss"):
        equal_loss_pairs(model, drawn(2, 1, "r"), drawn(20, 2, "u"), caliper=5.0)


def test_near_duplicates_are_no_evidence_of_a_correlation():
    """Ten clusters of four: no association, and the interval says so in all but a few of twelve draws."""
    generator, cluster, wrong = np.random.default_rng(0), np.repeat(np.arange(10), 4), 0
    for seed in range(12):
        remembered, difference = (np.repeat(generator.normal(size=10), 4) for _ in range(2))
        _, low, high = _rank_correlations(difference[:, None], remembered, cluster, seed)
        wrong += int(low[0] > 0 or high[0] < 0)
    assert wrong <= 3
