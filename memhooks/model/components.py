"""The grid of weight matrices that localization speaks about: layer x component, 50 per layer in GPT-Neo 125M.

A component is one head's W_Q, W_K, W_V or W_O, or the whole of W_in or W_out. This is
the only place that knows how TransformerLens names them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel

AttentionMatrix = Literal["W_Q", "W_K", "W_V", "W_O"]
MlpMatrix = Literal["W_in", "W_out"]
MATRICES: tuple[str, ...] = (*get_args(AttentionMatrix), *get_args(MlpMatrix))


@dataclass(frozen=True, order=True)
class Component:
    """One cell of the grid; `head` is None for the MLP's matrices."""

    layer: int
    matrix: str
    head: int | None = None

    @property
    def label(self) -> str:
        """Name within a layer, such as `W_V 2` or `W_in`."""
        return self.matrix if self.head is None else f"{self.matrix} {self.head}"

    @property
    def parameter_name(self) -> str:
        """The parameter of the hooked model that holds this component."""
        place = "mlp" if self.matrix in get_args(MlpMatrix) else "attn"
        return f"blocks.{self.layer}.{place}.{self.matrix}"


def components(model: HookedModel) -> list[Component]:
    """Every component, layer by layer, heads before MLP: `n_layers x (4 n_heads + 2)` of them."""
    return [
        cell
        for layer in range(model.cfg.n_layers)
        for cell in (
            *(Component(layer, m, head) for m in get_args(AttentionMatrix) for head in range(model.cfg.n_heads)),
            *(Component(layer, m) for m in get_args(MlpMatrix)),
        )
    ]


def component_labels(model: HookedModel) -> list[str]:
    """The labels of one layer's components, in the order of `components`."""
    return [cell.label for cell in components(model) if cell.layer == 0]


def head_view(weight: Tensor, cell: Component) -> Tensor:
    """The part of a parameter (or of its gradient) that belongs to `cell`; shares its memory.

    Raises:
        InputError: the head is not one of the parameter's.
    """
    if cell.head is None:
        return weight
    if not 0 <= cell.head < weight.shape[0]:
        raise InputError(f"head must lie in 0..{weight.shape[0] - 1}, got {cell.head}")
    return weight[cell.head]


def component_parameters(model: HookedModel) -> dict[str, nn.Parameter]:
    """The parameters behind the grid by name, without embeddings, norms and biases."""
    named = dict(model.named_parameters())
    return {cell.parameter_name: named[cell.parameter_name] for cell in components(model)}


@contextmanager
def trainable(model: HookedModel) -> Iterator[dict[str, nn.Parameter]]:
    """Inside the block exactly the grid's parameters require gradients; before and after, as found."""
    chosen = component_parameters(model)
    with ExitStack() as before:
        for name, parameter in model.named_parameters():
            before.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(name in chosen)
        yield chosen
