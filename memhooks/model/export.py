"""Writes a hooked GPT-Neo back as a Hugging Face folder, with the same log-probabilities."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel, is_processed
from memhooks.model.parity import check_parity


def export_model(model: HookedModel, folder: str | Path) -> Path:
    """Save weights (safetensors), configuration and tokenizer; the folder appears whole or not at all.

    Raises:
        InputError: the folder exists, or the model has what Hugging Face's GPT-Neo cannot hold.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> with TemporaryDirectory() as place:
        ...     folder = memhooks.export_model(model, f"{place}/mine")
        ...     again = memhooks.load_model(folder)
        >>> again.cfg.n_layers
        8
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists already; give a new folder")
    check_writable(folder.parent)
    exported = to_hugging_face(model)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as partial:
        whole = Path(partial) / folder.name
        exported.save_pretrained(whole)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(whole)
        whole.rename(folder)
    return folder


def to_hugging_face(model: HookedModel) -> GPTNeoForCausalLM:
    """The same model as a `GPTNeoForCausalLM`, compared with the hooked one before it is returned.

    Raises:
        InputError: folded or centred weights, untied embeddings, or biases that GPT-Neo lacks.
    """
    _check_exportable(model)
    cfg = model.cfg
    config = GPTNeoConfig(
        vocab_size=cfg.d_vocab,
        max_position_embeddings=cfg.n_ctx,
        hidden_size=cfg.d_model,
        num_layers=cfg.n_layers,
        attention_types=[[[kind], 1] for kind in cfg.attn_types or ["global"] * cfg.n_layers],
        num_heads=cfg.n_heads,
        intermediate_size=cfg.d_mlp,
        window_size=cast(int, cfg.window_size),
        activation_function=cfg.act_fn,
        layer_norm_epsilon=cfg.eps,
        bos_token_id=getattr(model.tokenizer, "bos_token_id", None),  # unknown without a tokenizer
        eos_token_id=getattr(model.tokenizer, "eos_token_id", None),
    )
    exported = GPTNeoForCausalLM(config).eval()
    cast(nn.Module, exported).to(cfg.dtype)  # in place
    report = exported.load_state_dict(_hugging_face_weights(model), strict=False)
    exported.tie_weights()
    lost = [name for name in (*report.missing_keys, *report.unexpected_keys) if name != "lm_head.weight"]
    if lost:
        raise InputError(f"the export does not know {', '.join(lost[:3])}")
    exact = model
    if cfg.dtype not in (torch.float32, torch.float64):  # rounding would hide an error: compare in float32
        exact = copy.deepcopy(model)
        exact.to(torch.float32, print_details=False)
    check_parity(exact, exported)
    return exported


def check_output_file(path: Path) -> None:
    """Refuse, before any work, an output file that cannot be written.

    Raises:
        InputError: it is a folder, or its folder cannot be written to.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file")
    check_writable(path.parent)


def check_writable(folder: Path) -> None:
    """Refuse, before any work, a folder in which nothing can be written.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".memhooks-write-test"
        probe.touch()
        probe.unlink(missing_ok=True)  # of two at once, one comes first
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); choose another output folder") from error


def _check_exportable(model: HookedModel) -> None:
    if is_processed(model):
        raise InputError(
            "a processed model has its layer norms folded into other weights; load it with processed=False to export it"
        )
    if not torch.equal(model.W_E, model.W_U.T):
        raise InputError(
            "embedding and unembedding differ, but Hugging Face's GPT-Neo holds one matrix for both; "
            "edit neither, or both alike"
        )
    named = dict(model.named_parameters())
    foreign = [name for name in named if name.endswith(("b_Q", "b_K", "b_V", "b_U")) and named[name].any()]
    if foreign:
        raise InputError(
            f"Hugging Face's GPT-Neo has no place for {', '.join(foreign[:3])}; set these biases to zero to export"
        )


def _hugging_face_weights(model: HookedModel) -> dict[str, Tensor]:
    ours = {name: weight.detach().cpu() for name, weight in model.named_parameters()}
    theirs = {
        "transformer.wte.weight": ours["embed.W_E"],
        "transformer.wpe.weight": ours["pos_embed.W_pos"],
        "transformer.ln_f.weight": ours["ln_final.w"],
        "transformer.ln_f.bias": ours["ln_final.b"],
    }
    for layer in range(model.cfg.n_layers):
        block, place = f"blocks.{layer}", f"transformer.h.{layer}"
        for letter, name in (("Q", "q_proj"), ("K", "k_proj"), ("V", "v_proj")):
            weight = rearrange(ours[f"{block}.attn.W_{letter}"], "head d_model d_head -> (head d_head) d_model")
            theirs[f"{place}.attn.attention.{name}.weight"] = weight
        out = rearrange(ours[f"{block}.attn.W_O"], "head d_head d_model -> d_model (head d_head)")
        theirs[f"{place}.attn.attention.out_proj.weight"] = out
        theirs[f"{place}.attn.attention.out_proj.bias"] = ours[f"{block}.attn.b_O"]
        for ours_name, theirs_name in (("in", "c_fc"), ("out", "c_proj")):
            theirs[f"{place}.mlp.{theirs_name}.weight"] = ours[f"{block}.mlp.W_{ours_name}"].T
            theirs[f"{place}.mlp.{theirs_name}.bias"] = ours[f"{block}.mlp.b_{ours_name}"]
        for norm in ("1", "2"):
            theirs[f"{place}.ln_{norm}.weight"] = ours[f"{block}.ln{norm}.w"]
            theirs[f"{place}.ln_{norm}.bias"] = ours[f"{block}.ln{norm}.b"]
    return {name: weight.contiguous() for name, weight in theirs.items()}
