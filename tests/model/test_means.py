import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from memhooks.errors import InputError
from memhooks.model.ablated import ablated
from memhooks.model.means import _averaged, activation_means, load_means
from memhooks.model.provenance import model_hash, tensor_hash

ROWS = torch.randint(101, (7, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_streamed_means_equal_the_mean_of_everything_at_once(model, batch_size):
    _, cache = model.run_with_cache(ROWS)
    means = activation_means(model, ROWS, sites=("z", "post", "pattern"), batch_size=batch_size)
    assert len(means.values) == 3 * 4
    for name, mean in means.values.items():
        torch.testing.assert_close(mean, cache[name].double().mean(0), rtol=1e-9, atol=1e-9)
    assert means.tokens_hash == tensor_hash(ROWS)


def test_means_over_positions_are_one_for_all_and_fit_any_length(model):
    _, cache = model.run_with_cache(ROWS)
    means = activation_means(model, ROWS, over="positions")
    torch.testing.assert_close(
        means.values["blocks.2.attn.hook_z"][0], cache["z", 2].double().mean((0, 1)), rtol=1e-5, atol=1e-6
    )
    with ablated(model, how="mean", means=means, heads=[(2, 1)]):
        assert torch.isfinite(model(ROWS[:, :5])).all()


def test_means_survive_a_round_trip_to_disk(model, tmp_path):
    means = activation_means(model, ROWS)
    means.save(tmp_path / "m.safetensors")
    again = load_means(tmp_path / "m.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    assert dataclasses.replace(again, values={}) == dataclasses.replace(means, values={})
    assert all(torch.equal(again.values[name], mean) for name, mean in means.values.items())


def test_means_of_other_weights_are_refused(model):
    means = activation_means(model, ROWS)
    with torch.no_grad():
        model.W_E[0, 0] += 1
    with pytest.raises(InputError, match="the means come from other weights"):
        with ablated(model, how="mean", means=means, heads=[(0, 0)]):
            pass


def test_means_that_lack_a_site_are_refused(model):
    means = activation_means(model, ROWS)
    with pytest.raises(InputError, match=r"the means hold no blocks.1.mlp.hook_post; add it with .*'post'"):
        with ablated(model, how="mean", means=means, neurons=[(1, 0)]):
            pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": ("zz",)}, r"no hook point"),
        ({"sites": ("pattern",), "over": "positions"}, "hook_pattern has no mean over positions"),
        ({"sites": ("attn",), "over": "positions"}, "hook_pattern has no mean over positions"),
        ({"sites": ("z3",)}, "the layer comes second"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"sites": ()}, "no hook points given"),
    ],
)
def test_means_that_cannot_be_taken_are_refused(model, arguments, message):
    with pytest.raises(InputError, match=message):
        activation_means(model, ROWS, **arguments)


def test_files_that_hold_no_means_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="no means file at"):
        load_means(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("x")
    with pytest.raises(InputError, match=r"text.safetensors: not a file of activation means"):
        load_means(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match="not a file of activation means"):
        load_means(tmp_path / "bare.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors", {"means": json.dumps({"x": 1})})
    with pytest.raises(InputError, match="not a file of activation means"):
        load_means(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"saved as \.safetensors, got m.pt"):
        activation_means(model, ROWS).save(tmp_path / "m.pt")


def test_a_norm_that_fires_three_times_a_pass_is_averaged_once(model):
    _, cache = model.run_with_cache(ROWS)
    with_norms = activation_means(model, ROWS, sites=("z", "resid_pre"), batch_size=3)
    assert set(with_norms.values) == {f"blocks.{i}.{s}" for i in range(4) for s in ("attn.hook_z", "hook_resid_pre")}
    name = "blocks.1.ln1.hook_scale"
    with _averaged(model, [name]) as sums:
        model(ROWS)
    total, n_rows = sums[name]
    torch.testing.assert_close(total / n_rows, cache[name].double().mean(0))


def test_the_fingerprint_is_taken_anew_when_a_weight_changes(model):
    before = model_hash(model)
    assert model_hash(model) == before
    with torch.no_grad():
        model.blocks[0].mlp.W_in[3, 4] += 1
    after = model_hash(model)
    assert after != before
    model.cfg.window_size += 1
    assert model_hash(model) not in (before, after)
