import random
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from memhooks.errors import InputError
from memhooks.localize.masks.files import load_mask, save_mask
from memhooks.localize.masks.random_anywhere import random_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.tensor_files import load_tensors, save_tensors

UNPICKLED: list[object] = []
sys.addaudithook(lambda event, args: UNPICKLED.append(args) if event == "pickle.find_class" else None)


@pytest.fixture
def mask(model):
    return random_weights(model, fraction=0.01, seed=0)


def rewritten(path, tensors=None, **changes):
    """The same file with another header or other tensors, and a checksum that fits."""
    about, own = load_tensors(path, "mask")
    save_tensors(path, "mask", about | changes, own if tensors is None else tensors)


def test_a_mask_is_saved_and_read_back(model, mask, tmp_path):
    path = tmp_path / "mask.safetensors"
    save_mask(mask, path)
    found = load_mask(path)
    assert found == mask
    assert found.check(model).model_hash == mask.model_hash
    assert path.stat().st_size < 4 * len(mask) + 8000
    assert [one.name for one in tmp_path.iterdir()] == ["mask.safetensors"]
    about, _ = load_tensors(path, "mask")
    assert about["format"] == 1
    assert about["versions"]["version_memhooks"]


def test_empty_and_unbound_masks_are_saved_too(tmp_path):
    mask = WeightMask({"a": torch.zeros(0, dtype=torch.int32)}, {"a": 5, "b": 3})
    save_mask(mask, str(tmp_path / "m.safetensors"))
    assert load_mask(str(tmp_path / "m.safetensors")) == mask


def test_places_to_save_that_do_not_work_are_refused(mask, tmp_path):
    with pytest.raises(InputError, match=r"a mask is saved as \.safetensors, got mask\.pt"):
        save_mask(mask, tmp_path / "mask.pt")
    with pytest.raises(InputError, match=r"no folder .*to save the mask in"):
        save_mask(mask, tmp_path / "none" / "mask.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "a mask of format 2, this version reads 1"),
        ({"sizes": {"a": 5}}, "indices for blocks.*no size"),
        ({"sizes": [5]}, "positive 32-bit integer"),
        ({"sizes": {"a": 2**31}}, "positive 32-bit integer"),
        ({"sizes": {"a": -1}}, "positive 32-bit integer"),
        ({"tensors": {"a": torch.tensor([1.0])}, "sizes": {"a": 5}}, "flat and int32, got torch.float32"),
        ({"tensors": {"a": torch.tensor([5], dtype=torch.int32)}, "sizes": {"a": 5}}, r"must lie in 0\.\.4"),
        ({"tensors": {"a": torch.tensor([2, 1], dtype=torch.int32)}, "sizes": {"a": 5}}, "sorted"),
    ],
)
def test_files_with_other_content_are_refused_by_name(mask, tmp_path, changes, message):
    path = tmp_path / "mask.safetensors"
    save_mask(mask, path)
    rewritten(path, **changes)
    with pytest.raises(InputError, match=rf"mask\.safetensors.*{message}"):
        load_mask(path)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no mask file at"):
        load_mask(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="aaaa"):
        load_mask("a" * 5000)
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(3)}, other)
    with pytest.raises(InputError, match=r"other\.safetensors: not a mask file"):
        load_mask(other)
    for header in ("[" * 100_000, "[]", "3", "x"):
        save_file({"a": torch.ones(3)}, other, {"memhooks mask": header})
        with pytest.raises(InputError, match=r"other\.safetensors: not a mask file"):
            load_mask(other)
    save_file({"a": torch.ones(3)}, other, {"memhooks mask": "{}", "checksum": "0"})
    with pytest.raises(InputError, match=r"other\.safetensors: damaged, its checksum differs"):
        load_mask(other)
    UNPICKLED.clear()
    torch.save({"a": torch.ones(3)}, other)
    with pytest.raises(InputError, match=r"other\.safetensors: not a mask file, or damaged"):
        load_mask(other)
    assert not UNPICKLED


def test_a_damaged_file_is_refused_or_is_the_same_mask(mask, tmp_path):
    path = tmp_path / "mask.safetensors"
    save_mask(mask, path)
    content = path.read_bytes()

    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(st.none() | st.floats(0, 1, exclude_max=True), st.integers(1, 4), st.integers(0, 2**32))
    def check(keep, n_flips, seed):
        draw = random.Random(seed)
        damaged = bytearray(content if keep is None else content[: int(keep * len(content))])
        for _ in range(n_flips if keep is None else 0):
            place = draw.choice([draw.randrange(min(3000, len(damaged))), draw.randrange(len(damaged))])
            damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(damaged))
        found, refusal = mask, "mask.safetensors"
        try:
            found = load_mask(path)
        except InputError as error:
            refusal = str(error)
        assert found == mask
        assert "mask.safetensors" in refusal

    check()
