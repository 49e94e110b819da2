import copy
import inspect
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.attention import rare_token_attention
from memhooks.localize.attribution import weight_gradients, weight_scores
from memhooks.localize.profile import centre_of_mass, layer_shares
from memhooks.measure.extractability import extractability
from memhooks.measure.perturbation import perturb
from memhooks.measure.recitation import recitation
from memhooks.model.hooks import hooked
from memhooks.model.loading import load_model
from memhooks.model.provenance import model_hash
from memhooks.organism.paragraphs import insertion_steps, load_controls, load_planted
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.dose.curves import gap_overlap
from memhooks.truth.dose.levels import drawn_of_each, levels
from memhooks.truth.dose.measures import MEASURES
from memhooks.truth.dose.reading_times import ReadingTimes, planted_times
from memhooks.truth.dose.response import dose_response
from memhooks.truth.dose.table import DoseSettings, RareHead, dose_table, rare_head
from memhooks.unlearn.breaking import steps_to_break
from tests.conftest import tiny_neo

SETTINGS = DoseSettings(n_per_level=1, n_steps=3, lr=0.01, fraction=0.1, seed=3)
COUNTS = torch.arange(101)
RARE = RareHead(2, 1, COUNTS)


@pytest.fixture
def read(paragraphs):
    """Six paragraphs that were read 1, 1, 2, 3, 4 and 5 times."""
    return replace(paragraphs, counts=(1, 1, 2, 3, 4, 5))


@pytest.fixture(scope="module")
def other():
    return load_model(tiny_neo(seed=1))


@pytest.fixture(scope="module")
def found(hooked_source, other):
    tokens = torch.randint(101, (6, 24), generator=torch.Generator().manual_seed(1))
    rows = Paragraphs(tokens, n_prefix=12, counts=(1, 1, 2, 3, 4, 5))
    times = ReadingTimes(np.array([9.0, 8, 7, 5, 4, 0]), np.array([np.nan, np.nan, 5, 4, 3, 2]))
    return dose_response(copy.deepcopy(hooked_source), other, rows, head=RARE, times=times, settings=SETTINGS)


def test_every_measure_is_that_of_its_own_function(model, read):
    table = dose_table(model, read, head=RARE, settings=SETTINGS)
    recited = recitation(model, read)
    np.testing.assert_array_equal(table["exact_match"], recited["exact_match"])
    np.testing.assert_array_equal(table["longest_run"], recited["longest_run"])
    np.testing.assert_allclose(table["nll"], recited["nll"].mean("pos"), rtol=1e-5)
    sampled = extractability(model, read, sampler="temperature")["log_probability"]
    np.testing.assert_allclose(table["log_probability"], sampled, rtol=1e-5)
    scores = weight_scores(model, read)
    for name, pooling in (("centre_max", "max_gradient"), ("centre_l2", "l2_gradient")):
        np.testing.assert_allclose(table[name], centre_of_mass(layer_shares(scores, pooling=pooling)))
    for row in range(len(read)):
        gradient = weight_gradients(model, read.select([row]))
        norm = np.sqrt(sum(float(one.double().square().sum()) for one in gradient.values()))
        assert float(table["log_gradient"][row]) == pytest.approx(np.log(norm), abs=1e-4)
    attention = rare_token_attention(model, read, COUNTS, seed=1, n_shuffles=2)["spearman"].isel(query=0)
    np.testing.assert_allclose(table["attention_head"], attention.sel(layer=2, head=1))
    np.testing.assert_allclose(table["attention_most"], attention.min(("layer", "head")))


def test_dear_measures_are_of_the_drawn_paragraphs_alone(model, read):
    table = dose_table(model, read, settings=SETTINGS)
    drawn = table["drawn"].values
    assert drawn.sum() == 3
    assert sorted(table["level"].values[drawn]) == [1, 2, 4]
    some = read.select(drawn)
    rise = perturb(model, some, seed=3)["nll_rise"].values[:, 0]
    np.testing.assert_allclose(table["perturbed_nll"].values[drawn], rise.mean(1), rtol=1e-5)
    worst = [max(row) / sum(one for one in row if one > 0) for row in rise.tolist()]
    np.testing.assert_allclose(table["worst_share"].values[drawn], worst, rtol=1e-5)
    steps = steps_to_break(model, {"all": some}, weights=0.1, lr=0.01, n_steps=3, seed=3)["steps_nat"].values
    np.testing.assert_array_equal(table["steps_to_unlearn"].values[drawn], np.where(np.isnan(steps), 3, steps))
    np.testing.assert_array_equal(table["unbroken"].values[drawn], np.isnan(steps))
    for name in ("perturbed_nll", "perturbed_em", "worst_share", "steps_to_unlearn", "unbroken"):
        assert np.isnan(table[name].values[~drawn]).all()


def test_a_head_is_chosen_on_control_text(model, paragraphs):
    chosen = rare_head(model, paragraphs, COUNTS)
    spearman = rare_token_attention(model, paragraphs, COUNTS, seed=0, n_shuffles=1)["spearman"].isel(query=0)
    mean = spearman.mean("paragraph")
    assert float(mean.sel(layer=chosen.layer, head=chosen.head)) == float(mean.min())


def test_curves_are_plain_means_of_levels(found):
    curves, table = found.curves, found.tables["twin"]
    for name in ("nll", "centre_max", "attention_head"):
        for level, rows in ((1, [0, 1]), (2, [2, 3]), (4, [4, 5])):
            row = curves.sel(row=f"twin, {name}, k = {level}")
            assert int(row["n"]) == 2
            assert float(row["mean"]) == pytest.approx(sum(float(table[name][one]) for one in rows) / 2)
            assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
    share = curves.sel(row="memorized, recited, k = 2")
    assert (float(share["mean"]), float(share["low"])) == (0, 0)
    assert float(share["high"]) == pytest.approx(1 - 0.025 ** (1 / 2))  # exact: no hit of two


def test_the_response_holds_all_conditions_and_leaves_nothing_behind(model, other, read):
    before = {name: one.clone() for name, one in model.named_parameters()}
    found = dose_response(model, other, read, settings=replace(SETTINGS, n_per_level=0))
    assert all(torch.equal(before[name], one) for name, one in model.named_parameters())
    assert all(one.grad is None for one in model.parameters())
    assert set(found.tables) == {"memorized", "twin"}
    assert found.tables["twin"].attrs["model_hash"] == model_hash(other)
    assert set(found.statistics["condition"].values) <= {"memorized", "twin", "difference"}
    assert "attention_head" not in found.tables["memorized"]
    assert "steps_to_unlearn" not in found.tables["memorized"]
    alone = dose_response(model, None, read, settings=replace(SETTINGS, n_per_level=0))
    assert set(alone.groups) == {"memorized/paragraphs", "curves", "statistics", "thresholds"}
    np.testing.assert_array_equal(alone.tables["memorized"]["nll"], found.tables["memorized"]["nll"])


def test_planted_times_are_those_of_the_schedule():
    rows = load_planted("A").select([0, 100, 383])
    steps, times = insertion_steps(), planted_times(rows)
    end = max(max(own) for own in steps.values())
    for place, row in enumerate((0, 100, 383)):
        own = steps[row]
        assert times.gap[place] == end - max(own)
        gaps = [after - one for one, after in pairwise(own)]
        spacing = sum(gaps) / len(gaps) if gaps else np.nan
        assert times.spacing[place] == pytest.approx(spacing, nan_ok=True)
    with pytest.raises(InputError, match="reading times are known of sets A and B alone, not of 'C000'"):
        planted_times(load_controls("prose").select([0]))


def test_gaps_of_levels_and_how_far_they_overlap(found):
    overlap = gap_overlap(found.tables["memorized"])
    assert overlap["gap_median"].values.tolist() == [8.5, 6, 2]
    assert overlap["gap_least"].values.tolist() == [8, 5, 0]
    assert overlap["gap_most"].values.tolist() == [9, 7, 4]
    assert overlap["shared"].values.tolist() == [0, 0, 0]
    assert overlap.attrs["spearman"] == pytest.approx(-0.9856, abs=1e-4)  # a tie of the first two


def test_levels_and_draws():
    assert levels(np.array([1, 2, 3, 4, 7, 8])).tolist() == [1, 2, 2, 4, 4, 8]
    level = np.repeat([1, 2, 4], [5, 3, 1])
    drawn = drawn_of_each(level, n=3, seed=0)
    assert [int(drawn[level == one].sum()) for one in (1, 2, 4)] == [3, 3, 1]
    assert not drawn_of_each(level, n=0, seed=0).any()


def test_measures_have_units_that_say_what_zero_means():
    for measure in MEASURES.values():
        assert "= " in measure.unit or measure.words == "log gradient size"


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (None, "needs how often each paragraph was read; give paragraphs with counts"),
        ((1, 1, 2, 2, 4, 0), "counts must be at least 1, but 5 has 0; leave out what was never read"),
        ((1, 1, 2, 2, 3, 3), "counts of at least 3 powers of two, got 1, 2"),
        ((1, 1, 2, 2, 2, 4), "each level needs at least 2 paragraphs, and k = 4 has 1"),
    ],
)
def test_unusable_counts_are_refused(model, paragraphs, counts, message):
    with pytest.raises(InputError, match=message):
        dose_response(model, None, replace(paragraphs, counts=counts), settings=SETTINGS)


def test_unusable_settings_and_twins_are_refused(model, read, other):
    with pytest.raises(InputError, match="n_per_level must be at least 0 and n_steps at least 1, got -1 and 3"):
        dose_response(model, None, read, settings=replace(SETTINGS, n_per_level=-1))
    with pytest.raises(
        InputError, match="the twin must have the model's shape, 4 layers of 4 heads, 101 tokens; got 2"
    ):
        dose_response(model, load_model(tiny_neo(layers=2)), read, settings=SETTINGS)
    with pytest.raises(InputError, match="the twin has the model's own weights, so it is no control"):
        dose_response(model, copy.deepcopy(model), read, settings=SETTINGS)
    with pytest.raises(InputError, match="times must hold one number for each of 6 paragraphs, got 2"):
        inspect.unwrap(dose_table)(model, read, times=ReadingTimes(np.zeros(2), np.zeros(2)), settings=SETTINGS)
    with pytest.raises(InputError, match="hook"), hooked(model, [(("mlp_out", 0), lambda value, hook: None)]):
        dose_response(model, other, read, settings=SETTINGS)


def test_weights_that_are_no_numbers_are_refused(model, read):
    with torch.no_grad():
        model.blocks[0].mlp.W_in.fill_(torch.nan)
    with pytest.raises(InputError, match="log-probabilities are not finite"):
        dose_table(model, read, settings=SETTINGS)
