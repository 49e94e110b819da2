import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from memhooks.errors import InputError
from memhooks.model.loading import asset, load_model


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
