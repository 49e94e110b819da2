"""What benchmarks compare with: the machine's matrix rate, random models of a real shape, time and peak memory."""

import ctypes
import gc
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from memhooks.model.loading import HookedModel, load_model

T = TypeVar("T")
Device = str | torch.device

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """What something took; `peak` in GB is all memory of the process (on a GPU, all that was allocated there)."""

    seconds: float
    peak: float | None


@cache
def matrix_rate(device: Device = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a matrix product of the MLP's shape: the best of five rounds, once in a process."""
    n_rows, n_in, n_out = (2048, 768, 3072) if torch.device(device).type == "cpu" else (16384, 4096, 4096)
    one, other = (torch.randn(*shape, device=device, dtype=dtype) for shape in ((n_rows, n_in), (n_in, n_out)))
    times = [measured(lambda: [one @ other for _ in range(3)], device)[1].seconds for _ in range(6)]
    return 3 * 2.0 * n_rows * n_in * n_out / min(times[1:])


def measured(function: Callable[[], T], device: Device = "cpu") -> tuple[T, Cost]:
    """What a function returns, its time and its peak memory, cleared of what ran before."""
    cuda = torch.device(device).type == "cuda"
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    else:
        _forget_peak()
    start = time.perf_counter()
    found = function()
    if cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    return found, Cost(seconds, torch.cuda.max_memory_allocated(device) / 1e9 if cuda else peak())


def peak() -> float | None:
    """Most memory that the process held since it was last forgotten, in GB; None where Linux does not tell."""
    return status("VmHWM")


def status(name: str) -> float | None:
    """A number of /proc/self/status, in GB."""
    if not _STATUS.exists():
        return None
    lines = (line.split() for line in _STATUS.read_text("utf8").splitlines())
    return next((int(line[1]) * 1024 / 1e9 for line in lines if line[0] == f"{name}:"), None)


def _forget_peak() -> None:
    if platform.system() != "Linux":
        return
    ctypes.CDLL(None).malloc_trim(0)  # what the other side freed goes back to the system first
    _CLEAR.write_text("5", "utf8")


def random_model(
    n_layers: int = 12, d_model: int = 768, d_vocab: int = 50257, *, device: Device = "cpu", dtype: torch.dtype
) -> HookedModel:
    """GPT-Neo with random weights, by default of the 125M shape; heads of 64."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        num_layers=n_layers,
        hidden_size=d_model,
        num_heads=d_model // 64,
        vocab_size=d_vocab,
        attention_types=[[["global", "local"], n_layers // 2]],
        max_position_embeddings=256,
    )
    return load_model(GPTNeoForCausalLM(config).eval(), device=device, dtype=dtype)
