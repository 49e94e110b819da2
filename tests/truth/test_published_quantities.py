import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, pearsonr, spearmanr
from torch.nn.functional import cross_entropy

from memhooks.localize.masks.random_anywhere import random_weights
from memhooks.localize.objectives import CHANGE_WEIGHT
from memhooks.measure.perturbation import perturb_exact_match
from memhooks.model.components import component_parameters
from memhooks.model.hooks import hooked
from memhooks.paragraphs.counts import unigram_counts
from memhooks.paragraphs.splits import clusters
from memhooks.truth.published.attended import attended, coefficients, corrected, halves, most_negative, pool, rank_sums
from memhooks.truth.published.files import Held
from memhooks.truth.published.gradients import GRADIENTS, gradient_map
from memhooks.truth.published.likelihoods import LIKELIHOODS, likelihoods
from memhooks.truth.published.perturbed import EMAIL, PERTURBED, drops, email_rows
from memhooks.truth.published.recipe import published_steps_
from memhooks.truth.published.scales import patched, usable, value_gradients
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.stand_in import stand_in_model, stand_in_text
from memhooks.truth.published.unlearned import UNLEARNED, kept, moved_outside, run_trial, trial_paragraphs
from memhooks.unlearn.published_recipe import LR, published_recipe_


@pytest.fixture(scope="module")
def source():
    model = stand_in_model((4, 4, 32, 101), seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)  # so that predictions differ
    return model


@pytest.fixture
def setting(source):
    return Setting(copy.deepcopy(source), stand_in_text(6, d_vocab=101, seed=0), rows=3)


def mean_nll(model, tokens, first=50):
    logits = model(tokens)[:, first - 1 : -1]
    return cross_entropy(logits.transpose(1, 2), tokens[:, first:], reduction="none").mean(1)


def test_gradient_map_equals_autograd(setting):
    rows, model = setting.rows_of("50"), setting.loaded
    found = gradient_map(setting, rows)
    mean_nll(model, rows.tokens).mean().backward()
    cells = np.zeros((4, 18))
    for layer, block in enumerate(model.blocks):
        for place, matrix in enumerate(("W_Q", "W_K", "W_V", "W_O")):
            for head in range(4):
                cells[layer, 4 * place + head] = getattr(block.attn, matrix).grad[head].abs().max()
        cells[layer, 16] = block.mlp.W_in.grad.abs().max()
        cells[layer, 17] = block.mlp.W_out.grad.abs().max()
    np.testing.assert_allclose(found["layers"], cells.sum(1), rtol=1e-4)
    assert found["sum"] == pytest.approx(cells.sum(), rel=1e-4)
    assert found["variance"] == pytest.approx(cells.var(ddof=1), rel=1e-4)
    assert found["top"] == pytest.approx(cells.max(), rel=1e-4)
    layer, place = np.unravel_index(cells.argmax(), cells.shape)
    names = [f"{matrix} {head}" for matrix in ("W_Q", "W_K", "W_V", "W_O") for head in range(4)] + ["W_in", "W_out"]
    assert found["top_cell"] == f"L{layer} {names[place]}"


def test_a_substitute_has_an_interval_for_the_next_batch(setting):
    text = replace(setting.held, sets={"0-10": stand_in_text(12, d_vocab=101, seed=0).sets["0-10"]}, substitute="x")
    parts = GRADIENTS.parts(replace(setting, held=text), frozenset({"6.0-10"}))
    batches = [part for part in parts if part.name.startswith("gradients")]
    assert [part.name for part in batches] == ["gradients-0-10", *(f"gradients-0-10-{batch}" for batch in (1, 2, 3))]
    sums = [1.0, 2.0, 3.0, 6.0]
    one = {"layers": [1.0] * 4, "variance": 1.0, "top": 1.0, "n": 3, "nll": 1.0, "top_cell": "L0 W_in"}
    found = {part.name: one | {"sum": value} for part, value in zip(batches, sums, strict=True)}
    row = GRADIENTS.rows(setting, found)["6.0-10"]
    assert row.values == (3.0,)
    width = 3.182446 * np.std(sums, ddof=1) * np.sqrt(1.25)  # t of 3 degrees of freedom
    assert (row.low, row.high) == pytest.approx((3 - width, 3 + width), rel=1e-5)


def test_likelihoods_equal_a_loop(setting):
    rows = setting.rows_of("50")
    found = likelihoods(setting, rows)
    with torch.no_grad():
        logs = setting.loaded(rows.tokens).log_softmax(-1)
    for row, tokens in enumerate(rows.tokens.tolist()):
        nll = [-float(logs[row, place, tokens[place + 1]]) for place in range(99)]
        assert found["all"][row] == pytest.approx(np.mean(nll), abs=1e-5)
        assert found["continuation"][row] == pytest.approx(np.mean(nll[49:]), abs=1e-5)


def test_likelihoods_are_held_against_the_file(setting):
    table = replace(setting.held.strings, nll=np.array([0.426, 1.0742, 0.387, 0.259, 0.276, 1.0]))
    held = replace(setting, held=replace(setting.held, strings=table))
    found = {"likelihoods": {"all": [0.4, 1.1, 0.5, 0.3, 0.2, 1.0], "continuation": [0.426] * 6, "em": [50] * 5 + [3]}}
    rows = LIKELIHOODS.rows(held, found)
    assert rows["21.examples"].values == (0.4, 1.1, 0.5, 0.3, 0.2)
    assert rows["21.all"].values == pytest.approx((0.113,))
    assert rows["21.all"].beside["recited in full"] == pytest.approx(5 / 6)


def test_drops_equal_a_loop_and_are_averaged_without_position_0(setting):
    rows = setting.drawn("50", 3)
    model = setting.loaded
    own = rows.with_continuation(torch.randint(101, (3, 50)))
    with torch.no_grad():
        for place in range(50):  # each continuation is the model's own, so that something can be lost
            own.tokens[:, 50 + place] = model(own.tokens[:, : 50 + place])[:, -1].argmax(-1)
    found = drops(setting, own)
    effect = perturb_exact_match(model, own, seed=setting.seed)
    for row, place in ((0, 3), (2, 48), (1, 0)):
        tokens = own.tokens[row].clone()
        tokens[place] = int(effect["replacement"][row, 0, place])
        with torch.no_grad():
            hits = model(tokens[None])[0, 49:-1].argmax(-1) == tokens[50:]
        em = int(hits.long().cumprod(0).sum())
        assert found["drop"][row][place] == 50 - em
    made = PERTURBED.rows(setting, {"perturbed-50": found})["4.MP"]
    assert made.values[0] == pytest.approx(np.array(found["drop"])[:, 1:].mean())
    assert made.low <= made.values[0] <= made.high


def test_email_tokens_are_found_near_the_published_place_alone(setting):
    rows = setting.held.sets["50"]
    rows.tokens[:, :50] = 0
    rows.tokens[0, 30], rows.tokens[1, 10], rows.tokens[2, 33] = EMAIL, EMAIL, EMAIL
    assert email_rows(setting) == []  # another vocabulary
    setting.loaded.cfg.d_vocab = 50257
    assert email_rows(setting) == [(0, 30), (2, 33)]


def test_summed_attention_equals_scipy_on_patterns(setting):
    drawn, model = pool(setting), setting.loaded
    rows = drawn.rows
    assert (drawn.counts == unigram_counts([setting.held.sets[n].tokens for n in ("50", "0-10")], d_vocab=101)).all()
    found = attended(setting)
    layer, head = found["head"]
    with torch.no_grad():
        _, cache = model.run_with_cache(rows.tokens[:, :51])
    label = clusters(rows).numpy()
    test = halves(label, setting.seed)[1].tolist()  # the head was chosen on the other half
    assert (found["n"], found["n_pool"]) == (len(test), len(rows))
    assert 0 < len(test) < len(rows)
    sums = np.zeros(50)
    uniform = np.zeros(50)
    for row in test:
        counts = [float(drawn.counts[token]) for token in rows.tokens[row, :50].tolist()]
        order = sorted(set(counts))
        for key in range(50):
            sums[order.index(counts[key])] += float(cache["pattern", layer][row, head, 50, key])
            uniform[order.index(counts[key])] += 1  # whole numbers tie exactly
    for name, correlation in (("pearson", pearsonr), ("spearman", spearmanr), ("kendall", kendalltau)):
        assert found[name][0] == pytest.approx(correlation(np.arange(50), sums)[0], abs=1e-5)
        assert found[f"uniform {name}"] == pytest.approx(correlation(np.arange(50), uniform)[0], abs=1e-9)
    assert found["largest sum"] == pytest.approx(1000 / len(test) * sums.max(), rel=1e-4)
    each = [
        spearmanr(cache["pattern", layer][row, head, 50, :50].numpy(), drawn.counts[rows.tokens[row, :50]].numpy())[0]
        for row in test
    ]
    n_memorized = sum(row < drawn.n_memorized for row in test)
    assert found["n_memorized"] == n_memorized
    assert found["corrected"][0] == pytest.approx(np.mean(each), abs=1e-4)
    assert found["corrected of MP"][0] == pytest.approx(np.mean(each[:n_memorized]), abs=1e-4)
    top = cache["pattern", 1][: drawn.n_memorized, :, 50, :50].amax((1, 2))
    assert found["pattern"]["L1"][0] == pytest.approx(float(top.median()), abs=1e-5)


def test_heads_alike_equal_numpy(setting):
    drawn, model = pool(setting), setting.loaded
    found = attended(setting)
    with torch.no_grad():
        _, cache = model.run_with_cache(drawn.rows.tokens[:, :51])
    one, two = (cache["pattern", layer][:, :, 50, :50].mean(0).numpy() for layer in (1, 2))
    both = np.corrcoef(np.concatenate([one, two]))
    n = len(one)
    within, across = both[:n, :n][~np.eye(n, dtype=bool)].mean(), both[:n, n:].mean()
    assert found["alike in L1"] == pytest.approx(within, abs=1e-4)
    assert found["alike in L1 and L2"] == pytest.approx(across, abs=1e-4)
    gap, low, high = found["apart"]
    assert gap == pytest.approx(within / 2 - across, abs=1e-4)
    assert low <= gap <= high


def test_a_head_is_tested_on_other_clusters_than_it_was_chosen_on():
    label = np.repeat(np.arange(6), 3)
    choose, test = halves(label, 0)
    assert sorted([*choose, *test]) == list(range(18))
    assert not set(label[choose]) & set(label[test])
    one = np.zeros(4, int)
    assert [len(half) for half in halves(one, 0)] == [4, 4]


def test_random_attention_seldom_passes_for_attention_to_rare_tokens():
    """The largest of 12 heads on the same rows is found below 0 far too often; on other rows it is not."""
    generator, label = torch.Generator().manual_seed(0), np.arange(40)
    reach, passed = torch.ones(1, 10, dtype=torch.bool), {"other rows": 0, "the same rows": 0}
    for seed in range(60):
        seen = torch.rand(40, 1, 12, 10, generator=generator, dtype=torch.float64)
        counts = torch.randint(50, (40, 10), generator=generator).double()
        choose, test = halves(label, seed)
        for name, on in (("other rows", choose), ("the same rows", test)):
            _, head = most_negative(seen[on], counts[on], reach)
            own = corrected(seen[test][:, 0, [head]], counts[test], np.arange(20), seed, n_memorized=20)
            passed[name] += own["corrected of MP"][2] < 0
    assert passed["other rows"] <= 5
    assert passed["the same rows"] >= 10


def test_attention_to_the_rarest_alone_is_found():
    counts = torch.tensor([[5.0, 1.0, 3.0, 1.0], [2.0, 9.0, 4.0, 7.0]])
    attention = torch.tensor([[0.0, 0.6, 0.1, 0.3], [0.9, 0.0, 0.1, 0.0]])[:, None]
    sums = rank_sums(attention, counts)[:, 0].sum(0)
    np.testing.assert_allclose(sums, [1.8, 0.2, 0.0, 0.0], atol=1e-6)
    assert coefficients(sums[None])["spearman"][0] < -0.9


def test_value_gradients_equal_autograd(setting):
    model, rows = setting.loaded, setting.rows_of("50")
    kept_values = []

    def keep(value, hook):
        value.retain_grad()
        kept_values.append(value)

    with hooked(model, [("blocks.1.attn.hook_v", keep)]):
        logits = model(rows.tokens)
        cross_entropy(logits[:, 49], rows.tokens[:, 50], reduction="sum").backward()
    largest = kept_values[0].grad[:, :49].abs().amax((1, 2, 3))
    np.testing.assert_allclose(value_gradients(setting)["largest"], largest, rtol=1e-4)


@pytest.mark.parametrize(("direction", "variable"), [("noising", "impact_nll_change"), ("denoising", "new_nll_change")])
def test_patched_equals_a_hook(setting, direction, variable):
    found = patched(setting, direction, variable)
    pairs, model = usable(setting), setting.loaded
    assert pairs.clean.tokens.shape[1] == 51
    site, place = found["cell"].split(" ")
    layer, head = (int(one) for one in place.removeprefix("L").split("H"))
    runs = {"memorized": pairs.clean.tokens, "perturbed": pairs.tokens_with_clean_continuation}
    base, other = ("memorized", "perturbed") if direction == "noising" else ("perturbed", "memorized")
    said = (pairs.clean if direction == "noising" else pairs.perturbed).tokens[:, 50]
    rows = torch.arange(len(pairs))
    name = f"blocks.{layer}.attn.hook_{site}"
    with torch.no_grad():
        _, cache = model.run_with_cache(runs[other])

        def patch(value, hook):
            value = value.clone()
            value[rows, pairs.position, head] = cache[name][rows, pairs.position, head]
            return value

        before = cross_entropy(model(runs[base])[:, 49], said, reduction="none")
        with hooked(model, [(name, patch)]):
            after = cross_entropy(model(runs[base])[:, 49], said, reduction="none")
    assert found["largest"] == pytest.approx(abs(float((after - before).mean())), abs=1e-5)


def test_with_the_leak_it_is_the_published_recipe(setting):
    model, other = setting.loaded, copy.deepcopy(setting.loaded)
    change, keep = setting.held.sets["50"].select([0]), setting.held.sets["0-10"]
    mask = random_weights(model, fraction=0.001, seed=0).unbound()
    losses = published_recipe_(other, change, keep, mask)
    assert published_steps_(model, change, keep, mask) == pytest.approx(losses, abs=1e-5)
    for name, weight in component_parameters(model).items():
        torch.testing.assert_close(weight, component_parameters(other)[name], atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("leak", [True, False])
def test_the_leak_moves_all_weights_and_without_it_only_the_mask(setting, leak):
    model = setting.loaded
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    mask = random_weights(model, fraction=0.001, seed=0).unbound()
    change, keep = setting.held.sets["50"].select([0]), setting.held.sets["0-10"]
    published_steps_(model, change, keep, mask, leak=leak)
    grid = component_parameters(model)
    inside = sum(int((weight != before[name]).sum()) for name, weight in grid.items())
    outside = moved_outside(model, mask, before)
    assert inside - outside == len(mask)
    if leak:
        assert outside > 0.99 * (sum(weight.numel() for weight in grid.values()) - len(mask))
    else:
        assert outside == 0
    for name, weight in model.named_parameters():
        assert weight.grad is None
        if name not in grid:
            assert torch.equal(weight, before[name])
        elif leak:
            assert float((weight.detach() - before[name]).abs().max()) < 6 * LR


def test_an_interrupted_run_leaves_no_gradients(setting, monkeypatch):
    model = setting.loaded
    before = {name: weight.requires_grad for name, weight in model.named_parameters()}
    steps = iter([None])
    step = torch.optim.Adam.step

    def interrupted(self, *arguments):
        if next(steps, "no more") is not None:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    mask = random_weights(model, fraction=0.001, seed=0).unbound()
    with pytest.raises(KeyboardInterrupt):
        published_steps_(model, setting.held.sets["50"].select([0]), setting.held.sets["0-10"], mask)
    assert all(weight.grad is None for weight in model.parameters())
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == before


def test_the_email_row_has_a_range_and_no_interval(setting):
    found = {"perturbed-email": {"drop": [[3.0, 50.0], [20.0, 30.0]], "rows": [0, 1], "places": [30, 30]}}
    row = PERTURBED.rows(setting, found)["5"]
    assert (row.values, row.low, row.high) == ((25.0,), None, None)
    assert row.beside == {"least": 3.0, "most": 50.0}
    assert row.note.endswith("3 to 50")


def test_editing_asks_for_the_twins_tokens_after_the_original_text(setting):
    model, pairs = setting.loaded, setting.held.pairs
    own, labels, keep = pairs.clean.select([1]), pairs.perturbed.select([1]), setting.held.sets["0-10"]
    with torch.no_grad():
        logs = model(own.tokens)[:, 49:-1].log_softmax(-1)
        expected = -logs.gather(-1, labels.continuation[..., None]).mean()
    mask = random_weights(model, fraction=0.01, seed=0).unbound()
    losses = published_steps_(model, own, keep, mask, labels=labels, n_steps=2)
    assert losses[0] == pytest.approx(CHANGE_WEIGHT * float(expected), abs=1e-5)  # the KL is 0 at the start


def test_a_trial_leaves_the_model_as_it_was_and_counts_what_moved(setting):
    model = setting.loaded
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    found = run_trial(setting, "edit", "top", 0)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    n = sum(weight.numel() for weight in component_parameters(model).values())
    assert found["exact"]["moved_outside"] == 0
    assert found["published"]["moved_outside"] > 0.99 * n
    assert len(found["published"]["NMP"]) == len(found["published"]["held out"]) == 3


def test_kept_and_held_out_paragraphs_are_different_ones(setting):
    train, held_out = kept(setting, 1)
    assert not set(train.ids) & set(held_out.ids)
    assert len(train) == 3
    one, twins = trial_paragraphs(setting)
    assert one.ids == twins.ids
    alone, none = trial_paragraphs(replace(setting, held=Held(setting.held.sets)))
    assert none is None
    assert len(alone) == setting.trials == 1
    assert replace(setting, rows=50).trials == 20
    assert replace(setting, n_trials=4).trials == 4


def test_rows_of_unlearning_are_means_over_trials(setting):
    several = replace(setting, n_trials=2)
    one = {"MP": 10.0, "nll": 1.0, "NMP": [40, 50], "held out": [30, 30], "moved_outside": 7}
    two = {"MP": 20.0, "nll": 1.0, "NMP": [50, 50], "held out": [50, 50], "moved_outside": 7}
    found = {
        "unlearn-top-00": {"published": one, "exact": two},
        "unlearn-top-01": {"published": two, "exact": two},
    }
    rows = UNLEARNED.rows(several, found)
    assert rows["10.MP"].values == (15.0,)
    assert rows["10.MP"].beside == {"exact mask": 20.0, "weights moved outside": 7.0}
    assert rows["10.NMP"].values == (47.5,)
    assert rows["10.NMP"].beside == {"exact mask": 50.0, "held out": 40.0, "held out, exact mask": 50.0}
    assert set(rows) == {"10.MP", "10.NMP"}
