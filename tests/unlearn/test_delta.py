import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.top import top_weights
from memhooks.model.provenance import _HASHES, model_hash
from memhooks.unlearn.delta import load_delta, save_delta
from memhooks.unlearn.recipe import Recipe
from memhooks.unlearn.unlearning import unlearning_delta


def made(model, paragraphs, *, rows=(0,), lr=1e-2):
    forget = paragraphs.select(list(rows))
    mask = top_weights(weight_gradients(model, forget), fraction=0.01)
    return unlearning_delta(model, forget, paragraphs.select([4, 5]), mask, recipe=Recipe(lr=lr, n_steps=3)).delta


def bits(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def assert_same(model, before):
    for name, weight in model.named_parameters():
        assert torch.equal(weight.view(torch.int32), before[name].view(torch.int32)), name


def fresh_hash(model):
    _HASHES.pop(model, None)
    return model_hash(model)


def test_apply_and_revert_bit_for_bit_also_through_a_file(model, paragraphs, tmp_path):
    before = bits(model)
    delta = made(model, paragraphs)
    assert_same(model, before)  # making it left the model alone
    save_delta(delta, tmp_path / "one.safetensors")
    loaded = load_delta(tmp_path / "one.safetensors")
    assert dict(loaded.about) == dict(delta.about)
    for one in (delta, loaded):
        one.apply_(model)
        assert model_hash(model) == fresh_hash(model) == delta.after
        changed = sum(int((weight != before[name]).sum()) for name, weight in model.named_parameters())
        assert changed == delta.moved > 0
        one.revert_(model)
        assert model_hash(model) == fresh_hash(model) == delta.before
        assert_same(model, before)


def test_many_deltas_share_one_model(model, paragraphs):
    before = bits(model)
    deltas = [made(model, paragraphs, rows=[row]) for row in range(4)]
    assert len({delta.after for delta in deltas}) == 4
    for delta in deltas:
        with delta.applied(model):
            assert model_hash(model) == delta.after
        assert_same(model, before)


def test_deltas_can_follow_each_other_and_go_back_in_turn(model, paragraphs):
    before = bits(model)
    first = made(model, paragraphs, rows=[0])
    first.apply_(model)
    second = made(model, paragraphs, rows=[1])
    second.apply_(model)
    with pytest.raises(InputError, match=r"cannot revert this delta: it belongs to a model with the weights"):
        first.revert_(model)
    second.revert_(model)
    first.revert_(model)
    assert_same(model, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_inside_applied_takes_the_change_back(model, paragraphs, error):
    before = bits(model)
    delta = made(model, paragraphs)
    with pytest.raises(error), delta.applied(model), torch.no_grad():
        raise error
    assert_same(model, before)


def test_an_edit_inside_applied_is_said_and_not_hidden(model, paragraphs):
    delta = made(model, paragraphs)
    with pytest.raises(RuntimeError, match="the weights were edited while a delta was applied"):
        with delta.applied(model), torch.no_grad():
            model.blocks[1].mlp.b_in.add_(1.0)
    assert model_hash(model) == fresh_hash(model) != delta.before
    with torch.no_grad():
        model.blocks[1].mlp.b_in.sub_(1.0)


def test_a_delta_that_lies_about_what_comes_of_it_is_taken_back(model, paragraphs, tmp_path):
    before, delta = bits(model), made(model, paragraphs)
    path = tmp_path / "one.safetensors"
    save_delta(replace(delta, after="0" * 16), path)
    with pytest.raises(InputError, match="what comes of it is not what it says"):
        load_delta(path).apply_(model)
    assert_same(model, before)
    assert model_hash(model) == fresh_hash(model)


def test_a_flipped_byte_is_noticed(model, paragraphs, tmp_path):
    path = tmp_path / "one.safetensors"
    save_delta(made(model, paragraphs), path)
    content = path.read_bytes()
    for place in range(len(content) - 1, 0, -(len(content) // 40)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        with pytest.raises(InputError):
            load_delta(path)


@pytest.mark.parametrize("change", ["dtype", "place", "name"])
def test_a_delta_that_does_not_fit_is_refused_before_anything_is_written(model, paragraphs, change):
    before, delta = bits(model), made(model, paragraphs)
    name = list(delta.indices)[-1]
    if change == "dtype":
        other = replace(delta, new={**delta.new, name: delta.new[name].double()})
    elif change == "place":
        other = replace(delta, indices={**delta.indices, name: delta.indices[name] + 10**6})
    else:
        rest = ({("nothing" if key == name else key): one for key, one in part.items()} for part in parts_of(delta))
        other = replace(delta, **dict(zip(("indices", "old", "new"), rest, strict=True)))
    with pytest.raises(InputError, match="cannot apply this delta: it holds"):
        other.apply_(model)
    assert_same(model, before)


def parts_of(delta):
    return delta.indices, delta.old, delta.new


@pytest.mark.parametrize("line", range(12))
def test_ctrl_c_anywhere_in_applying_leaves_all_or_nothing(model, paragraphs, line):
    """Interrupt at one line after the other of what `applied` runs."""
    before, delta = bits(model), made(model, paragraphs)
    seen = 0

    def interrupt(frame, event, argument):
        nonlocal seen
        if not frame.f_code.co_filename.endswith("delta.py") or frame.f_code.co_name not in ("applied", "_exchange_"):
            return interrupt if event == "call" else None
        if event == "line":
            seen += 1
            if seen == line + 1:
                sys.settrace(None)
                raise KeyboardInterrupt
        return interrupt

    model_hash(model)
    try:
        sys.settrace(interrupt)
        with delta.applied(model):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    assert_same(model, before)


def test_a_delta_of_another_model_is_refused(model, paragraphs):
    delta = made(model, paragraphs)
    with torch.no_grad():
        model.blocks[0].mlp.W_in[0, 0] += 1.0
    with pytest.raises(InputError, match=r"cannot apply this delta: it belongs to a model with the weights"):
        delta.apply_(model)
    with torch.no_grad():
        model.blocks[0].mlp.W_in[0, 0] -= 1.0


def test_applying_twice_says_so(model, paragraphs):
    delta = made(model, paragraphs)
    delta.apply_(model)
    with pytest.raises(InputError, match="it is applied already"):
        delta.apply_(model)
    delta.revert_(model)
    with pytest.raises(InputError, match="it is not applied"):
        delta.revert_(model)


def test_an_edit_behind_torchs_back_is_noticed(model, paragraphs):
    delta = made(model, paragraphs)
    model_hash(model)
    name, own = next((name, own) for name, own in delta.indices.items() if len(own))
    dict(model.named_parameters())[name].data.view(-1)[own[0]] += 1.0
    with pytest.raises(InputError, match="edited behind torch's back"):
        delta.apply_(model)


def test_files_that_are_no_delta_are_refused(tmp_path, model, paragraphs):
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="no delta file at"):
        load_delta(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a delta file, or damaged"):
        load_delta(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="not a delta file"):
        load_delta(path)
    with pytest.raises(InputError, match=r"saved as \.safetensors"):
        save_delta(made(model, paragraphs), tmp_path / "x.pt")


@pytest.mark.parametrize("damage", ["indices", "old", "new"])
def test_a_delta_with_a_part_missing_or_not_finite_is_refused(tmp_path, model, paragraphs, damage):
    from memhooks.tensor_files import load_tensors, save_tensors

    path = tmp_path / "x.safetensors"
    save_delta(made(model, paragraphs), path)
    about, tensors = load_tensors(path, "delta")
    name = next(name for name in tensors if name.endswith(damage))
    save_tensors(path, "delta", about, {key: one for key, one in tensors.items() if key != name})
    with pytest.raises(InputError, match="damaged"):
        load_delta(path)
    if damage != "indices":
        save_tensors(path, "delta", about, tensors | {name: torch.full_like(tensors[name], torch.nan)})
        with pytest.raises(InputError, match="are not numbers"):
            load_delta(path)
