"""Builds a hooked GPT-Neo that provably equals Hugging Face's: the only door to TransformerLens.

1. Find the weights: the shipped organism or twin, a local folder, a hub name, a model in memory.
2. Convert them into a `HookedTransformer`, cloned, unprocessed unless asked.
3. Compare log-probabilities with Hugging Face on a fixed probe, in float32; a difference is an error.
4. Only then cast to the wanted dtype and move to the wanted device.
"""

import re
import warnings
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
except ImportError as error:
    raise ImportError(
        f"memhooks needs transformer-lens>=3.9,<4, found {version('transformer-lens')}, which has no "
        "HookedTransformer; run pip install 'transformer-lens>=3.9,<4'"
    ) from error
from transformer_lens.hook_points import HookPoint
from transformer_lens.pretrained.weight_conversions.neo import convert_neo_weights
from transformer_lens.weight_processing import ProcessWeights
from transformers import GPTNeoForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from memhooks.errors import InputError
from memhooks.model.parity import check_parity
from memhooks.model.sources import read_model, read_tokenizer

HookedModel = HookedTransformer
BUNDLED = ("organism", "organism-twin")
_NORM = re.compile(r"\.ln[12]\.|^ln_final\.")

__all__ = [
    "BUNDLED",
    "HookPoint",
    "HookedModel",
    "asset",
    "is_processed",
    "layer_type",
    "load_model",
    "tokenizer_of",
    "window_of",
]


def asset(name: str) -> Path:
    """The path of a bundled file or folder.

    Raises:
        InputError: this installation lacks it.
    """
    path = Path(str(files("memhooks"))) / "assets" / name
    if not path.exists():
        raise InputError(f"this installation has no bundled {name!r}; make it with python -m memhooks.organism.build")
    return path


@torch.inference_mode(mode=False)  # weights made in inference mode could never be edited or differentiated
def load_model(
    source: str | Path | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | Literal["auto"] | None = "auto",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    processed: bool = False,
) -> HookedModel:
    """Load a GPT-Neo as a `HookedTransformer` whose log-probabilities equal Hugging Face's.

    Args:
        source: `"organism"`, `"organism-twin"`, a local Hugging Face folder, a hub name such
            as `"EleutherAI/gpt-neo-125M"` (the only one that needs a network), or a model in memory.
        tokenizer: `"auto"` takes the one that lies beside the weights, if any.
        device: where the hooked model goes.
        dtype: cast after the comparison with Hugging Face.
        processed: fold layer norms and centre weights as TransformerLens does by default; the
            published gradient maps need it. Unprocessed models can be unlearned and exported.

    Raises:
        InputError: the source is missing, damaged, not a GPT-Neo, or holds NaN.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_vocab
        (8, 8, 4096)
        >>> model(memhooks.load_planted("A").tokens[:2]).shape
        torch.Size([2, 100, 4096])
    """
    if isinstance(source, str) and source in BUNDLED:
        source = asset(source)
    reference = read_model(source)
    if tokenizer == "auto":
        tokenizer = read_tokenizer(source)
    if tokenizer is not None and len(tokenizer) != reference.config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {reference.config.vocab_size}; "
            "pass the model's own tokenizer, or tokenizer=None to work on token ids"
        )
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    model = _hooked(reference, tokenizer, exact, processed=processed)
    check_parity(model, reference)
    model.to(str(device), print_details=False)  # a string: TransformerLens drops the index of a torch.device
    model.to(dtype, print_details=False)
    return model.eval()


def tokenizer_of(model: HookedModel) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        InputError: it was loaded without one.
    """
    if model.tokenizer is None:
        raise InputError("the model was loaded without a tokenizer; load it with one to work on text")
    return model.tokenizer


def is_processed(model: HookedModel) -> bool:
    """Whether layer norms were folded and weights centred at loading."""
    return model.cfg.normalization_type == "LNPre"


def layer_type(model: HookedModel, layer: int) -> str:
    """Whether a layer's attention is `"global"` or `"local"`."""
    return "global" if model.cfg.attn_types is None else model.cfg.attn_types[layer]


def window_of(model: HookedModel, layer: int) -> int | None:
    """How many tokens a position of this layer can attend to, itself included; None where all before it."""
    return model.cfg.window_size if layer_type(model, layer) == "local" else None


def _hooked(
    reference: GPTNeoForCausalLM,
    tokenizer: PreTrainedTokenizerBase | None,
    dtype: torch.dtype,
    *,
    processed: bool,
) -> HookedModel:
    config = reference.config
    settings = HookedTransformerConfig(
        model_name="gpt-neo",
        original_architecture="GPTNeoForCausalLM",
        n_layers=config.num_layers,
        d_model=config.hidden_size,
        n_heads=config.num_heads,
        d_head=config.hidden_size // config.num_heads,
        d_mlp=config.intermediate_size or 4 * config.hidden_size,
        n_ctx=config.max_position_embeddings,
        d_vocab=config.vocab_size,
        act_fn=config.activation_function,
        eps=config.layer_norm_epsilon,
        normalization_type="LNPre" if processed else "LN",
        use_attn_scale=False,
        use_local_attn=True,
        attn_types=list(config.attention_layers),
        window_size=config.window_size,
        positional_embedding_type="standard",
        default_prepend_bos=False,  # rows are raw unless asked otherwise
        init_weights=False,
        device="cpu",
        dtype=dtype,
    )
    with warnings.catch_warnings():
        # 3.9 announces the removal of the class in 4.0; pyproject.toml pins <4 for that reason.
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        model = HookedTransformer(settings, move_to_device=False)
    # Assigned, because the constructor would reload the tokenizer with BOS switched on and new special tokens.
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = tokenizer is not None and len(tokenizer.encode("")) > 0
    # The converter returns views of the source's weights: cloned, so that training never reaches back.
    weights = {name: w.detach().clone().to(dtype) for name, w in convert_neo_weights(reference, settings).items()}
    # Not load_and_process_state_dict, which rounds float64 to float32 on the way.
    report = model.load_state_dict(_process(weights, settings) if processed else weights, strict=False)
    lost = [*report.unexpected_keys, *(name for name in report.missing_keys if not name.endswith(("mask", "IGNORE")))]
    if lost:
        raise InputError(f"TransformerLens and the conversion disagree about {', '.join(lost[:3])}")
    return model.eval()


def _process(weights: dict[str, Tensor], settings: HookedTransformerConfig) -> dict[str, Tensor]:
    """Fold norms and centre weights: TransformerLens's own sequence, without its rounding to float32."""
    weights = ProcessWeights.fold_layer_norm(weights, settings)
    weights = ProcessWeights.center_writing_weights(weights, settings)
    weights = ProcessWeights.center_unembed(weights, settings)
    weights = ProcessWeights.fold_value_biases(weights, settings)
    for layer in range(settings.n_layers):
        bias = weights[f"blocks.{layer}.attn.b_O"]
        weights[f"blocks.{layer}.attn.b_O"] = bias - bias.mean()
    return {name: w for name, w in weights.items() if not _NORM.search(name)}
