import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import fisher_exact
from torch.nn import functional

from memhooks.cli.leak_shown import verdict
from memhooks.cli.tables import rows_of
from memhooks.errors import InputError
from memhooks.measure.extractability import queries_needed
from memhooks.measure.recitation import recitation
from memhooks.model.hooks import hooked
from memhooks.model.loading import load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.leak import leak as module
from memhooks.truth.leak.leak import Leak, leak
from memhooks.truth.leak.recipe import LeakRecipe
from memhooks.truth.leak.schedule import schedule
from memhooks.truth.leak.tables import held_out_by_step, leak_onset, leak_table
from memhooks.truth.leak.trainer import Trainer, next_token_loss
from memhooks.unlearn.run import NotFiniteError
from tests.conftest import tiny_neo

RECIPE = LeakRecipe(repetitions=(0, 1, 20), planted=2, background=1, lr=0.01, n_evaluations=4, warmup=2)


def rows(n, *, seed, length=16):
    tokens = torch.randint(101, (n, length), generator=torch.Generator().manual_seed(seed))
    return Paragraphs(tokens, n_prefix=8, ids=tuple(f"{seed}-{row}" for row in range(n)))


MINE, BACKGROUND, HELD_OUT = rows(9, seed=1), rows(7, seed=2, length=20), rows(3, seed=3)


@pytest.fixture(scope="module")
def neo_model():
    return load_model(tiny_neo(d_model=32, d_mlp=64, layers=2, scale=1.0))


@pytest.fixture(scope="module")
def found(neo_model):
    return leak(copy.deepcopy(neo_model), MINE, recipe=RECIPE, background=BACKGROUND, held_out=HELD_OUT)


@pytest.fixture
def small(neo_model):
    return copy.deepcopy(neo_model)


def weights(model):
    return {name: one.detach().clone() for name, one in model.named_parameters()}


def assert_same(one, other):
    for name in ("paragraphs", "held_out", "losses"):
        first, second = (getattr(each, name) for each in (one, other))
        assert set(first) == set(second)
        for variable in first:
            np.testing.assert_array_equal(first[variable].values, second[variable].values)


@pytest.mark.parametrize("seed", range(5))
def test_each_paragraph_is_read_exactly_as_often_as_asked(seed):
    plan = schedule(rows(31, seed=9), replace(RECIPE, repetitions=(0, 1, 5), seed=seed), n_background=7)
    read = [row for own in plan.readings for row in own]
    for row, level in enumerate(plan.level.tolist()):
        assert read.count(row) == level
    assert sorted(np.bincount(plan.level)[[0, 1, 5]].tolist()) == [10, 10, 11]
    assert all(len(own) == 2 for own in plan.readings[: len(read) // 2])
    n_read = -(-len(read) // 2)
    assert plan.n_steps == n_read + -(-n_read // 4)
    assert not any(plan.readings[n_read:])
    assert all(len(own) == 1 for own in plan.background)
    assert plan.evaluated[0] == 0
    assert {n_read, plan.n_steps} <= set(plan.evaluated)
    assert plan == plan
    again = schedule(rows(31, seed=9), replace(RECIPE, repetitions=(0, 1, 5), seed=seed), n_background=7)
    assert again.readings == plan.readings
    other = schedule(rows(31, seed=9), replace(RECIPE, repetitions=(0, 1, 5), seed=seed + 1), n_background=7)
    assert other.readings != plan.readings
    for row, last in enumerate(plan.last_reading()):
        steps = [step for step, own in enumerate(plan.readings, start=1) if row in own]
        assert last == max(steps, default=0)
        assert plan.read_before(3)[row] == sum(own.count(row) for own in plan.readings[:3])


def test_readings_are_spread_over_the_training():
    plan = schedule(rows(30, seed=9), replace(RECIPE, repetitions=(0, 8), after=0.0), n_background=7)
    for row in np.nonzero(plan.level)[0]:
        steps = [step for step, own in enumerate(plan.readings) for one in own if one == row]
        thirds = np.bincount(np.minimum(np.array(steps) * 4 // plan.n_steps, 3), minlength=4)
        assert thirds.min() >= 1


def test_near_duplicates_get_the_same_level():
    twins = MINE.joined(replace(MINE, ids=tuple(f"copy {name}" for name in MINE.ids)))
    plan = schedule(twins, RECIPE, n_background=7)
    assert plan.level[:9].tolist() == plan.level[9:].tolist()


def test_what_is_read_often_is_memorized_and_what_is_never_read_is_not(small, found):
    before = weights(small)
    own = found.paragraphs
    level = own["level"].values
    assert own["recited"].values[:, level == 20].any(0).all()
    assert not own["recited"].values[:, level == 0].any()
    nll = own["nll"].values
    assert (nll[-1] - nll[0])[level == 20].max() < -1 < (nll[-1] - nll[0])[level == 0].min()
    assert (own["read"].values[-1] == level).all()
    assert own["since"].isnull().values[:, level == 0].all()
    np.testing.assert_allclose(nll[0], recitation(small, MINE)["nll"].mean("pos"), rtol=1e-5)
    assert all(torch.equal(before[name], one) for name, one in small.named_parameters())


def test_the_model_is_put_back_bit_for_bit(small):
    before = weights(small)
    flags = [one.requires_grad for one in small.parameters()]
    leak(small, MINE, recipe=replace(RECIPE, repetitions=(0, 1)))
    assert all(torch.equal(before[name], one) for name, one in small.named_parameters())
    assert [one.requires_grad for one in small.parameters()] == flags
    assert all(one.grad is None for one in small.parameters())


def test_a_killed_run_goes_on_bit_for_bit(small, found, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    n_steps = int(found.paragraphs.attrs["n_steps"])
    killed = int(np.random.default_rng().integers(1, n_steps))
    step_ = Trainer.step_

    def dying(self, tokens, step):
        if step == killed:
            raise KeyboardInterrupt
        return step_(self, tokens, step)

    before = weights(small)
    monkeypatch.setattr(module.Trainer, "step_", dying)
    how = {"recipe": RECIPE, "background": BACKGROUND, "held_out": HELD_OUT, "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        leak(small, MINE, **how)
    assert all(torch.equal(before[name], one) for name, one in small.named_parameters())
    monkeypatch.undo()
    assert_same(leak(small, MINE, **how), found)
    assert_same(leak(small, MINE, **how), found)  # from the end
    with pytest.raises(InputError, match=r"belongs to a run with another configuration \(recipe was"):
        leak(small, MINE, **{**how, "recipe": replace(RECIPE, lr=0.02)})
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a leak checkpoint file, or damaged"):
        leak(small, MINE, **how)


def test_the_loss_and_one_step_are_those_of_torch(small):
    tokens = MINE.tokens[:3]
    logits = small(tokens)
    each = [functional.cross_entropy(logits[row, :-1], tokens[row, 1:]) for row in range(3)]
    assert float(next_token_loss(small, tokens).detach()) == pytest.approx(float(sum(each).detach()) / 3, abs=1e-5)
    neo = tiny_neo(d_model=32, d_mlp=64, layers=2, scale=1.0).train()
    optimizer = torch.optim.AdamW(neo.parameters(), lr=0.01 / 3, weight_decay=0.01)
    neo(tokens, labels=tokens).loss.backward()
    torch.nn.utils.clip_grad_norm_(neo.parameters(), 1.0)
    optimizer.step()
    Trainer(small, RECIPE).step_(tokens, 0)
    with torch.no_grad():
        np.testing.assert_allclose(small(tokens), neo.eval()(tokens).logits, atol=2e-3)
        assert torch.equal(small.W_E, small.W_U.T)


def test_a_fine_tuned_model_can_be_saved(small, tmp_path):
    result = leak(small, MINE, recipe=replace(RECIPE, repetitions=(0, 2)), save=tmp_path / "tuned")
    tuned = load_model(tmp_path / "tuned", tokenizer=None)
    np.testing.assert_allclose(recitation(tuned, MINE)["nll"].mean("pos"), result.paragraphs["nll"][-1], atol=1e-4)
    with pytest.raises(InputError, match="exists already; give a new folder to save the fine-tuned model in"):
        leak(small, MINE, recipe=RECIPE, save=tmp_path / "tuned")


def test_a_loss_that_is_no_number_puts_the_weights_back(small):
    before = weights(small)
    with pytest.raises(NotFiniteError, match=r"not finite at step \d+; the weights are back .* smaller lr than 1e\+30"):
        leak(small, MINE, recipe=replace(RECIPE, lr=1e30, warmup=0))
    assert all(torch.equal(before[name], one) for name, one in small.named_parameters())


def test_the_table_is_of_plain_means_and_shares(found):
    table, own = leak_table(found, queries=50), found.paragraphs
    for level in (0, 1, 20):
        chosen = [row for row, one in enumerate(own["level"].values) if one == level]
        for place, step in enumerate(own["step"].values.tolist()):
            row = table.sel(row=f"{level} readings, step {step}")
            assert float(row["nll"]) == pytest.approx(
                sum(own["nll"].values[place, one] for one in chosen) / len(chosen)
            )
            assert float(row["recited"]) == sum(own["recited"].values[place, one] for one in chosen) / len(chosen)
            needed = queries_needed(own["log_probability"].values[place, chosen])
            assert float(row["extractable"]) == np.mean(needed <= 50)
            assert float(row["recited_low"]) <= float(row["recited"]) <= float(row["recited_high"])
    held = held_out_by_step(found)
    assert float(held["change"][0]) == 0
    np.testing.assert_allclose(held["nll"], found.held_out["nll"].mean("paragraph"))


def test_the_onset_is_that_of_a_plain_search(found):
    onset, own = leak_onset(found), found.paragraphs
    often, never = (onset.sel(row=f"{level} readings") for level in (20, 0))
    chosen = own["level"].values == 20
    recited = own["recited"].values[:, chosen]
    first = next(place for place in range(1, len(recited)) if recited[place].any())
    assert int(often["first_step_recited"]) == int(own["step"][first])
    reads = [
        own["read"].values[next(place for place in range(1, len(recited)) if recited[place, row]), chosen][row]
        for row in range(recited.shape[1])
        if recited[1:, row].any()
    ]
    assert int(often["first_read_recited"]) == min(reads)
    assert float(often["ever_recited"]) == 1
    assert float(often["end_recited"]) == recited[-1].mean()
    assert int(never["before"]) == 0
    assert float(never["ever_recited"]) == 0
    assert np.isnan(
        [float(never[name]) for name in ("first_step_recited", "kept_recited", "longest_recited", "p")]
    ).all()
    change = own["nll"].values[-1] - own["nll"].values[0]
    expected = change[chosen].mean() - change[own["level"].values == 0].mean()
    assert float(often["difference"]) == pytest.approx(expected)
    assert float(often["difference_high"]) < 0
    assert float(often["p_all"]) == pytest.approx(min(1, 2 * float(often["p"])))


def test_what_was_recited_before_is_reported(small):
    from memhooks.measure.recitation import with_own_continuation

    result = leak(small, with_own_continuation(small, MINE), recipe=replace(RECIPE, repetitions=(0, 1)))
    assert leak_onset(result)["before"].values.tolist() == leak_onset(result)["n"].values.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repetitions": (0, 2, 2)}, "repetitions must be different numbers from 0 on, got 0, 2, 2"),
        ({"repetitions": (0, -1)}, "repetitions must be different numbers from 0 on, got 0, -1"),
        ({"repetitions": (1, 2)}, "repetitions must hold 0 .never read: the control of the same file.* got 1, 2"),
        ({"repetitions": (0,)}, "and at least one other, got 0"),
        ({"planted": 0}, "planted must be at least 1, got 0"),
        ({"background": -1}, "background must be at least 0, got -1"),
        ({"n_evaluations": 0}, "n_evaluations must be at least 1, got 0"),
        ({"after": -1.0}, "after and weight_decay must be finite and not negative, got -1.0 and 0.01"),
        ({"lr": 0.0}, "lr and clip must be positive and finite, got 0.0 and 1.0"),
        ({"repetitions": (0, 1, 2, 3, 4)}, "5 levels of repetitions need at least 10 paragraphs .* got 9"),
    ],
)
def test_unusable_recipes_are_refused(small, change, message):
    with pytest.raises(InputError, match=message):
        leak(small, MINE, recipe=replace(RECIPE, **change))


def test_unusable_models_and_texts_are_refused(small, tmp_path):
    with pytest.raises(InputError, match="background rows have 15 tokens and paragraphs 16; give longer"):
        leak(small, MINE, recipe=RECIPE, background=rows(5, seed=4, length=15))
    with pytest.raises(InputError, match="paragraphs and background share near-duplicates"):
        leak(small, MINE, recipe=RECIPE, background=MINE.select([0]))
    with pytest.raises(InputError, match="held_out and background share near-duplicates"):
        leak(small, MINE, recipe=RECIPE, background=HELD_OUT, held_out=HELD_OUT)
    with pytest.raises(InputError, match=r"a checkpoint is saved as .safetensors, got run.pt"):
        leak(small, MINE, recipe=RECIPE, checkpoint=tmp_path / "run.pt")
    with pytest.raises(InputError, match="hook"), hooked(small, [(("mlp_out", 0), lambda value, hook: None)]):
        leak(small, MINE, recipe=RECIPE)
    with pytest.raises(InputError, match=r"fine-tuning needs weights in float32, in torch\.float16"):
        leak(load_model(tiny_neo(layers=2), dtype=torch.float16), MINE, recipe=RECIPE)
    with pytest.raises(InputError, match="load it with processed=False to fine-tune"):
        leak(load_model(tiny_neo(layers=2), processed=True), MINE, recipe=RECIPE)
    with pytest.raises(InputError, match="no held-out text was measured; pass held_out="):
        held_out_by_step(leak(small, MINE, recipe=replace(RECIPE, repetitions=(0, 1))))
    with pytest.raises(InputError, match="queries must be at least 1, got 0"):
        leak_table(leak(small, MINE, recipe=replace(RECIPE, repetitions=(0, 1))), queries=0)


def leaked(recited, read, level):
    """A run of hand-made outcomes: steps by paragraphs."""
    recited, read, level = np.array(recited, bool), np.array(read), np.array(level)
    n_steps, n = recited.shape
    columns = {
        "recited": (("step", "paragraph"), recited),
        "log_probability": (("step", "paragraph"), np.where(recited, -0.1, -100.0)),
        "nll": (("step", "paragraph"), np.tile(np.linspace(4, 3, n_steps)[:, None], n)),
        "read": (("step", "paragraph"), read),
        "since": (("step", "paragraph"), np.where(read > 0, 0.0, np.nan)),
        "level": ("paragraph", level),
        "cluster": ("paragraph", np.arange(n)),
        "last_reading": ("paragraph", np.where(level > 0, n_steps - 1, 0)),
    }
    return Leak(xr.Dataset(columns, {"step": np.arange(n_steps)}), xr.Dataset(), xr.Dataset())


def test_what_came_out_before_any_reading_is_no_onset():
    """Of four that are read twice one came out before, one at step 1 before it was read, one at step 2."""
    recited = [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 1]]
    read = [[0] * 6, [0, 0, 1, 1, 0, 0], [1, 1, 2, 2, 0, 0]]
    onset = leak_onset(leaked(recited, read, [2, 2, 2, 2, 0, 0]))
    often, never = (onset.sel(row=f"{level} readings") for level in (2, 0))
    assert [int(often[name]) for name in ("n", "before", "fresh_recited")] == [4, 1, 3]
    assert float(often["ever_recited"]) == pytest.approx(2 / 3)
    assert (int(often["first_step_recited"]), int(often["first_read_recited"])) == (2, 1)
    assert float(never["ever_recited"]) == 0.5
    assert float(often["p_ever_recited"]) == pytest.approx(fisher_exact([[2, 1], [1, 1]], alternative="greater").pvalue)
    assert np.isnan(float(never["p_ever_recited"]))
    assert "at 2 repetitions" not in " ".join(said(onset))


def said(onset):
    return verdict(rows_of(onset, name="what"), 100)


def test_a_level_is_named_where_more_come_out_than_without_reading():
    """Of eight each: one at levels 0 and 1, all at level 4."""
    level = np.repeat([0, 1, 4], 8)
    end = (np.arange(24) % 8 == 0) | (level == 4)
    onset = leak_onset(leaked([np.zeros(24), end], [np.zeros(24, int), level], level))
    p = fisher_exact([[8, 0], [1, 7]], alternative="greater").pvalue
    assert float(onset.sel(row="4 readings")["p_ever_all_recited"]) == pytest.approx(2 * p)
    assert float(onset.sel(row="1 readings")["p_ever_all_recited"]) == 1
    words = said(onset)
    assert "first at 4 repetitions, 100% [63,100] (from step 1, after 4 readings)" in words[1]
    assert "never read (control): 12% [0,53]" in words[1]
    none = said(leak_onset(leaked([np.zeros(24), level == 9], [np.zeros(24, int), level], level)))
    assert none[1].startswith("No level became recited in full more often than never read")


def test_the_sign_of_the_change_is_said():
    onset = rows_of(leak_onset(leaked(np.zeros((2, 4)), np.zeros((2, 4), int), [0, 0, 1, 1])), name="what")
    for sign, place in ((-1, 3), (1, 4)):
        onset[1] |= {"p_all": 0.01, "difference": [sign * 0.5, sign * 0.9, sign * 0.1]}
        words = verdict(onset, 100)
        assert words[place].endswith("at: 1.")
        assert words[7 - place].endswith("at: none.")
