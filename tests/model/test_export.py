import pytest
import torch
from transformers import AutoTokenizer

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation
from memhooks.model.export import export_model
from memhooks.model.loading import asset, load_model
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from tests.conftest import tiny_neo


def log_probs(model, tokens):
    with torch.no_grad():
        logits = model(tokens)
    return (logits if isinstance(logits, torch.Tensor) else logits.logits).log_softmax(-1)


@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_folder_round_trip_with_and_without_tokenizer(tmp_path, with_tokenizer):
    neo = tiny_neo(vocab=4096)
    neo.save_pretrained(tmp_path / "neo")
    if with_tokenizer:
        AutoTokenizer.from_pretrained(asset("organism")).save_pretrained(tmp_path / "neo")
    hooked = load_model(tmp_path / "neo")
    assert (hooked.tokenizer is not None) is with_tokenizer
    export_model(hooked, tmp_path / "again")
    again = load_model(str(tmp_path / "again"))
    assert model_hash(again) == model_hash(hooked)
    assert (again.tokenizer is not None) is with_tokenizer


def test_an_exported_model_loads_in_plain_hugging_face_with_the_same_log_probabilities(model, tmp_path):
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        model.blocks[1].mlp.W_in.add_(0.1)
    folder = export_model(model, tmp_path / "edited")
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.arange(40)[None]
    torch.testing.assert_close(log_probs(theirs, tokens), log_probs(model, tokens), rtol=1e-5, atol=1e-5)


def test_a_random_model_of_the_125m_shape_loads_measures_and_exports(tmp_path):
    neo = tiny_neo(window=256, n_ctx=2048, layers=12, d_model=768, heads=12, d_mlp=3072, vocab=50257, scale=1.0)
    hooked = load_model(neo)
    tokens = torch.randint(50257, (2, 100), generator=torch.Generator().manual_seed(0))
    result = recitation(hooked, Paragraphs(tokens))
    assert result["exact_match"].shape == (2,)
    assert float(result["nll"].mean()) > 8
    export_model(hooked, tmp_path / "exported")
    assert (tmp_path / "exported" / "model.safetensors").stat().st_size > 4e8


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.embed.W_E.data.add_(0.1), "embedding and unembedding differ"),
        (lambda m: m.blocks[0].attn.b_Q.data.add_(1.0), "no place for blocks.0.attn.b_Q"),
    ],
)
def test_what_hugging_face_cannot_hold_is_not_exported(model, tmp_path, spoil, message):
    spoil(model)
    with pytest.raises(InputError, match=message):
        export_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_processed_models_are_not_exported(neo, tmp_path):
    with pytest.raises(InputError, match="load it with processed=False"):
        export_model(load_model(neo, processed=True), tmp_path / "out")


def test_an_existing_folder_is_not_overwritten(model, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        export_model(model, tmp_path)
