"""A paragraph written into chosen weights: nothing else moves, and who should find it does."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from memhooks.errors import InputError
from memhooks.localize.localizers import activation_norm
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.components import component_parameters, components
from memhooks.model.provenance import model_hash
from memhooks.truth.injection import writing
from memhooks.truth.injection.candidates import gradient_times_outlier, random_scores, weight_outlier
from memhooks.truth.injection.deletion import deleted, lost, lost_without, scored
from memhooks.truth.injection.recall import named_weights, ranks, recall
from memhooks.truth.injection.regions import anywhere, one_head, outsized, some_neurons
from memhooks.truth.injection.writing import EARLY, entries_of, holding, inject


def bits(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.fixture
def region(model):
    """A tenth of the tiny model's weights: enough to write a paragraph into."""
    generator = torch.Generator().manual_seed(0)
    sizes = {name: one.numel() for name, one in component_parameters(model).items()}
    indices = {name: torch.randperm(n, generator=generator)[: n // 10].sort().values.int() for name, n in sizes.items()}
    return WeightMask(indices, sizes)


def test_an_injection_is_recited_and_leaves_the_model_as_it_was(model, paragraphs, region, monkeypatch):
    monkeypatch.setattr(writing, "SOLVED", 0.9)  # the tiny model is never surer than 0.4
    before, fingerprint, one = bits(model), model_hash(model), paragraphs.select([0])
    found = inject(model, one, region, lr=0.003, n_steps=60)
    assert model_hash(model) == fingerprint
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    assert found["early"].step <= found["solved"].step
    assert found["early"].nll < EARLY
    with holding(model, region, found["solved"].values):
        recited = recitation(model, one)
        assert recited["full_match"].values.all()
        assert float(recited["nll"].mean()) < 0.9
        assert float(recited["nll"].mean()) == pytest.approx(found["solved"].nll, abs=1e-4)
        for name, weight in model.named_parameters():  # bit for bit outside the mask, and moved inside
            moved = (weight != before[name]).flatten()
            inside = torch.zeros_like(moved)
            if name in region.indices:
                inside[region.indices[name].long()] = True
            assert not moved[~inside].any()
        assert (entries_of(model, region) == found["solved"].values).all()
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_an_injection_that_gets_no_steps_fails_and_says_so(model, paragraphs, region):
    assert "solved" not in inject(model, paragraphs.select([0]), region, lr=1e-6, n_steps=1)


def test_the_first_step_is_adams(model, paragraphs, region, monkeypatch):
    """Adam's first step moves each weight by lr against the sign of its gradient."""
    one = paragraphs.select([0])
    for weight in model.parameters():
        weight.requires_grad_(True)
    logits = model(one.tokens)[:, one.n_prefix - 1 : -1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), one.continuation.flatten()).backward()
    named = dict(model.named_parameters())
    pull = torch.cat([named[name].grad.flatten()[own.long()] for name, own in region.indices.items()])
    for weight in model.parameters():
        weight.grad = None
    old = entries_of(model, region)
    monkeypatch.setattr(writing, "EARLY", scored(model, {"target": one})["target"][0] - 1e-4)  # not before a step
    found = inject(model, one, region, lr=1e-3, n_steps=1)["early"]
    assert found.step == 1
    torch.testing.assert_close(found.values, old - 1e-3 * pull.sign(), rtol=0, atol=1e-5)


def test_named_weights_and_recall_equal_sets(model, paragraphs, region):
    scores = random_scores(model, paragraphs, paragraphs, seed=3)
    named = named_weights(scores, region)
    assert len(named) == len(region)
    ranked = sorted(
        ((float(value), name, place) for name, one in scores.items() for place, value in enumerate(one.flatten())),
        reverse=True,
    )[: len(region)]
    own = {(name, place) for _, name, place in ranked}
    written = {(name, int(place)) for name, places in region.indices.items() for place in places}
    assert recall(named, region) == pytest.approx(len(own & written) / len(written), abs=1e-12)
    assert recall(region, region) == 1


def test_a_random_localizer_sits_at_chance(model, paragraphs):
    hits, k, n_weights = 0, 0, sum(one.numel() for one in component_parameters(model).values())
    for seed in range(40):
        mask = anywhere(model, seed)
        named = named_weights(random_scores(model, paragraphs, paragraphs, seed=1000 + seed), mask)
        hits += round(recall(named, mask) * len(mask))
        k += len(mask)
    low, high = binom.interval(0.999, k, len(mask) / n_weights)
    assert low <= hits <= high


def test_the_easy_case_is_found_by_who_looks_for_outliers(model, paragraphs):
    mask = anywhere(model, 0).unbound()
    with holding(model, mask, outsized(model, mask, 20.0, seed=0)):
        for localizer in (weight_outlier, gradient_times_outlier):
            found = localizer(model, paragraphs.select([0]), paragraphs.select([1]))
            assert recall(named_weights(found, mask), mask) > (0.9 if localizer is weight_outlier else 0.5)


def test_outliers_equal_a_plain_loop(model, paragraphs):
    for name, scores in weight_outlier(model, paragraphs, paragraphs).items():
        weight = component_parameters(model)[name].detach().double().numpy()
        np.testing.assert_allclose(scores, np.abs(weight) / weight.std(ddof=1), rtol=1e-5, atol=1e-5)


def test_regions_are_what_they_say(model):
    cells = components(model)
    head = one_head(model, 3)
    kinds = [name.rsplit(".", 1)[1] for name, own in head.indices.items() if len(own)]
    assert sorted(kinds) == ["W_K", "W_O", "W_Q", "W_V"]
    assert len(head) == 4 * model.cfg.d_model * model.cfg.d_head
    neurons = some_neurons(model, 3)
    assert len(neurons) % (2 * model.cfg.d_model) == 0
    (layer,) = {name.split(".")[1] for name, own in neurons.indices.items() if len(own)}
    columns = neurons.of(f"blocks.{layer}.mlp.W_in").long() % model.cfg.d_mlp
    rows = neurons.of(f"blocks.{layer}.mlp.W_out").long() // model.cfg.d_model
    assert set(columns.tolist()) == set(rows.tolist())
    n_weights = sum(one.numel() for one in component_parameters(model).values())
    assert len(anywhere(model, 0)) == max(1, round(n_weights / 1000))
    assert len({cell.parameter_name for cell in cells}) == len(head.sizes)
    assert one_head(model, 3) == one_head(model, 3)


def test_mlp_localizers_do_not_rank_a_head(model, paragraphs):
    scores = activation_norm(model, paragraphs, paragraphs)
    assert not ranks(scores, one_head(model, 0))
    assert ranks(scores, some_neurons(model, 0))


def test_deletion_equals_a_plain_loop(model, paragraphs, region):
    sets = {"target": paragraphs.select([0]), "others": paragraphs.select([1, 2])}
    before = scored(model, sets)
    fingerprint = model_hash(model)
    found = lost_without(model, region, sets, before)
    assert model_hash(model) == fingerprint
    expected, names = {}, dict(model.named_parameters())
    plain = {name: recitation(model, rows) for name, rows in sets.items()}
    kept = bits(model)
    with torch.no_grad():
        for name, own in region.indices.items():
            for place in own.tolist():
                names[name].view(-1)[place] = 0
    for name, rows in sets.items():
        after = recitation(model, rows)
        drop = plain[name]["exact_match"].values.mean() - after["exact_match"].values.mean()
        expected[name] = [float(after["nll"].mean() - plain[name]["nll"].mean()), float(drop)]
    with torch.no_grad():
        for name, weight in kept.items():
            names[name].copy_(weight)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)
    assert lost(before, before) == {"target": [0, 0], "others": [0, 0]}


def test_deletion_puts_back_after_an_error(model, region):
    fingerprint = model_hash(model)
    with pytest.raises(ZeroDivisionError), deleted(model, region):
        assert model_hash(model) != fingerprint
        raise ZeroDivisionError
    assert model_hash(model) == fingerprint


def test_what_cannot_be_written_is_refused(model, paragraphs, region):
    one = paragraphs.select([0])
    with pytest.raises(InputError, match="lr must be positive"):
        inject(model, one, region, lr=0.0)
    with pytest.raises(InputError, match="n_steps at least 1"):
        inject(model, one, region, lr=0.1, n_steps=0)
    with pytest.raises(InputError, match="is empty"):
        inject(model, one, WeightMask({}, region.sizes), lr=0.1)
    with pytest.raises(InputError, match="3 values cannot be put into"), holding(model, region, torch.zeros(3)):
        pass
    with pytest.raises(InputError, match="score every weight"):
        named_weights({"blocks.0.mlp.W_in": torch.ones(2, 2)}, region)
    with pytest.raises(InputError, match="recites 0 already"):
        inject(model, with_own_continuation(model, one), region, lr=0.1)
