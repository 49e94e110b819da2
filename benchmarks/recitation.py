"""Recitation of whole sets: one teacher-forced pass against decoding, as ratios in one run.

Floor: every scored paragraph needs one pass of its 100 tokens through the blocks and the
unembedding of 50 positions. In FLOPs that is 2 x (block weights x 100 + d_model x d_vocab x 50)
a paragraph, attention's own products left out (they are under 3 % at this length).

Peers, on the same paragraphs:
- Hugging Face `generate` with its cache, 50 tokens a paragraph (how EM is usually counted);
- a loop of full TransformerLens passes that unembeds all positions and keeps log-softmax
  of the whole vocabulary, as the official code of Stoehr et al. (2024) does.
"""

import resource
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from transformers import GPTNeoForCausalLM

from benchmarks.floor import matrix_rate
from memhooks.measure.recitation import recitation
from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel, asset, load_model
from memhooks.organism.paragraphs import load_planted
from memhooks.paragraphs.paragraphs import Paragraphs


def main() -> None:
    """Print the table."""
    model, paragraphs = load_model("organism"), load_planted("A").sample(96, seed=0)
    peer = GPTNeoForCausalLM.from_pretrained(asset("organism"), dtype=torch.float32).eval()
    rate = matrix_rate()
    ways: dict[str, Callable[[], object]] = {
        "memhooks recitation": lambda: recitation(model, paragraphs),
        "Hugging Face generate": lambda: decode(peer, paragraphs),
        "TransformerLens full log-softmax": lambda: full_log_softmax(model, paragraphs),
    }
    seconds = {name: best_of(way) for name, way in ways.items()}
    floor = flops(model, paragraphs) / rate
    table = Table(
        title=f"{len(paragraphs)} paragraphs, organism, {torch.get_num_threads()} threads, {rate / 1e9:.0f} GFLOP/s"
    )
    for column in ("way", "seconds", "times memhooks", "times the floor"):
        table.add_column(column)
    for name, own in seconds.items():
        table.add_row(name, f"{own:.2f}", f"{own / seconds['memhooks recitation']:.2f}", f"{own / floor:.1f}")
    console = Console()
    console.print(table)
    console.print(f"peak memory of the whole run {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def flops(model: HookedModel, paragraphs: Paragraphs) -> float:
    """Multiplications and additions that must be done."""
    blocks = sum(weight.numel() for weight in component_parameters(model).values()) * paragraphs.tokens.shape[1]
    return 2.0 * len(paragraphs) * (blocks + model.cfg.d_model * model.cfg.d_vocab * paragraphs.n_continuation)


def best_of(way: Callable[[], object], *, repeats: int = 3) -> float:
    """Shortest time of several runs, in seconds, after one to warm up."""
    way()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        way()
        times.append(time.perf_counter() - start)
    return min(times)


@torch.no_grad()
def decode(peer: GPTNeoForCausalLM, paragraphs: Paragraphs) -> list[torch.Tensor]:
    """Greedy continuations, 32 at a time."""
    settings = {
        "max_new_tokens": paragraphs.n_continuation,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    return [peer.generate(prefix, **settings) for prefix in paragraphs.prefix.split(32)]


@torch.no_grad()
def full_log_softmax(model: HookedModel, paragraphs: Paragraphs) -> list[torch.Tensor]:
    """Log-probabilities of every token of the vocabulary at every position, 32 rows at a time."""
    return [model(rows).log_softmax(-1).cpu() for rows in paragraphs.tokens.split(32)]


if __name__ == "__main__":
    main()
