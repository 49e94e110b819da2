import subprocess
import sys

import pytest
import torch

from memhooks.model.loading import is_processed, load_model
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casts_happen_after_the_comparison(neo, dtype):
    assert load_model(neo, dtype=dtype).W_E.dtype == dtype


def test_a_transformer_lens_without_the_class_is_named_in_one_message():
    script = "import sys, types; sys.modules['transformer_lens'] = types.ModuleType('x'); import memhooks.model.loading"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "memhooks needs transformer-lens>=3.9,<4, found 3.9.0, which has no HookedTransformer" in done.stderr
