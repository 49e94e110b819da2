import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from memhooks.errors import InputError
from memhooks.model.loading import asset
from memhooks.paragraphs.counts import load_counts, unigram_counts


def test_tokens_files_and_text_are_counted_together(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(asset("organism"))
    np.save(tmp_path / "t.npy", np.array([[1, 2], [2, 3]], dtype=np.uint16))
    (tmp_path / "t.txt").write_text("the people")
    ids = tokenizer.encode("the people", add_special_tokens=False)
    counts = unigram_counts(
        [torch.tensor([5, 5]), np.array([2]), tmp_path / "t.npy", tmp_path / "t.txt"], d_vocab=4096, tokenizer=tokenizer
    )
    expected = np.bincount([5, 5, 2, 1, 2, 2, 3, *ids], minlength=4096)
    assert counts.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.tensor([10]), r"token ids must lie in 0..9, got 10..10"),
        (torch.tensor([0.5]), "tokens must be integers"),
        ("none.npy", "no token or text file at none.npy"),
    ],
)
def test_uncountable_sources_are_refused(source, message):
    with pytest.raises(InputError, match=message):
        unigram_counts([source], d_vocab=10)


def test_text_without_tokenizer_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="text needs a tokenizer"):
        unigram_counts([tmp_path / "a.txt"], d_vocab=10)


def test_saved_counts_load_and_wrong_ones_are_refused(tmp_path):
    np.save(tmp_path / "c.npy", np.arange(10))
    assert load_counts(tmp_path / "c.npy", d_vocab=10).tolist() == list(range(10))
    with pytest.raises(InputError, match="expected 11 integer counts"):
        load_counts(tmp_path / "c.npy", d_vocab=11)
    with pytest.raises(InputError, match="no counts file"):
        load_counts(tmp_path / "d.npy", d_vocab=10)
    (tmp_path / "e.npy").write_bytes(b"junk")
    with pytest.raises(InputError, match="damaged"):
        load_counts(tmp_path / "e.npy", d_vocab=10)


def test_negative_counts_and_empty_vocabularies_are_refused(tmp_path):
    np.save(tmp_path / "c.npy", np.array([1, -2]))
    with pytest.raises(InputError, match=r"c\.npy: counts must not be negative, got -2"):
        load_counts(tmp_path / "c.npy", d_vocab=2)
    np.save(tmp_path / "c.npy", np.array([1.0]))
    with pytest.raises(InputError, match=r"c\.npy: counts must be integers, got float64"):
        load_counts(tmp_path / "c.npy", d_vocab=1)
    with pytest.raises(InputError, match="d_vocab must be at least 1, got 0"):
        unigram_counts([], d_vocab=0)
    np.save(tmp_path / "t.npy", np.array([10]))
    with pytest.raises(InputError, match=r"t\.npy: token ids must lie in 0\.\.9, got 10\.\.10"):
        unigram_counts([tmp_path / "t.npy"], d_vocab=10)


def test_openwebtext_counts_load(shared_data):
    counts = load_counts(shared_data / "unigrams" / "openwebtext_gpt2.npy", d_vocab=50257)
    assert int((counts == 0).sum()) == 166
