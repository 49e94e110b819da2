"""Reads a Hugging Face GPT-Neo and its tokenizer from a folder, the hub or memory, with clear errors."""

import json
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, GPTNeoForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from memhooks.errors import InputError, in_short

SUPPORTED = "GPT-Neo models (model_type 'gpt_neo'), such as EleutherAI/gpt-neo-125M, 1.3B, 2.7B and TinyStories"
_MOST_LAYERS = 1000
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def read_model(source: str | Path | PreTrainedModel) -> GPTNeoForCausalLM:
    """The source as a Hugging Face model: float32 and in eval mode from files, as it is from memory.

    Raises:
        InputError: it is not a GPT-Neo, cannot be read, lacks weights, or has NaN or infinite ones.
    """
    if isinstance(source, GPTNeoForCausalLM):
        model = source
    elif isinstance(source, str | Path):
        local = _exists(Path(source)) or not _may_be_hub_name(source)
        model = _from_folder(Path(source)) if local else _from_hub(str(source))
    else:
        raise InputError(
            f"source must be a name, a folder or a GPTNeoForCausalLM, got {type(source).__name__}; "
            f"supported: {SUPPORTED}"
        )
    broken = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if broken:
        raise InputError(
            f"{_name(source)}: NaN or infinite weights in {', '.join(broken[:3])}; "
            "the file is damaged or training diverged"
        )
    return model


def read_tokenizer(source: str | Path | PreTrainedModel) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside the weights, or None where there is none.

    Raises:
        InputError: it is there but cannot be read.
    """
    if isinstance(source, PreTrainedModel):
        return None
    folder = Path(source)
    if _is_folder(folder) and not any(
        (folder / name).exists() for name in ("tokenizer.json", "vocab.json", "tokenizer_config.json")
    ):
        return None
    try:
        return AutoTokenizer.from_pretrained(
            str(source),
            local_files_only=_is_folder(folder),
            trust_remote_code=False,  # said, because the default asks on the terminal
        )
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(
            f"{source}: the tokenizer cannot be read ({in_short(error)}); repair it or pass tokenizer=None"
        ) from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long, or inside a folder that may not be entered
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _may_be_hub_name(source: str | Path) -> bool:
    parts = str(source).split("/")
    return len(parts) == 2 and all(parts) and not parts[0].startswith(".")


def _from_hub(name: str) -> GPTNeoForCausalLM:
    try:
        kind = AutoConfig.from_pretrained(name).model_type
    except Exception as error:
        raise InputError(
            f"{name}: neither a local folder nor to be had from the hub ({in_short(error)}); "
            "give a folder with config.json and model.safetensors, or 'organism'"
        ) from error
    _check_kind(name, kind)
    return _read(name, local=False)


def _from_folder(folder: Path) -> GPTNeoForCausalLM:
    if not _is_folder(folder):
        raise InputError(
            f"no model folder at {folder}; "
            "give a folder with config.json and model.safetensors, a hub name (owner/name), or 'organism'"
        )
    _check_config(folder)
    if not any((folder / name).exists() for name in WEIGHT_FILES):
        raise InputError(f"{folder}: no weights; expected one of {', '.join(WEIGHT_FILES)}")
    for path in sorted(folder.glob("*.safetensors")):
        _check_safetensors(path)
    return _read(str(folder), local=True)


def _read(place: str, *, local: bool) -> GPTNeoForCausalLM:
    show_bars = local and logging.is_progress_bar_enabled()  # bars stay for downloads
    if show_bars:
        logging.disable_progress_bar()
    try:
        loaded = GPTNeoForCausalLM.from_pretrained(
            place, local_files_only=local, dtype=torch.float32, weights_only=True, output_loading_info=True
        )
        model, report = cast(tuple[GPTNeoForCausalLM, dict], loaded)
    except Exception as error:  # transformers raises a dozen kinds, from KeyError to UnpicklingError
        raise InputError(
            f"{place}: the weights cannot be read ({in_short(error)}); only plain tensors are loaded"
        ) from error
    finally:
        if show_bars:
            logging.enable_progress_bar()
    tied = bool(model.config.tie_word_embeddings)
    missing = [name for name in report["missing_keys"] if not (tied and name.startswith("lm_head"))]
    if missing:
        raise InputError(
            f"{place}: weights are missing, among them {', '.join(sorted(missing)[:3])}; "
            "the file does not fit config.json"
        )
    return model.eval()


def _check_config(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: no config.json, so this is not a Hugging Face model folder")
    try:
        config = json.loads(path.read_text("utf8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: not valid JSON ({in_short(error)})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: not valid JSON for a model, which is an object, got {type(config).__name__}")
    _check_kind(str(folder), config.get("model_type"))
    _check_depth(path, config)


def _check_depth(path: Path, config: dict) -> None:
    """Refuse numbers of layers that no GPT-Neo has, on which building the model would take all memory.

    Raises:
        InputError: there are too many, or they are not numbers.
    """
    try:
        written_out = len(config.get("attention_layers") or ())
        by_kind = [len(kinds) * times for kinds, times in config.get("attention_types") or ()]
        depths = [int(depth) for depth in (config.get("num_layers", 1), written_out, sum(by_kind), *by_kind)]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: layers and attention_types cannot be read ({in_short(error)})") from error
    if not all(0 <= depth <= _MOST_LAYERS for depth in depths):
        raise InputError(f"{path}: damaged, models have at most {_MOST_LAYERS} layers, got {max(depths, key=abs)}")


def _check_kind(place: str, kind: object) -> None:
    if kind != "gpt_neo":
        raise InputError(f"{place} holds a {kind!r:.80} model; supported: {SUPPORTED}")


def _check_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: damaged or truncated safetensors ({in_short(error)}); fetch or export it again"
        ) from error


def _name(source: str | Path | PreTrainedModel) -> str:
    return str(source) if isinstance(source, str | Path) else "the model in memory"
