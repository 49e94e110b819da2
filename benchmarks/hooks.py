"""What the checks of a hook helper cost over a bare hook that does the same, on the bundled model.

Floor: the bare hook itself. A helper adds one function call, a comparison of shapes and
dtypes per activation, and one walk over the modules when the block begins.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from memhooks.model.ablated import ablated
from memhooks.model.hooks import hooked, recorded
from memhooks.model.loading import HookedModel, HookPoint, load_model
from memhooks.model.means import activation_means
from memhooks.model.patched import patched
from memhooks.organism.paragraphs import load_planted

ROUNDS, PASSES = 15, 5
Block = Callable[[], AbstractContextManager]


def main() -> None:
    """Print the ratio of each helper to its bare hook, measured in turns."""
    torch.set_num_threads(1)
    model = load_model("organism")
    every = load_planted("A").tokens
    work = {"8 paragraphs": every[:8], "1 row of 10 tokens": every[:1, :10]}
    table = Table(title=f"{PASSES} passes in a block, one thread; median of {ROUNDS} turns")
    for heading in ("helper", "each pass", "helper, ms", "bare hook, ms", "ratio"):
        table.add_column(heading)
    for size, tokens in work.items():
        for name, (helper, bare) in pairs(model, tokens).items():
            ours, theirs = [], []
            for _ in range(ROUNDS):  # in turns, so that both meet the same machine
                ours.append(seconds(model, tokens, helper))
                theirs.append(seconds(model, tokens, bare))
            ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
            per_pass = 1000 / PASSES
            table.add_row(
                name, size, f"{median(ours) * per_pass:.1f}", f"{median(theirs) * per_pass:.1f}", f"{ratio:.3f}"
            )
    Console().print(table)


class Bare:
    """Hooks for z as one would write them by hand."""

    def __init__(self, clean: Mapping[str, torch.Tensor], means: Mapping[str, torch.Tensor]) -> None:
        self.clean, self.means = clean, means
        self.store: dict[str, torch.Tensor] = {}

    def nothing(self, z: torch.Tensor, hook: HookPoint) -> None:
        """Read nothing."""

    def record(self, z: torch.Tensor, hook: HookPoint) -> None:
        """Keep a copy."""
        self.store[str(hook.name)] = z.detach().clone()

    def patch(self, z: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        """Put the clean activation at position 5 of head 2."""
        z = z.clone()
        z[:, 5, 2] = self.clean[str(hook.name)][:, 5, 2]
        return z

    def zero(self, z: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        """Silence head 2."""
        z = z.clone()
        z[:, :, 2] = 0
        return z

    def mean(self, z: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        """Put the mean of head 2."""
        z = z.clone()
        z[:, :, 2] = self.means[str(hook.name)][:, 2].to(z)
        return z


def pairs(model: HookedModel, tokens: torch.Tensor) -> dict[str, tuple[Block, Block]]:
    """For each helper the block it opens and the bare hooks that do the same."""
    layers = range(model.cfg.n_layers)
    names, heads = [f"blocks.{layer}.attn.hook_z" for layer in layers], [(layer, 2) for layer in layers]
    means = activation_means(model, tokens.repeat(2, 1), sites=("z",))
    with recorded(model, names) as clean:
        model(tokens)
    by_hand = Bare(clean, means.values)

    def bare(function: Callable) -> Block:
        return lambda: model.hooks(fwd_hooks=[(name, function) for name in names])

    def patched_everywhere() -> AbstractContextManager:
        stack = ExitStack()
        for name in names:
            stack.enter_context(patched(model, name, clean[name], at=5, heads=[2]))
        return stack

    return {
        "hooked, 8 hooks that do nothing": (
            lambda: hooked(model, [(names, by_hand.nothing)]),
            bare(by_hand.nothing),
        ),
        "recorded, z of 8 layers": (lambda: recorded(model, names), bare(by_hand.record)),
        "patched, 8 blocks of one head and position": (patched_everywhere, bare(by_hand.patch)),
        "ablated to zero, one head in 8 layers": (lambda: ablated(model, heads=heads), bare(by_hand.zero)),
        "ablated to the mean, one head in 8 layers": (
            lambda: ablated(model, heads=heads, how="mean", means=means),
            bare(by_hand.mean),
        ),
    }


@torch.no_grad()
def seconds(model: HookedModel, tokens: torch.Tensor, block: Block) -> float:
    """Time of entering the block, the passes inside, and leaving it."""
    start = time.perf_counter()
    with block():
        for _ in range(PASSES):
            model(tokens)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
