"""Where a model runs and in which precision, with a check of what less than single precision changes.

1. The device is refused before weights are read, if torch cannot use it.
2. `fp32` multiplies matrices in float32, whatever torch was told before; `tf32` lets a CUDA card round what goes into
   a product to ten bits; `bf16` holds weights and activations in bfloat16.
3. The reduced model is compared with itself in float32, on the same device and a fixed probe.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from memhooks.errors import InputError
from memhooks.model.decoding import at_least_float32, scored_logits
from memhooks.model.loading import HookedModel, load_model
from memhooks.model.parity import probe_tokens

Precision = Literal["fp32", "tf32", "bf16"]

MOST_MEAN = 0.1
"""Nats by which log-probabilities over the probe may differ on average; bfloat16 on the bundled organism: 0.03."""

LEAST_AGREEMENT = 0.85
"""Share of the probe's positions whose best token must stay; bfloat16 on the organism: 0.98, on random weights 0.94."""


@dataclass(frozen=True)
class PrecisionParity:
    """By how much a model in less than single precision differs from itself in single precision.

    Attributes:
        largest: difference of any log-probability, nats.
        mean: difference over all positions and tokens, nats.
        agreement: share of positions whose most likely token is the same.
    """

    largest: float
    mean: float
    agreement: float

    def __str__(self) -> str:
        return (
            f"{self.mean:.2g} nats on average (largest {self.largest:.2g}), {self.agreement:.1%} of best tokens agree"
        )


def check_device(device: str | torch.device) -> torch.device:
    """The device, if torch can use it here.

    Raises:
        InputError: it is neither cpu nor cuda nor cuda:N, or this machine has no such card.
    """
    name = str(device)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"a device is cpu, cuda, or cuda:N with the number of a card; got {name!r}")
    wanted = torch.device(name)
    if wanted.type == "cpu":
        return wanted
    if not torch.cuda.is_available():
        raise InputError(
            f"device {name} was asked for, but torch finds no CUDA card here (torch.cuda.is_available() is False); "
            "use cpu, or install a torch built for CUDA on a machine with a card"
        )
    if (wanted.index or 0) >= (n := torch.cuda.device_count()):
        raise InputError(f"device {name} was asked for, but cards here are cuda:0 to cuda:{n - 1}")
    return wanted


def check_name(precision: str, device: torch.device) -> None:
    """Refuse a precision that is none, or that the device does not have.

    Raises:
        InputError: as said.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precisions are {', '.join(get_args(Precision))}; got {precision!r}")
    if precision == "tf32" and device.type != "cuda":
        raise InputError(f"tf32 is a mode of CUDA cards, and the device is {device}; use fp32 or bf16 there")


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Within the block float32 products round as `precision` says: to ten bits for tf32 alone; then as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def load_at(
    source: str | Path | PreTrainedModel,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    **options: Any,  # noqa: ANN401 - handed on as they are
) -> HookedModel:
    """`load_model` on a device and in a precision, compared with single precision where it is less.

    What runs in tf32 must do so inside `matmul_precision("tf32")`: it is torch's mode, not the model's.

    Args:
        source: as for `load_model`.
        device: `cpu`, `cuda`, or `cuda:N`.
        precision: `fp32`, `tf32` (CUDA alone), or `bf16`.
        options: further ones of `load_model`, but `dtype`.

    Raises:
        InputError: no such device or precision here, as `load_model`, or as `check_precision`.

    Example:
        >>> from memhooks.model.precision import load_at
        >>> load_at("organism", precision="bf16").cfg.dtype
        torch.bfloat16
    """
    where = check_device(device)
    check_name(precision, where)
    model = load_model(source, device=where, **options)
    if precision == "fp32":
        return model
    tokens = probe_of(model)
    with matmul_precision("fp32"):
        reference = log_probabilities(model, tokens)
    if precision == "bf16":
        model.to(torch.bfloat16, print_details=False)
    with matmul_precision(precision):
        check_precision(model, tokens, reference)
    return model


def check_precision(
    model: HookedModel,
    tokens: Int[Tensor, "row pos"],
    reference: Float[Tensor, "row pos d_vocab"],
) -> PrecisionParity:
    """By how much the model differs from what it said in single precision.

    Args:
        model: in the reduced precision.
        tokens: a probe, such as `probe_of(model)`, or rows of one's own.
        reference: what `log_probabilities` gave in single precision on the same tokens.

    Raises:
        InputError: by more than `MOST_MEAN` nats on average, or fewer best tokens agree than `LEAST_AGREEMENT`.
    """
    found = precision_parity(model, tokens, reference)
    if not (found.mean <= MOST_MEAN and found.agreement >= LEAST_AGREEMENT):  # a NaN is neither
        raise InputError(
            f"reduced precision changes what this model says: {found}; allowed are {MOST_MEAN} nats and "
            f"{LEAST_AGREEMENT:.0%}; use fp32"
        )
    return found


def precision_parity(
    model: HookedModel,
    tokens: Int[Tensor, "row pos"],
    reference: Float[Tensor, "row pos d_vocab"],
) -> PrecisionParity:
    """The same, never refused."""
    here = log_probabilities(model, tokens)
    apart = (here - reference).abs()
    agree = (here.argmax(-1) == reference.argmax(-1)).double().mean()
    return PrecisionParity(float(apart.max()), float(apart.mean()), float(agree))


@torch.no_grad()
def log_probabilities(model: HookedModel, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos d_vocab"]:
    """Of every token after every position, in nats; in main memory, at least in float32."""
    residual = model(tokens.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
    return at_least_float32(scored_logits(model, residual)).log_softmax(-1).cpu()


def probe_of(model: HookedModel) -> Int[Tensor, "1 pos"]:
    """The fixed random text on which precisions are compared, the same as at loading."""
    return probe_tokens(model.cfg.d_vocab, model.cfg.n_ctx, model.cfg.window_size or model.cfg.n_ctx)
