"""Takes parts of a model out of action for the length of a `with` block: to zero, mean, another text, or noise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Unpack, assert_never, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.checks import Rows, check_tokens, tokens_of
from memhooks.model.hooks import hooked, recorded
from memhooks.model.loading import HookedModel, HookPoint
from memhooks.model.means import ActivationMeans
from memhooks.model.parts import Parts, Slot, check_fits, slots
from memhooks.model.watched import Hook, paused

How = Literal["zero", "mean", "resample", "noise"]
Fill = Callable[[Tensor, str, tuple], Tensor | float]
"""What comes in place of `activation[index]` at the named hook point."""


@contextmanager
def ablated(
    model: HookedModel,
    *,
    how: How = "zero",
    means: ActivationMeans | None = None,
    source: Rows | None = None,
    seed: int = 0,
    scale: float = 1.0,
    **parts: Unpack[Parts],
) -> Iterator[None]:
    """Inside the block the given parts do not do their work.

    Args:
        model: in eval mode.
        how: `"zero"` silences; `"mean"` puts the mean over a set of texts there (`means`);
            `"resample"` what the part does on another text (`source`); `"noise"` adds Gaussian noise.
        means: of `activation_means`, for `how="mean"`.
        source: other paragraphs (or rows of tokens) of the same length, for `how="resample"`. The n-th row
            measured in the block meets one source row, the same one for all parts and never the n-th,
            whatever the batch size.
        seed: order of the source rows, and the noise (which is drawn pass by pass, so batches change it).
        scale: noise in standard deviations of the whole activation, row by row.
        **parts: any of `heads=[(layer, head)]`, `neurons=[(layer, neuron)]`, `mlp_layers=[layer]`,
            `attention_layers=[layer]`, `edges=[(layer, head, query position, key position)]`.

    Raises:
        InputError: as `hooked`; no parts or parts the model lacks; or what `how` needs is missing or does not fit.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> rows = memhooks.load_planted("A", at_least=128).select(slice(0, 2))
        >>> memhooks.recitation(model, rows)["exact_match"].values
        array([50, 50])
        >>> with memhooks.ablated(model, heads=[(0, 5)]):
        ...     found = memhooks.recitation(model, rows)
        >>> found["exact_match"].values < 10
        array([ True,  True])
    """
    where = slots(model, parts)
    _check_ingredients(how, means, source, scale)
    names = list(dict.fromkeys(slot.hook_name for slot in where))
    match how:
        case "zero":
            fill: Fill = _zero
        case "mean":
            fill = _mean_fill(model, names, means)
        case "resample":
            fill = _resample_fill(model, names, source, seed)
        case "noise":
            fill = _noise_fill(scale, seed)
        case _:
            assert_never(how)
    with hooked(model, [(slot.hook_name, _replace(slot, fill)) for slot in where]):
        yield


def _replace(slot: Slot, fill: Fill) -> Hook:
    def replace(activation: Tensor, hook: HookPoint) -> Tensor:
        check_fits(slot, activation)
        mixed, other = activation.clone(), fill(activation, slot.hook_name, slot.index)
        mixed[slot.index] = other.to(activation) if isinstance(other, Tensor) else other
        return mixed

    return replace


def _zero(activation: Tensor, name: str, index: tuple) -> float:
    return 0.0


def _mean_fill(model: HookedModel, names: list[str], means: ActivationMeans | None) -> Fill:
    if means is None:
        raise InputError('how="mean" needs means=activation_means(model, rows)')
    means.check_model(model)
    for name in names:
        means.check_covers(name)
    return lambda activation, name, index: means.at(name, activation)[index]


def _resample_fill(model: HookedModel, names: list[str], source: Rows | None, seed: int) -> Fill:
    if source is None:
        raise InputError('how="resample" needs source=, paragraphs or rows of other texts')
    source = tokens_of(source)
    check_tokens(model, source)
    if len(source) < 2:
        raise InputError("source needs at least 2 rows, or a text that is among them would meet itself")
    with torch.no_grad(), paused(model), recorded(model, names) as others:
        model(source.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
    order = cycle(len(source), seed)
    start, batch, seen = 0, 0, set[str]()

    def resample(activation: Tensor, name: str, index: tuple) -> Tensor:
        nonlocal start, batch, seen
        other = others[name]
        if other.shape[1:] != activation.shape[1:]:
            raise InputError(
                f"{name} has shape {tuple(activation.shape[1:])}, the source's {tuple(other.shape[1:])}; "
                "give source rows of the same length"
            )
        if name in seen:  # a new pass began: its rows meet the source rows that follow
            start, seen = start + batch, set()
        seen.add(name)
        batch = len(activation)
        rows = order[(start + torch.arange(batch)) % len(order)]
        return other[rows.to(other.device)][index]

    return resample


def cycle(n: int, seed: int) -> Int[Tensor, " source"]:
    """A random order in which no row keeps its place (Sattolo's algorithm), so that none meets itself."""
    generator, order = torch.Generator().manual_seed(seed), list(range(n))
    for last in range(n - 1, 0, -1):
        other = int(torch.randint(last, (), generator=generator))
        order[last], order[other] = order[other], order[last]
    return torch.tensor(order)


def _noise_fill(scale: float, seed: int) -> Fill:
    generator = torch.Generator().manual_seed(seed)

    def add_noise(activation: Tensor, name: str, index: tuple) -> Tensor:
        part = activation[index]
        deviation = activation.flatten(1).std(1).reshape(-1, *[1] * (part.ndim - 1))
        noise = torch.randn(part.shape, generator=generator)
        return part + scale * deviation * noise.to(activation)

    return add_noise


def _check_ingredients(how: str, means: ActivationMeans | None, source: Rows | None, scale: float) -> None:
    if how not in get_args(How):
        raise InputError(f"how must be one of {', '.join(get_args(How))}, got {how!r}")
    for needed, name, given in (("mean", "means", means), ("resample", "source", source)):
        if given is not None and how != needed:
            raise InputError(f'{name}= is only for how="{needed}", got how="{how}"')
    if not 0 < scale < float("inf"):
        raise InputError(f"scale must be a number above 0, got {scale}")
    if scale != 1 and how != "noise":
        raise InputError(f'scale= is only for how="noise", got how="{how}"')
