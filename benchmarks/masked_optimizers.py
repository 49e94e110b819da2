"""Masking and the optimizer's step without the passes: on the masked entries alone, and dense."""

from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import official
from benchmarks.edited import FRACTION, LR, megabytes, typical
from benchmarks.floor import Cost, measured
from benchmarks.outcome import Outcome, Peer
from benchmarks.setting import Setting
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.components import component_parameters
from memhooks.unlearn.optimizer import MaskedOptimizer
from memhooks.unlearn.published_recipe import WEIGHT_DECAY
from memhooks.unlearn.recipe import Recipe

Tensors = Mapping[str, Tensor]


class Found(NamedTuple):
    """Of one way: seconds of a step, bytes of state and mask, the masked weights after all steps."""

    seconds: float
    n_bytes: int
    values: Tensor


def optimizer(at: Setting, *, fraction: float) -> Outcome:
    """Masking and one step of Adam from dense gradients."""
    times = 3 if at.quick else 10
    sample = f"{times} steps"
    generator = torch.Generator().manual_seed(0)
    shapes = {name: weight.shape for name, weight in component_parameters(at.model).items()}
    gradients = {name: torch.randn(shape, generator=generator).to(at.device) for name, shape in shapes.items()}
    mask = top_weights(gradients, fraction=fraction)
    ways = {  # the peers zero the gradients outside the mask in place, which takes nothing from the chosen entries
        "official masks in 64 bits, dense Adam": _published,
        "bool masks, dense Adam": _dense,
        "memhooks": _masked,
    }
    run = {name: measured(partial(way, at, mask, gradients, times), at.device) for name, way in ways.items()}
    costs = {name: Cost(found.seconds, cost.peak) for name, (found, cost) in run.items()}
    own = costs.pop("memhooks")
    held = " / ".join(megabytes(run[name][0].n_bytes) for name in ("memhooks", *costs))
    ours, dense = run["memhooks"][0], run["bool masks, dense Adam"][0]
    aimed = at.shape == "125M" and fraction == FRACTION
    return Outcome(
        f"masking and Adam, {fraction:.1%} of {sum(mask.sizes.values()):,} weights",
        at.name,
        own,
        sample,
        at.rate(),
        None,
        [Peer(name, cost, sample, 25.0 if aimed else None) for name, cost in costs.items()],
        f"{'bit-identical with' if torch.equal(ours.values, dense.values) else 'DIFFERS FROM'} dense Adam and bools; "
        f"state and mask {held}{'; aims 0.02 s and 5 MB' if aimed else ''}",
    )


def _masked(at: Setting, mask: WeightMask, gradients: Tensors, times: int) -> Found:
    own = _copies(at)
    entries = MaskedOptimizer(own, mask, Recipe(lr=LR))
    chosen = {name: gradients[name] for name, indices in mask.indices.items() if len(indices)}
    seconds = typical(lambda: entries.step_(entries.gathered(chosen)), times=times)
    return Found(seconds, entries.n_bytes, _chosen(own, mask))


def _dense(at: Setting, mask: WeightMask, gradients: Tensors, times: int) -> Found:
    """Without decay, so that nothing moves outside the mask here either."""
    own = _copies(at, gradients)
    inside = {name: stays == 0 for name, stays in official.outside_masks(own, mask).items()}
    adam = torch.optim.Adam(own.values(), lr=LR)

    def one() -> None:
        for name, weight in own.items():
            assert weight.grad is not None
            weight.grad.mul_(inside[name])
        adam.step()

    return Found(typical(one, times=times), _n_bytes(adam, inside), _chosen(own, mask))


def _published(at: Setting, mask: WeightMask, gradients: Tensors, times: int) -> Found:
    own = _copies(at, gradients)
    outside = official.outside_masks(own, mask)
    adam = torch.optim.Adam(own.values(), lr=LR, weight_decay=WEIGHT_DECAY)

    def one() -> None:
        official.annul_(own, outside)
        adam.step()

    return Found(typical(one, times=times), _n_bytes(adam, outside), _chosen(own, mask))


def _copies(at: Setting, gradients: Tensors | None = None) -> dict[str, nn.Parameter]:
    own = {name: nn.Parameter(one.detach().clone()) for name, one in component_parameters(at.model).items()}
    for name, gradient in (gradients or {}).items():
        own[name].grad = gradient
    return own


def _chosen(own: Tensors, mask: WeightMask) -> Tensor:
    parts = [
        own[name].detach().flatten()[indices.long().to(own[name].device)] for name, indices in mask.indices.items()
    ]
    return torch.cat(parts)


def _n_bytes(adam: torch.optim.Optimizer, masks: Tensors) -> int:
    state = chain.from_iterable(one.values() for one in adam.state.values())
    return sum(one.numel() * one.element_size() for one in (*state, *masks.values()))
