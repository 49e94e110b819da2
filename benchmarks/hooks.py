"""What the checks of a hook helper cost over a bare hook that does the same, on the bundled model.

Floor: the bare hook itself. A helper adds one function call, a comparison of shapes and
dtypes per activation, and one walk over the modules when the block begins.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import product
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from memhooks.model.edits import ablated
from memhooks.model.hooks import hooked, recorded
from memhooks.model.loading import HookedModel, load_model
from memhooks.organism.paragraphs import load_planted

ROUNDS, PASSES = 15, 5
Z = "hook_z"


def main() -> None:
    """Print the ratio of each helper to its bare hook, measured in turns."""
    torch.set_num_threads(1)
    model = load_model("organism")
    names = [name for name in model.hook_dict if name.endswith(Z)]

    def bare_record(activation: torch.Tensor, hook: object) -> None:
        store[hook.name] = activation.detach().clone()  # pyright: ignore[reportAttributeAccessIssue]

    def bare_zero(z: torch.Tensor, hook: object) -> torch.Tensor:
        z, zeros = z.clone(), torch.zeros_like(z)
        z[:, :, [2]] = zeros[:, :, [2]]
        return z

    def nothing(activation: torch.Tensor, hook: object) -> None:
        return None

    store: dict[str, torch.Tensor] = {}
    heads = [(layer, 2) for layer in range(model.cfg.n_layers)]
    pairs: dict[str, tuple[Callable[[], AbstractContextManager], Callable[[], AbstractContextManager]]] = {
        "hooked, 8 hooks that do nothing": (
            lambda: hooked(model, [(names, nothing)]),
            lambda: model.hooks(fwd_hooks=[(name, nothing) for name in names]),
        ),
        "recorded, z of 8 layers": (
            lambda: recorded(model, names),
            lambda: model.hooks(fwd_hooks=[(name, bare_record) for name in names]),
        ),
        "ablated, one head in each of 8 layers": (
            lambda: ablated(model, heads=heads),
            lambda: model.hooks(fwd_hooks=[(name, bare_zero) for name in names]),
        ),
    }
    paragraphs = load_planted("A").tokens
    work = {"8 paragraphs": paragraphs[:8], "1 row of 10 tokens": paragraphs[:1, :10]}
    table = Table(title=f"{PASSES} passes in a block, one thread; median of {ROUNDS} turns")
    for heading in ("helper", "each pass", "helper, ms", "bare hook, ms", "ratio"):
        table.add_column(heading)
    for (name, (helper, bare)), (size, tokens) in product(pairs.items(), work.items()):
        ours, theirs = [], []
        for _ in range(ROUNDS):  # in turns, so that both meet the same machine
            ours.append(seconds(model, tokens, helper))
            theirs.append(seconds(model, tokens, bare))
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        per_pass = 1000 / PASSES
        table.add_row(name, size, f"{median(ours) * per_pass:.1f}", f"{median(theirs) * per_pass:.1f}", f"{ratio:.3f}")
    Console().print(table)


@torch.no_grad()
def seconds(model: HookedModel, tokens: torch.Tensor, block: Callable[[], AbstractContextManager]) -> float:
    """Time of entering the block, the passes inside, and leaving it."""
    start = time.perf_counter()
    with block():
        for _ in range(PASSES):
            model(tokens)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
