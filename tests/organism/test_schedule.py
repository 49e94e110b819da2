import numpy as np
import pytest

from memhooks.organism.recipe import Recipe
from memhooks.organism.schedule import LEADS, background_rows, fork_rows, insertions, trunk_rows

RECIPE = Recipe(repetitions=(1, 4, 16), n_per_level=5, n_tokens=10, n_ctx=16, fork_batch=4, trunk_batch=2)


@pytest.fixture(scope="module")
def planted():
    return [np.full(10, 100 + slot) for slot in range(15)]


@pytest.fixture(scope="module")
def background():
    return np.random.default_rng(0).integers(1, 100, size=(600, 16))


def test_each_slot_is_planted_as_often_as_its_level_says():
    times = np.bincount([item.slot for item in insertions(RECIPE)], minlength=15)
    assert times.tolist() == [1] * 5 + [4] * 5 + [16] * 5


def test_each_slot_meets_every_lead_equally_often():
    plan = insertions(RECIPE)
    for slot in range(5, 15):
        leads = [item.lead for item in plan if item.slot == slot]
        assert {lead: leads.count(lead) for lead in LEADS} == dict.fromkeys(LEADS, len(leads) // 4)


def test_rows_hold_the_paragraph_at_its_place_after_its_lead(planted, background):
    plan = insertions(RECIPE)
    batches = fork_rows(planted, background, plan, RECIPE)
    place_in_batch: dict[int, int] = {}
    for item in plan:
        index = place_in_batch.get(item.step, 0)
        place_in_batch[item.step] = index + 1
        row = batches[item.step, index]
        assert (row[item.position : item.position + 10] == 100 + item.slot).all()
        before = row[: item.position]
        match item.lead:
            case "start":
                assert item.position == 0
            case "text":
                assert item.position >= 1
                assert (before > 0).all()
            case "end_of_text":
                assert before.tolist() == [0]
            case "text_and_end":
                assert before[-1] == 0
                assert (before[:-1] > 0).all()
                assert item.position >= 2


def test_the_forks_differ_in_the_planted_words_alone(planted, background):
    plan = insertions(RECIPE)
    other = [words + 50 for words in planted]
    one, two = fork_rows(planted, background, plan, RECIPE), fork_rows(other, background, plan, RECIPE)
    assert ((one != two) == (one >= 100)).all()
    assert (one >= 100).sum() == 10 * len(plan)


def test_half_of_each_batch_is_background_and_all_insertions_are_there(planted, background):
    plan = insertions(RECIPE)
    batches = fork_rows(planted, background, plan, RECIPE)
    assert batches.shape[1:] == (4, 16)
    carries = (batches >= 100).any(-1).sum(1)
    assert carries[:-1].tolist() == [2] * (len(batches) - 1)
    assert carries.sum() == len(plan)


def test_insertions_of_a_paragraph_are_spread_over_the_whole_fork():
    plan = insertions(RECIPE)
    last = plan[-1].step
    for slot in range(10, 15):
        steps = np.array([item.step for item in plan if item.slot == slot])
        assert (np.histogram(steps, bins=4, range=(0, last + 1))[0] >= 2).all()


def test_too_little_background_is_an_error(planted, background):
    with pytest.raises(ValueError, match="background rows, got 10"):
        fork_rows(planted, background[:10], insertions(RECIPE), RECIPE)


def test_trunk_rows_hold_every_epoch_and_mix_evenly():
    prose, repeated, once = ([np.full(1600, token)] for token in (1, 2, 3))
    recipe = Recipe(prose_epochs=2, licence_epochs=4, n_ctx=16, trunk_batch=2)
    rows = trunk_rows(prose, repeated, once, recipe)
    per_epoch = (1601 - 16) // 16
    counts = [int((rows == token).any(1).sum()) for token in (1, 2, 3)]
    assert all(abs(n - epochs * per_epoch) <= 2 * epochs for n, epochs in zip(counts, (2, 4, 1), strict=True))
    halves = [(half == 2).any(1).sum() for half in np.array_split(rows, 2)]
    assert abs(int(halves[0]) - int(halves[1])) < 0.2 * counts[1]


def test_the_same_seed_gives_the_same_rows():
    prose, repeated = [np.arange(1, 900) % 97 + 1], [np.arange(1, 300) % 89 + 1]
    one, again = (background_rows(prose, repeated, 100, RECIPE) for _ in range(2))
    assert (one == again).all()
    assert one.shape == (100, 16)
