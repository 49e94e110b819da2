import numpy as np
import pytest
import torch

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask, frozen_outside
from memhooks.localize.noise import noise_counts, noise_doses
from memhooks.localize.noised import noised
from memhooks.localize.weight_search import as_mask, search_weights
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.components import component_parameters
from memhooks.model.labelled import load_result, save_result
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs

NAME = "blocks.2.attn.W_V"
FACTORS = (0.0, 0.5, 2.0)


@pytest.fixture
def sets(model, paragraphs):
    own = with_own_continuation(model, paragraphs)
    return {"memorized": own, "control": paragraphs.select([0, 1, 2])}


@pytest.fixture
def gradients(model, sets):
    return weight_gradients(model, sets["memorized"])


@pytest.fixture
def mask(gradients):
    return top_weights(gradients, fraction=0.01)


def bits(model):
    return {name: weight.detach().clone().view(torch.int32) for name, weight in model.named_parameters()}


def same(model, before):
    return all(torch.equal(weight, before[name]) for name, weight in bits(model).items())


def test_noise_has_the_size_of_the_parameter_and_lies_in_the_mask_alone(model):
    with torch.no_grad():
        model.blocks[2].attn.W_V[0, 0, 0] = -0.0
    before = dict(model.state_dict())
    before = {name: weight.clone() for name, weight in before.items()}
    sizes = {name: weight.numel() for name, weight in component_parameters(model).items()}
    everything = WeightMask({NAME: torch.arange(sizes[NAME] // 2, dtype=torch.int32)}, sizes)
    with frozen_outside(model, everything), noised(model, everything, factor=0.5, seed=3):
        moved = (model.blocks[2].attn.W_V - before[NAME]).detach().flatten()
        assert (moved[: sizes[NAME] // 2] != 0).all()
        assert moved[: sizes[NAME] // 2].std().item() == pytest.approx(0.5 * before[NAME].std().item(), rel=0.1)
        expected = np.random.default_rng(3).standard_normal(sizes[NAME] // 2) * 0.5 * before[NAME].std().item()
        np.testing.assert_allclose(moved[: sizes[NAME] // 2], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.blocks[2].attn.W_V.view(torch.int32), before[NAME].view(torch.int32))


def slow_dose(model, sets, mask, factor, seed):
    """One dose, weight by weight, on a model that is thrown away."""
    import copy

    noisy = copy.deepcopy(model)
    generator = np.random.default_rng(seed)
    parameters = dict(noisy.named_parameters())
    for name in sorted(mask.indices):
        sample = generator.standard_normal(len(mask.indices[name]))
        spread = factor * np.std(parameters[name].detach().double().numpy(), ddof=1)
        with torch.no_grad():
            for index, one in zip(mask.indices[name].tolist(), sample, strict=True):
                place = np.unravel_index(index, parameters[name].shape)
                parameters[name][tuple(int(axis) for axis in place)] += spread * one
    results = [recitation(noisy, rows) for rows in sets.values()]
    return {
        "exact_match": np.concatenate([one["exact_match"] for one in results]),
        "matches": np.concatenate([one["matches"] for one in results]),
        "nll": np.concatenate([one["nll"].mean("pos") for one in results]),
    }


def test_doses_equal_a_loop_over_single_weights(model, sets, mask):
    control = matched_random_weights(mask, seed=99)
    result = noise_doses(model, sets, mask, factors=FACTORS, seed=5, n_draws=2, controls={"other": control})
    assert result["mask"].values.tolist() == ["chosen"] * 3 + ["random"] * 3 + ["other"] * 3
    assert result["factor"].values.tolist() == [*FACTORS] * 3
    assert (result["n_weights"] == len(mask)).all()
    assert result["set"].values.tolist() == ["memorized"] * 6 + ["control"] * 3
    for name, one in (("chosen", mask), ("other", control)):
        for draw in range(2):
            for factor in FACTORS:
                found = result.isel(row=(result["mask"] == name) & (result["factor"] == factor)).isel(row=0, draw=draw)
                expected = slow_dose(model, sets, one, factor, [5, draw])
                np.testing.assert_array_equal(found["exact_match"], expected["exact_match"])
                np.testing.assert_array_equal(found["matches"], expected["matches"])
                np.testing.assert_allclose(found["nll"], expected["nll"], rtol=1e-4, atol=1e-4)
    rise = result["nll"] - result["nll"].isel(row=0)
    np.testing.assert_allclose(result["nll_rise"], rise.transpose(*result["nll_rise"].dims), rtol=1e-5, atol=1e-5)


def test_no_noise_changes_nothing_and_noise_does(model, sets, gradients, mask):
    doses = noise_doses(model, sets, mask, factors=FACTORS, seed=0)
    counts = noise_counts(model, sets, gradients, numbers=(0, 300), factor=2.0, seed=0)
    for result, none in ((doses, doses["factor"] == 0), (counts, counts["n_weights"] == 0)):
        untouched = np.concatenate([recitation(model, rows)["nll"].mean("pos") for rows in sets.values()])
        still = result.isel(row=none.values)
        np.testing.assert_allclose(still["nll"].isel(draw=0, row=0), untouched, rtol=1e-5, atol=1e-5)
        assert (still["nll_rise"] == 0).all()
        assert (still["exact_match"].isel(paragraph=slice(6)) == 12).all()
        moved = result.isel(row=~none.values)
        assert (moved["nll_rise"].std("draw") > 0).all()
    before = bits(model)
    with noised(model, mask, factor=0.0, seed=0):
        assert same(model, before)


def test_noise_where_nothing_matters_changes_nothing_at_all(model, sets):
    """A planted truth: what flows into a matrix of zeros cannot matter, whatever noise it carries."""
    with torch.no_grad():
        model.blocks[2].attn.W_O[1] = 0
    sizes = {name: weight.numel() for name, weight in component_parameters(model).items()}
    head = sizes[NAME] // 4
    silent = WeightMask({NAME: torch.arange(head, 2 * head, dtype=torch.int32)}, sizes)
    result = noise_doses(model, sets, silent, factors=(5.0,), seed=0)
    chosen, random = (result.isel(row=(result["mask"] == name).values) for name in ("chosen", "random"))
    assert (chosen["nll_rise"] == 0).all()
    assert (random["nll_rise"] != 0).all()
    scores = {NAME: torch.arange(sizes[NAME]).reshape(4, 32, 8).float()}
    counts = noise_counts(model, sets, scores, numbers=(20,), factor=5.0, seed=0, head=1)
    assert (counts["nll_rise"] == 0).all()  # top, random and bottom: all in the head that was asked for
    others = noise_counts(model, sets, scores, numbers=(20,), factor=5.0, seed=0, head=2)
    assert (others["nll_rise"] != 0).all()


def test_counts_are_noise_in_the_top_the_bottom_and_random_weights_of_each_component(model, sets, gradients):
    region = {"layer": 1, "matrices": ("W_V", "W_in")}
    result = noise_counts(model, sets, gradients, numbers=(0, 7, 40), factor=3.0, seed=4, n_draws=2, **region)
    assert result["mask"].values.tolist() == ["top"] * 3 + ["random"] * 3 + ["bottom"] * 3
    assert result["n_weights"].values.tolist() == [0, 7, 40] * 3
    assert (result["factor"] == 3).all()
    for number in (7, 40):
        mask = as_mask(search_weights(model, gradients, k=number, **region), model)
        for name, one in (("top", mask), ("bottom", bottom_like(mask, gradients))):
            found = result.isel(row=((result["mask"] == name) & (result["n_weights"] == number)).values, draw=1)
            expected = slow_dose(model, sets, one, 3, [4, 1])
            np.testing.assert_allclose(found["nll"].values[0], expected["nll"], rtol=1e-4, atol=1e-4)


def bottom_like(mask, gradients):
    """As many of each component with the smallest |gradient|, by full sorts."""
    indices = {}
    for name, own in mask.indices.items():
        flat = gradients[name].abs().flatten()
        size = len(flat) // (4 if "attn" in name else 1)
        found = []
        for start in range(0, len(flat), size):
            number = int(((own >= start) & (own < start + size)).sum())
            found += (start + flat[start : start + size].sort(stable=True).indices[:number]).tolist()
        indices[name] = torch.tensor(sorted(found), dtype=torch.int32)
    return WeightMask(indices, mask.sizes)


def test_seeds_reproduce_and_differ(model, sets, gradients, mask):
    one, again, other = (noise_doses(model, sets, mask, factors=(1.0,), seed=seed, n_draws=2) for seed in (1, 1, 2))
    assert one.identical(again)
    for name in ("chosen", "random"):
        own, others = (result.isel(row=(result["mask"] == name).values)["nll"] for result in (one, other))
        assert (own.values != others.values).all()
        assert (own.isel(draw=0).values != own.isel(draw=1).values).all()
    first, second = (noise_counts(model, sets, gradients, numbers=(5,), seed=1, n_draws=2) for _ in range(2))
    assert first.identical(second)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("which", ["doses", "counts"])
def test_weights_are_bit_identical_after_every_end(model, sets, gradients, mask, error, which):
    with torch.no_grad():
        for weight in component_parameters(model).values():
            weight.view(-1)[mask.indices[NAME][0].item() if weight.shape == (4, 32, 8) else 0] = -0.0
    before, at = bits(model), model_hash(model)

    def sweep():
        if which == "doses":
            return noise_doses(model, sets, mask, factors=FACTORS, seed=0, n_draws=1)
        return noise_counts(model, sets, gradients, numbers=(0, 10, 500), seed=0, n_draws=1)

    sweep()
    assert same(model, before)
    fired = []

    def fail(module, args, kwargs=None):
        fired.append(model_hash(model))
        if len(fired) == 5:
            raise error

    handle = model.ln_final.register_forward_pre_hook(fail)
    with pytest.raises(error):
        sweep()
    handle.remove()
    assert fired[-1] != at  # it failed while the noise was in
    assert same(model, before)
    assert model_hash(model) == at
    assert all(weight.grad is None for weight in model.parameters())


def test_a_dose_that_cannot_be_written_is_taken_back(model, mask, monkeypatch):
    from memhooks.localize import noised as module

    before, write, calls = bits(model), module._write_, []

    def interrupted(*given):
        calls.append(1)
        write(*given)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_", interrupted)
    with pytest.raises(KeyboardInterrupt), noised(model, mask, factor=1.0, seed=0):
        pass
    assert len(calls) == 6
    assert same(model, before)


def test_a_result_is_saved_and_read_back(model, sets, mask, tmp_path):
    result = noise_doses(model, sets, mask, factors=(0.0, 1.0), seed=0, n_draws=1)
    save_result(result, tmp_path / "noise.nc")
    assert load_result(tmp_path / "noise.nc").equals(result)


def test_what_makes_no_sweep_is_refused(model, sets, gradients, mask):
    with pytest.raises(InputError, match="no paragraph sets to measure"):
        noise_doses(model, {}, mask, seed=0)
    with pytest.raises(InputError, match="token ids must lie in"):
        noise_doses(model, {"a": Paragraphs(torch.full((1, 10), 500), 5)}, mask, seed=0)
    for seed, n_draws in ((-1, 3), (0, 0)):
        with pytest.raises(
            InputError, match=f"seed must be at least 0 and n_draws at least 1, got {seed} and {n_draws}"
        ):
            noise_doses(model, sets, mask, seed=seed, n_draws=n_draws)
    for factors in ((), (-1.0,), (float("nan"),), (float("inf"),)):
        with pytest.raises(InputError, match="factors must be one or more finite numbers, 0 or more each, got"):
            noise_doses(model, sets, mask, factors=factors, seed=0)
    with pytest.raises(InputError, match="factors must be one or more finite"):
        noise_counts(model, sets, gradients, factor=-1.0, seed=0)
    for numbers in ((), (-1,)):
        with pytest.raises(InputError, match="numbers must be one or more numbers of weights, 0 or more each, got"):
            noise_counts(model, sets, gradients, numbers=numbers, seed=0)
    with pytest.raises(InputError, match=r"k must lie in 1..256, the number of weights searched, got 1000"):
        noise_counts(model, sets, gradients, seed=0, layer=0, matrices=("W_K",), head=0)


def test_masks_that_do_not_fit_are_refused(model, sets, mask):
    with pytest.raises(InputError, match="the mask 'chosen' is empty, so no weight would get noise"):
        noise_doses(model, sets, WeightMask({}, {}), seed=0)
    foreign = WeightMask({"blocks.0.mlp.W_in": torch.tensor([1], dtype=torch.int32)}, {"blocks.0.mlp.W_in": 3})
    with pytest.raises(
        InputError, match=r"the mask 'late' belongs to another model: blocks.0.mlp.W_in has 3 entries there, 3072"
    ):
        noise_doses(model, sets, mask, seed=0, controls={"late": foreign})
    with pytest.raises(InputError, match="'random' names a row of every result; call the control something else"):
        noise_doses(model, sets, mask, seed=0, controls={"random": mask})
    with (
        pytest.raises(InputError, match="the mask 'mask' belongs to another model"),
        noised(model, foreign, factor=1.0, seed=0),
    ):
        pass
