"""Mean activations over a set of texts: what a part usually does, streamed batch by batch and kept with its hash."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memhooks.errors import InputError, in_short
from memhooks.model.checks import Rows, check_batch_size, check_tokens, tokens_of
from memhooks.model.hook_names import find_hooks, full_name
from memhooks.model.hooks import hooked
from memhooks.model.loading import HookedModel, HookPoint
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.model.watched import paused
from memhooks.progress import tracked
from memhooks.writing import whole_file

Over = Literal["paragraphs", "positions"]


@dataclass(frozen=True, repr=False)
class ActivationMeans:
    """Means by hook name, and what they were taken from.

    Attributes:
        values: for each hook name the activation without its batch axis: position by
            position, or (over positions) with a position axis of one.
        n_paragraphs: rows that were averaged.
        over: whether each position has a mean of its own or all share one.
        model_hash: fingerprint of the model's weights.
        tokens_hash: fingerprint of the rows.
    """

    values: dict[str, Tensor]
    n_paragraphs: int
    over: Over
    model_hash: str
    tokens_hash: str

    def __repr__(self) -> str:
        return f"ActivationMeans of {len(self.values)} hook points over {self.n_paragraphs} rows (over={self.over!r})"

    def at(self, name: str, like: Tensor) -> Tensor:
        """The mean at a hook point, spread over an activation of `like`'s shape.

        Raises:
            InputError: the means do not cover the hook point, or are of texts of another length.
        """
        mean = self.values[self.check_covers(name)].to(like)
        if self.over == "paragraphs" and mean.shape != like.shape[1:]:
            raise InputError(
                f"the means at {name} have shape {tuple(mean.shape)}, the activation {tuple(like.shape[1:])}: "
                'take them from texts of the same length, or over="positions"'
            )
        return mean.expand_as(like)

    def check_covers(self, name: str) -> str:
        """The name itself, if there is a mean for it.

        Raises:
            InputError: there is none.
        """
        if name not in self.values:
            site = name.rsplit("hook_", 1)[-1]
            raise InputError(f"the means hold no {name}; add it with activation_means(..., sites=({site!r}, ...))")
        return name

    def check_model(self, model: HookedModel) -> None:
        """Refuse a model whose weights are not those that were averaged.

        Raises:
            InputError: they differ.
        """
        if (other := model_hash(model)) != self.model_hash:
            raise InputError(
                f"the means come from other weights ({self.model_hash}) than the model's ({other}); take them anew"
            )

    def save(self, path: str | Path) -> None:
        """Write to `.safetensors`, whole or not at all.

        Raises:
            InputError: the file name does not end in `.safetensors`.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise InputError(f"means are saved as .safetensors, got {path.name}")
        about = {key: value for key, value in asdict(self).items() if key != "values"}
        with whole_file(path) as partial:
            save_file(
                {name: mean.contiguous() for name, mean in self.values.items()}, partial, {"means": json.dumps(about)}
            )


def load_means(path: str | Path) -> ActivationMeans:
    """Read means back.

    Raises:
        InputError: the file is missing, damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no means file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["means"])
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return ActivationMeans(values=values, **about)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a file of activation means ({in_short(error)})") from error


@torch.no_grad()
def activation_means(
    model: HookedModel,
    rows: Rows,
    *,
    sites: str | Sequence[str] = ("z", "mlp_out", "attn_out"),
    over: Over = "paragraphs",
    batch_size: int = 32,
) -> ActivationMeans:
    """Average activations over rows, one batch in memory at a time, summed and kept in float64.

    Blocks of `hooked`, `ablated` and the like that are open around the call do not count.

    Args:
        model: in eval mode.
        rows: paragraphs, or rows of tokens.
        sites: short names of hook points (one or several), taken in every layer. The default serves heads,
            MLP and attention layers; neurons need `"post"`, edges `"pattern"`.
        over: `"paragraphs"` keeps a mean for each position, `"positions"` one for all.
        batch_size: rows per pass.

    Raises:
        InputError: rows the model cannot read, unknown sites, or attention patterns averaged over positions.
    """
    tokens = tokens_of(rows)
    check_tokens(model, tokens)
    sites = [sites] if isinstance(sites, str) else sites
    if over not in get_args(Over):
        raise InputError(f"over must be one of {', '.join(get_args(Over))}, got {over!r}")
    check_batch_size(batch_size)
    names = find_hooks(model, [full_name((site, layer)) for site in sites for layer in range(model.cfg.n_layers)])
    if over == "positions" and (square := [name for name in names if name.endswith(("pattern", "attn_scores"))]):
        raise InputError(f'{square[0]} has no mean over positions; use over="paragraphs"')
    with paused(model), _averaged(model, names) as sums:
        for batch in tracked(tokens.split(batch_size), "averaging"):
            model(batch.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
    means = {name: total / n_rows for name, (total, n_rows) in sums.items()}
    if over == "positions":
        means = {name: mean.mean(0, keepdim=True) for name, mean in means.items()}
    return ActivationMeans(
        values={name: mean.cpu() for name, mean in means.items()},
        n_paragraphs=len(tokens),
        over=over,
        model_hash=model_hash(model),
        tokens_hash=tensor_hash(tokens),
    )


@contextmanager
def _averaged(model: HookedModel, names: list[str]) -> Iterator[dict[str, tuple[Tensor, int]]]:
    """Sum of the activations and number of rows summed, by hook name."""
    sums: dict[str, tuple[Tensor, int]] = {}

    def add(activation: Tensor, hook: HookPoint) -> None:
        total, n_rows = sums.get(str(hook.name), (0, 0))
        # Rows are counted where they are summed: a norm before q, k and v fires three times a pass.
        sums[str(hook.name)] = total + activation.sum(0, dtype=torch.float64), n_rows + len(activation)

    with hooked(model, [(names, add)]):
        yield sums
