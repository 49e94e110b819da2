"""What the rows of `benchmarks.unlearning` share: texts, the masked weights, a model to edit, a stopwatch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch
from torch import nn

from benchmarks.setting import Setting
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.components import trainable
from memhooks.paragraphs.paragraphs import Paragraphs

FRACTION, N_FORGET, LR = 0.001, 1, 1e-3


def texts(at: Setting, n_retain: int) -> tuple[Paragraphs, Paragraphs]:
    """What to forget, and so many paragraphs to retain."""
    return at.recited.select(slice(0, N_FORGET)), at.control.select(slice(0, n_retain))


def top_mask(at: Setting) -> WeightMask:
    """The weights with the largest gradients of the text to forget."""
    return top_weights(weight_gradients(at.model, texts(at, 1)[0]), fraction=FRACTION)


@contextmanager
def editing(at: Setting) -> Iterator[dict[str, nn.Parameter]]:
    """The grid's parameters, to be moved as `unlearning_steps` moves them."""
    with torch.inference_mode(mode=False), torch.no_grad(), trainable(at.model) as parameters:
        yield parameters


def timed(function: Callable[..., object], *arguments: object) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def warmed(function: Callable[..., object], *arguments: object, times: int) -> list[float]:
    """Seconds of so many calls, after one that does not count."""
    return [timed(function, *arguments) for _ in range(times + 1)][1:]


def typical(function: Callable[..., object], *arguments: object, times: int) -> float:
    """Their median."""
    return median(warmed(function, *arguments, times=times))


def megabytes(n_bytes: int) -> str:
    """For tables."""
    return f"{n_bytes / 1e6:.3g} MB"
