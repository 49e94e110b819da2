import pytest
import torch
from safetensors.torch import load_file

from memhooks.errors import InputError
from memhooks.localize.masks.random_anywhere import random_weights
from memhooks.model.loading import load_model
from memhooks.model.provenance import model_hash
from memhooks.unlearn.delta import delta_of, load_delta, save_delta
from memhooks.unlearn.unlearning import restored
from tests.command_line import assert_refused, invoke
from tests.conftest import tiny_neo

ABOUT = {"forget": [f"A{i}" for i in range(9)], "recipe": {"objective": "NPO()", "lr": 0.001, "seed": 0}}


@pytest.fixture
def folder(tmp_path):
    """A tiny model's folder, another model's, and a change of the first."""
    tiny_neo().save_pretrained(tmp_path / "neo")
    tiny_neo(seed=1).save_pretrained(tmp_path / "stranger")
    save_delta(changed(load_model(tmp_path / "neo")), tmp_path / "d.safetensors")
    return tmp_path


def changed(model):
    """The change that doubles 1 % of the weights."""
    mask = random_weights(model, fraction=0.01, seed=0)
    before = model_hash(model)
    with restored(model), torch.no_grad():
        old = {name: weight.clone() for name, weight in model.named_parameters()}
        for name, own in mask.indices.items():
            model.get_parameter(name).view(-1)[own.long()] *= 2
        return delta_of(model, mask, old, before=before, about=ABOUT)


def bits(one):
    return one.detach().flatten().view(torch.int32)


def test_applied_weights_equal_the_models_bit_for_bit_outside_the_mask_and_revert_brings_it_back(folder):
    change = load_delta(folder / "d.safetensors")
    done = invoke("apply", folder / "d.safetensors", "--model", folder / "neo", "--out", folder / "new")
    assert done.exit_code == 0
    before, after = load_model(folder / "neo"), load_model(folder / "new")
    n_moved = 0
    for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        chosen = torch.zeros(old.numel(), dtype=torch.bool)
        if name in change.indices:
            chosen[change.indices[name].long()] = True
        torch.testing.assert_close(new.flatten()[chosen], 2 * old.flatten()[chosen], rtol=0, atol=0)
        assert torch.equal(bits(old)[~chosen], bits(new)[~chosen])
        n_moved += int((bits(old) != bits(new)).sum())
    assert n_moved == change.moved > 400
    files = [load_file(folder / name / "model.safetensors") for name in ("neo", "new")]
    assert sum(int((bits(files[0][name]) != bits(files[1][name])).sum()) for name in files[0]) == n_moved
    invoke("revert", folder / "d.safetensors", "--model", folder / "new", "--out", folder / "back")
    assert model_hash(load_model(folder / "back")) == model_hash(before) == change.before
    again = load_file(folder / "back" / "model.safetensors")
    assert all(torch.equal(bits(one), bits(again[name])) for name, one in files[0].items())


def test_it_says_what_moved_and_which_run_the_change_is_of(folder):
    change = load_delta(folder / "d.safetensors")
    said = invoke("apply", folder / "d.safetensors", "--model", folder / "neo", "--out", folder / "new").stdout
    for text in (
        f"applied: {change.moved:,} of ",
        "every other weight is bit-identical",
        "made to forget: A0, A1, A2, A3, A4, A5, A6, A7 and 1 more",
        "recipe: objective NPO(), lr 0.001, seed 0",
        f"weights {change.before} -> {change.after}; the folder was read back and holds them",
    ):
        assert text in said, text
    back = invoke("revert", folder / "d.safetensors", "--model", folder / "new", "--out", folder / "back").stdout
    assert f"weights {change.after} -> {change.before}" in back


def test_a_change_without_provenance_is_applied_too(folder):
    model = load_model(folder / "neo")
    mask = random_weights(model, fraction=0.01, seed=0)
    nothing = delta_of(model, mask, dict(model.named_parameters()), before=model_hash(model))
    save_delta(nothing, folder / "n.safetensors")
    said = invoke("apply", folder / "n.safetensors", "--model", folder / "neo", "--out", folder / "new").stdout
    assert "applied: 0 of " in said
    assert "recipe" not in said


@pytest.mark.parametrize("command", ["apply", "revert"])
def test_unusable_input_is_refused_in_one_line(folder, monkeypatch, capsys, command):
    monkeypatch.chdir(folder)
    torch.save(torch.zeros(3), "t.safetensors")
    for arguments, message in (
        (["nowhere.safetensors", "--model", "neo", "--out", "new"], "no delta file at nowhere.safetensors"),
        (["d.safetensors", "--model", "nowhere", "--out", "new"], "no model folder at nowhere; bundled models are"),
        (["d.safetensors", "--model", "neo", "--out", "stranger"], "stranger exists already; give a new folder"),
        (["d.safetensors", "--model", "neo", "--out", "/proc/nowhere/new"], "cannot write to /proc/nowhere"),
        (["t.safetensors", "--model", "neo", "--out", "new"], "t.safetensors: not a delta file, or damaged"),
        (["neo/model.safetensors", "--model", "neo", "--out", "new"], "model.safetensors: not a delta file"),
        (
            ["d.safetensors", "--model", "stranger", "--out", "new"],
            f"cannot {command} this delta: it belongs to a model",
        ),
    ):
        assert_refused(monkeypatch, capsys, [command, *arguments], message)
    assert not (folder / "new").exists()


def test_a_model_in_another_state_is_refused(folder):
    with pytest.raises(InputError, match="cannot revert this delta"):
        invoke("revert", folder / "d.safetensors", "--model", folder / "neo", "--out", folder / "new")
    invoke("apply", folder / "d.safetensors", "--model", folder / "neo", "--out", folder / "new")
    with pytest.raises(InputError, match="it is applied already"):
        invoke("apply", folder / "d.safetensors", "--model", folder / "new", "--out", folder / "twice")
    assert not (folder / "twice").exists()
