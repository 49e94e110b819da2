import copy
import inspect

import numpy as np
import pytest
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.top import top_weights
from memhooks.localize.objectives import continuation_logits, continuation_nll
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.components import component_parameters
from memhooks.model.loading import load_model
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.attacks import relearning
from memhooks.unlearn.attacks.attack import ATTACKS, NOISE, PRUNED, attack
from memhooks.unlearn.attacks.damage import pruned
from memhooks.unlearn.attacks.relearning import attack_texts, relearn
from memhooks.unlearn.attacks.rounding import rounded
from memhooks.unlearn.attacks.speed import relearn_ratio, relearning_speed
from memhooks.unlearn.recipe import Recipe
from memhooks.unlearn.unlearning import unlearning_delta
from tests.conftest import tiny_neo


def dense(model, train, tests, *, lr, n_steps):
    """The same by autograd and torch's Adam on a copy, all rows in each step."""
    copied = copy.deepcopy(model)
    weights = component_parameters(copied)
    optimizer = torch.optim.Adam(weights.values(), lr=lr)
    found = []
    for step in range(n_steps + 1):
        found.append([recitation(copied, rows) for rows in tests])
        if step < n_steps:
            optimizer.zero_grad()
            continuation_nll(continuation_logits(copied, train), train).mean().backward()
            optimizer.step()
    return found


@pytest.mark.parametrize("on", ["part", "prefixes", "unrelated"])
def test_relearning_equals_dense_adam_measured_by_recitation(model, paragraphs, on):
    forget, unrelated = paragraphs.select([0, 1, 2]), paragraphs.select([3, 4])
    before = model_hash(model)
    result = relearn(model, forget, on=on, unrelated=unrelated, old_em=12.0, lr=1e-3, n_steps=4, seed=1)
    assert model_hash(model) == before
    assert all(weight.grad is None for weight in model.parameters())
    texts = attack_texts(forget, on=on, unrelated=unrelated, seed=1)
    expected = dense(model, texts.train, list(texts.tested.values()), lr=1e-3, n_steps=4)
    for step, each in enumerate(expected):
        now = result.sel(step=step)
        for name in ("exact_match", "longest_run"):
            np.testing.assert_array_equal(now[name], np.concatenate([one[name] for one in each]))
        nll = np.concatenate([one["nll"].mean("pos") for one in each])
        np.testing.assert_allclose(now["nll"], nll, rtol=1e-4, atol=1e-5)
    assert result["half"].values.tolist() == [6.0] * 3


def test_what_the_attacker_has_and_what_is_tested(paragraphs):
    forget, unrelated = paragraphs.select([0, 1, 2, 3]), paragraphs.select([4])
    part = attack_texts(forget, on="part", unrelated=None, seed=0)
    assert part.train == part.tested["trained"]
    assert sorted(part.train.ids + part.tested["held out"].ids) == ["0", "1", "2", "3"]
    prefixes = attack_texts(forget, on="prefixes", unrelated=None, seed=0)
    assert torch.equal(prefixes.train.tokens, forget.prefix)
    assert prefixes.train.n_prefix == 1
    assert prefixes.tested == {"all": forget}
    other = attack_texts(forget, on="unrelated", unrelated=unrelated, seed=0)
    assert torch.equal(other.train.tokens, unrelated.tokens)
    assert other.train.n_prefix == 1


def test_of_one_paragraph_or_of_near_duplicates_the_first_half_of_the_continuation_is_trained(paragraphs):
    one = paragraphs.select([0])
    train, tested = attack_texts(one, on="part", unrelated=None, seed=0)
    assert train.tokens.shape == (1, 18)  # 12 of the prefix, 6 of 12
    assert torch.equal(tested["trained"].continuation, one.continuation[:, :6])
    assert torch.equal(tested["held out"].prefix, one.tokens[:, :18])
    assert torch.equal(tested["held out"].continuation, one.continuation[:, 6:])
    assert tested["held out"].ids == ("0 second half",)
    twice = Paragraphs(one.tokens.repeat(2, 1), 12)
    assert attack_texts(twice, on="part", unrelated=None, seed=0).train.tokens.shape == (2, 18)


def test_the_threshold_of_half_a_continuation_is_half_as_high(model, paragraphs):
    result = relearn(model, paragraphs.select([0]), old_em=10.0, n_steps=1)
    assert result["half"].values.tolist() == [2.5, 2.5]


def test_weights_and_flags_are_back_after_an_error(model, paragraphs, monkeypatch):
    before, calls = model_hash(model), []

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise RuntimeError("while measuring")
        return {name: np.zeros(3) for name in relearning.UNITS}

    monkeypatch.setattr(relearning, "measured", fails)
    with pytest.raises(RuntimeError, match="while measuring"):
        relearn(model, paragraphs.select([0, 1, 2]), on="prefixes", old_em=12.0, lr=1e-2, n_steps=5)
    assert model_hash(model) == before
    assert all(weight.grad is None for weight in model.parameters())


def test_more_paragraphs_than_a_batch_take_turns_in_the_seeds_order(model, paragraphs, monkeypatch):
    seen = []
    original = relearning.weight_gradients
    monkeypatch.setattr(
        relearning, "weight_gradients", lambda model, rows: (seen.append(rows), original(model, rows))[1]
    )
    forget = paragraphs.select([0])
    relearn(model, forget, on="unrelated", unrelated=paragraphs.select([1, 2, 3, 4, 5]), old_em=12.0, n_steps=4, seed=2)
    assert [len(rows) for rows in seen] == [4, 1, 4, 1]
    assert sorted(seen[0].ids + seen[1].ids) == ["1", "2", "3", "4", "5"]


def run_of(em, half=5.0, **about):
    em = np.asarray(em, float)
    n = len(em)
    made = xr.Dataset(
        {
            "exact_match": (("paragraph", "step"), em),
            "tested": ("paragraph", np.array(["all"] * n)),
            "cluster": ("paragraph", np.arange(n)),
            "half": ("paragraph", np.full(n, half)),
        },
        {"paragraph": [str(i) for i in range(n)], "step": range(em.shape[1])},
    )
    settings = {"on": "part", "train_hash": "x", "old_em": 10.0, "lr": 1e-3, "batch": 4, "seed": 0} | about
    return made.assign_attrs(settings)


def test_steps_and_area_are_those_of_the_mean_curve():
    result = run_of([[0, 2, 4, 8, 10], [0, 0, 4, 6, 10]])
    speed = relearning_speed(result, "all")
    assert speed.steps[0] == 3  # means: 0, 1, 4, 7, 10
    assert speed.area[0] == pytest.approx(np.mean([0.5, 2.5, 5.5, 8.5]))
    assert speed.steps[1] <= 3 <= speed.steps[2]


def test_what_never_comes_back_is_said_to_be_so():
    never, soon, later = run_of([[0, 1, 2]] * 2), run_of([[0, 6, 9]] * 2), run_of([[0, 4, 9]] * 2)
    assert relearning_speed(never, "all").steps == (np.inf, np.inf, np.inf)
    assert relearn_ratio(soon, later, "all") == ((0.5, 0.5, 0.5), "exact")
    assert relearn_ratio(never, soon, "all") == ((2.0, 2.0, 2.0), "at least")
    assert relearn_ratio(soon, never, "all") == ((0.5, 0.5, 0.5), "at most")
    assert relearn_ratio(never, never, "all").bound == "unknown"
    assert np.isnan(relearn_ratio(never, never, "all").ends[0])
    assert relearn_ratio(run_of([[5, 6, 9]] * 2), soon, "all").ends[0] == 0


def test_one_cluster_has_no_interval():
    ends = relearning_speed(run_of([[0, 6, 9]]), "all").steps
    assert ends[0] == 1
    assert np.isnan(ends[1:]).all()


@pytest.fixture
def unlearned(model, paragraphs):
    """A model that recites four paragraphs, and the delta that takes these away."""
    forget = with_own_continuation(model, paragraphs.select([0, 1, 2, 3]))
    retain = paragraphs.select([4, 5])
    mask = top_weights(weight_gradients(model, forget), fraction=0.2)
    recipe = Recipe(n_steps=6, lr=2e-3, retain="none")
    return model, unlearning_delta(model, forget, retain, mask, recipe=recipe, allow_shared=True).delta, forget


def test_the_table_holds_every_attack_under_every_model(unlearned, paragraphs):  # noqa: PLR0915
    model, delta, forget = unlearned
    twin, before = load_model(tiny_neo(seed=1)), model_hash(model)
    tree = attack(model, delta, forget, unrelated=paragraphs.select([4, 5]), twin=twin, n_steps=3, lr=1e-3)
    assert model_hash(model) == before
    table = tree["summary"].to_dataset()
    assert set(table["attack"].values) == {"none", *ATTACKS}
    assert table.sizes["row"] == 1 + 3 + len(NOISE) + len(PRUNED) + 4
    plain = {"no attack": None, "rounding: int4": rounded(model, "int4"), "pruning: 5 %": pruned(model, share=0.05)}
    for label, damage in plain.items():
        row = table.sel(row=label)
        if damage is None:
            untouched = recitation(model, forget)
        else:
            with damage:
                untouched = recitation(model, forget)
        assert float(row["exact_match_untouched"]) == pytest.approx(float(untouched["exact_match"].mean()))
        assert float(row["nll_untouched"]) == pytest.approx(float(untouched["nll"].mean()), rel=1e-5)
    with delta.applied(model):
        calm = recitation(model, forget)
        with rounded(model, "int4"):
            coarse = recitation(model, forget)
        learned = relearn(model, forget, on="prefixes", old_em=12.0, lr=1e-3, n_steps=3)
    row = table.sel(row="rounding: int4")
    assert float(row["exact_match_unlearned"]) == pytest.approx(float(coarse["exact_match"].mean()))
    lost = 12.0 - float(calm["exact_match"].mean())
    assert lost > 0
    gained = float(coarse["exact_match"].mean()) - float(calm["exact_match"].mean())
    assert float(row["recovered"]) == pytest.approx(gained / lost)
    assert bool(row["came_back"]) == (float(coarse["exact_match"].mean()) >= 6)
    assert np.isnan(row["exact_match_twin"])
    row = table.sel(row="relearning on prefixes")
    assert float(row["exact_match_unlearned"]) == pytest.approx(float(learned["exact_match"].sel(step=3).mean()))
    assert float(row["steps_unlearned"]) == relearning_speed(learned, "all").steps[0]
    curve = tree["relearning"].to_dataset().sel(row="prefixes")
    np.testing.assert_allclose(curve["exact_match_unlearned"], learned["exact_match"].mean("paragraph"))
    each = tree["paragraphs"].to_dataset()
    np.testing.assert_array_equal(each["exact_match_unlearned"].sel(row="no attack"), calm["exact_match"])


def test_unusable_input_is_refused_before_any_work(unlearned, paragraphs):
    model, delta, forget = unlearned
    unrelated = paragraphs.select([4, 5])
    with pytest.raises(InputError, match="attacks are one or more of relearning, rounding, noise, pruning"):
        attack(model, delta, forget, unrelated=unrelated, attacks=["hypnosis"])
    with pytest.raises(InputError, match="got none"):
        attack(model, delta, forget, unrelated=unrelated, attacks=[])
    with delta.applied(model), pytest.raises(InputError, match="cannot apply this delta"):
        attack(model, delta, forget, unrelated=unrelated)
    with pytest.raises(InputError, match="recites nothing of the text to forget"):
        attack(model, delta, Paragraphs(101 - 1 - forget.tokens, 12), unrelated=unrelated)
    with pytest.raises(InputError, match="an attacker trains on part, prefixes, unrelated, got 'all'"):
        inspect.unwrap(attack_texts)(forget, on="all", unrelated=None, seed=0)
    with pytest.raises(InputError, match="training on unrelated text needs some"):
        relearn(model, forget, on="unrelated", old_em=12.0)
    with pytest.raises(InputError, match="share near-duplicates"):
        relearn(model, forget, on="unrelated", unrelated=forget, old_em=12.0)
    with pytest.raises(InputError, match="a prefix of one token has nothing to train on"):
        relearn(model, Paragraphs(forget.tokens, 1), on="prefixes", old_em=12.0)
    with pytest.raises(InputError, match="a continuation of one token has no halves"):
        relearn(model, Paragraphs(forget.tokens[:1], 23), old_em=1.0)
    with pytest.raises(InputError, match="n_steps must be at least 1 and lr positive, got 0"):
        relearn(model, forget, old_em=12.0, n_steps=0)
    with pytest.raises(InputError, match="old_em must lie above 0"):
        relearn(model, forget, old_em=0.0)
    with pytest.raises(InputError, match="nothing is tested as 'trained'; there is all"):
        relearning_speed(run_of([[0, 1]]), "trained")
    with pytest.raises(InputError, match="a ratio needs the same attack on both models"):
        relearn_ratio(run_of([[0, 1]]), run_of([[0, 1]], lr=1e-2), "all")
