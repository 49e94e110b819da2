import json
import shutil
import time

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation
from memhooks.model.decoding import greedy_continuation
from memhooks.model.export import export_model
from memhooks.model.loading import asset, is_processed, load_model
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from tests.conftest import tiny_neo


def log_probs(model, tokens):
    with torch.no_grad():
        logits = model(tokens)
    return (logits if isinstance(logits, torch.Tensor) else logits.logits).log_softmax(-1)


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("window", [4, 8, 64])
def test_log_probabilities_equal_hugging_face_beyond_the_local_window(window, processed):
    neo = tiny_neo(window=window)
    tokens = torch.randint(101, (3, 60), generator=torch.Generator().manual_seed(2))
    hooked = load_model(neo, processed=processed)
    torch.testing.assert_close(log_probs(hooked, tokens), log_probs(neo, tokens), rtol=1e-5, atol=1e-5)
    assert is_processed(hooked) is processed


@pytest.mark.parametrize("processed", [False, True])
def test_float64_equals_an_independent_float64_gpt_neo(processed):
    neo = tiny_neo(seed=3).double()
    with torch.no_grad():
        for weight in neo.parameters():
            weight.mul_(1.0 + 1e-9)  # not representable in float32
    tokens = torch.randint(101, (2, 40), generator=torch.Generator().manual_seed(2))
    hooked = load_model(neo, dtype=torch.float64, processed=processed)
    torch.testing.assert_close(log_probs(hooked, tokens), slow_neo(neo, tokens).log_softmax(-1), rtol=1e-9, atol=1e-9)


def slow_neo(neo, tokens):
    """GPT-Neo from its paper-and-pencil definition; Hugging Face's own rounds attention to float32."""
    w = neo.state_dict()
    config = neo.config
    n, d_head = tokens.shape[1], config.hidden_size // config.num_heads

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + config.layer_norm_epsilon).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][:n]
    query, key = torch.arange(n)[:, None], torch.arange(n)[None]
    for layer, kind in enumerate(config.attention_layers):
        block = f"transformer.h.{layer}"
        seen = (key <= query) & ((key > query - config.window_size) | torch.tensor(kind == "global"))
        inner = norm(x, f"{block}.ln_1")
        q, k, v = (
            (inner @ w[f"{block}.attn.attention.{name}_proj.weight"].T)
            .unflatten(-1, (config.num_heads, d_head))
            .transpose(1, 2)
            for name in "qkv"
        )
        pattern = (q @ k.transpose(-1, -2)).masked_fill(~seen, float("-inf")).softmax(-1)
        out = (pattern @ v).transpose(1, 2).flatten(2)
        x = x + out @ w[f"{block}.attn.attention.out_proj.weight"].T + w[f"{block}.attn.attention.out_proj.bias"]
        hidden = norm(x, f"{block}.ln_2") @ w[f"{block}.mlp.c_fc.weight"].T + w[f"{block}.mlp.c_fc.bias"]
        hidden = 0.5 * hidden * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
        x = x + hidden @ w[f"{block}.mlp.c_proj.weight"].T + w[f"{block}.mlp.c_proj.bias"]
    return norm(x, "transformer.ln_f") @ w["transformer.wte.weight"].T


def test_training_the_hooked_model_never_reaches_the_source(neo):
    before = {name: weight.clone() for name, weight in neo.state_dict().items()}
    hooked = load_model(neo)
    with torch.no_grad():
        for weight in hooked.parameters():
            weight.zero_()
    assert all(torch.equal(weight, before[name]) for name, weight in neo.state_dict().items())


def test_a_setting_the_conversion_does_not_know_is_named_by_its_layer(neo):
    neo.transformer.h[2].mlp.act = torch.nn.ReLU()
    with pytest.raises(InputError, match=r"differs from Hugging Face by .* first at layer 2"):
        load_model(neo)


@pytest.mark.parametrize("processed", [False, True])
def test_the_first_differing_layer_may_be_the_last(neo, processed):
    neo.transformer.h[3].mlp.act = torch.nn.ReLU()
    with pytest.raises(InputError, match="first at layer 3 or the unembedding"):
        load_model(neo, processed=processed)


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
    tokens = torch.randint(50257, (8, 100), generator=torch.Generator().manual_seed(0))
    result = recitation(hooked, Paragraphs(tokens))
    assert result["exact_match"].shape == (8,)
    assert float(result["nll"].mean()) > 8
    export_model(hooked, tmp_path / "exported")
    assert (tmp_path / "exported" / "model.safetensors").stat().st_size > 4e8


def test_the_bundled_model_loads_in_two_seconds():
    start = time.perf_counter()
    load_model("organism")
    # The promise is 2 s on an idle machine; a busy one gets a margin, and a broken promise still fails.
    assert time.perf_counter() - start < 6


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: shutil.rmtree(f), "no model folder at"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (
            lambda f: (f / "config.json").write_text(json.dumps({"model_type": "llama"})),
            "holds a 'llama' model; supported: GPT-Neo",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "no weights; expected one of"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x10" * 200), "damaged or truncated safetensors"),
        (lambda f: truncate(f / "model.safetensors"), "damaged or truncated safetensors"),
        (
            lambda f: edit_config(
                f, num_layers=6, attention_types=[[["global", "local"], 3]], attention_layers=["global", "local"] * 3
            ),
            "weights are missing",
        ),
        (lambda f: edit_config(f, hidden_size=64), "the weights cannot be read"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "the tokenizer cannot be read"),
    ],
)
def test_unusable_folders_are_refused_with_a_reason(tmp_path, neo, prepare, message):
    folder = tmp_path / "neo"
    neo.save_pretrained(folder)
    prepare(folder)
    with pytest.raises(InputError, match=message):
        load_model(folder)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_pickle_that_is_not_plain_tensors_is_never_run(tmp_path, neo):
    folder = tmp_path / "neo"
    neo.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    flag = tmp_path / "ran"
    torch.save({"weights": Trap(flag)}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="only plain tensors are loaded"):
        load_model(folder)
    assert not flag.exists()


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


def test_nan_weights_are_refused(neo):
    with torch.no_grad():
        neo.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"NaN or infinite weights in transformer.h.1.mlp.c_fc.weight"):
        load_model(neo)


def test_other_model_classes_are_refused():
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=10))
    with pytest.raises(InputError, match="got GPT2LMHeadModel; supported: GPT-Neo"):
        load_model(other)


def test_a_tokenizer_of_another_vocabulary_is_refused(neo):
    tokenizer = AutoTokenizer.from_pretrained(asset("organism"))
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    with pytest.raises(InputError, match="the tokenizer has 4096 tokens, the model 101"):
        load_model(neo, tokenizer=tokenizer)


def test_a_hub_name_without_network_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="neither a local folder nor to be had from the hub"):
        load_model("nobody/no-such-model")


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casts_happen_after_the_comparison(neo, dtype):
    assert load_model(neo, dtype=dtype).W_E.dtype == dtype


def test_greedy_decoding_equals_hugging_face_on_every_token(neo, model):
    prefix = torch.randint(101, (5, 12), generator=torch.Generator().manual_seed(3))
    theirs = neo.generate(prefix, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)[:, 12:]
    assert torch.equal(greedy_continuation(model, prefix, n_tokens=40), theirs)


def test_greedy_decoding_equals_hugging_face_with_a_tokenizer_attached(organism):
    from transformers import GPTNeoForCausalLM

    neo = GPTNeoForCausalLM.from_pretrained(asset("organism"), dtype=torch.float32).eval()
    prefix = torch.randint(1, 4096, (4, 50), generator=torch.Generator().manual_seed(3))
    theirs = neo.generate(prefix, max_new_tokens=50, do_sample=False, eos_token_id=None, pad_token_id=0)[:, 50:]
    assert organism.tokenizer is not None
    assert torch.equal(greedy_continuation(organism, prefix, n_tokens=50), theirs)


@pytest.mark.parametrize(
    ("prefix", "n_tokens", "message"),
    [
        (torch.zeros(1, 60, dtype=torch.long), 10, "70 tokens do not fit the model's context of 64"),
        (torch.full((1, 4), 101), 2, r"token ids must lie in 0..100 .* got 101..101"),
        (torch.full((1, 4), -1), 2, "token ids must lie in"),
        (torch.zeros(1, 4, dtype=torch.long), 0, "n_tokens must be at least 1"),
        (torch.zeros(0, 4, dtype=torch.long), 2, "non-empty"),
    ],
)
def test_what_cannot_be_decoded_is_refused(model, prefix, n_tokens, message):
    with pytest.raises(InputError, match=message):
        greedy_continuation(model, prefix, n_tokens=n_tokens)
