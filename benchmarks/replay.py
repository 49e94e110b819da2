"""Replayed sweeps against the loops that every toolkit runs: one full pass per cell.

Random-weight GPT-Neo of the 125M shape, one pair of 100 tokens. TransformerLens's own
`get_act_patch_*` machinery runs a random sample of the cells in the same process and is extrapolated.

Floor: the multiplications that must be done, over the rate of one large matrix product on
this machine. Per position and block they are 24 d_model^2, per scored token 2 d_model d_vocab.
"""

import time
from dataclasses import dataclass

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from transformer_lens import patching  # noqa: TID251 - the peer
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from memhooks.localize.heads import silence_heads
from memhooks.measure.recitation import score_tokens
from memhooks.model.ablated import ablated
from memhooks.model.loading import HookedModel, load_model
from memhooks.model.replay.clean_run import activation, clean_run
from memhooks.model.replay.edits import head_edits, site_edits
from memhooks.model.replay.replay import Work, replay
from memhooks.paragraphs.paragraphs import Paragraphs

N_PREFIX, LENGTH, SAMPLE = 50, 100, 40


@dataclass(frozen=True)
class Row:
    """One line of the table; seconds for the whole sweep."""

    sweep: str
    ours: float
    peer: str
    theirs: float
    floor: float


def main() -> None:
    """Print every sweep's time, its ratio to the peer and its share of the floor's rate."""
    model, rate = random_model(), matrix_rate()
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(model.cfg.d_vocab, (1, LENGTH), generator=generator)
    one, whole = clean.clone(), clean.clone()
    one[0, 25] += 1
    whole[0, :N_PREFIX] = torch.randint(model.cfg.d_vocab, (N_PREFIX,), generator=generator)
    rows = [
        residual_sweep(model, clean, one, "resid_pre, 600 cells, one token differs", rate),
        residual_sweep(model, clean, whole, "resid_pre, 600 cells, whole prefix differs", rate),
        head_sweep(model, clean, whole, rate),
        ablation_sweep(model, torch.randint(model.cfg.d_vocab, (4, LENGTH), generator=generator), rate),
    ]
    table = Table(title=f"125M shape, {torch.get_num_threads()} threads, {rate / 1e9:.0f} GFLOP/s in a matrix product")
    for heading in ("sweep", "memhooks, s", "peer", "peer, s", "ratio", "share of the floor's rate"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row.sweep,
            f"{row.ours:.1f}",
            row.peer,
            f"{row.theirs:.0f}",
            f"{row.theirs / row.ours:.1f}",
            f"{row.floor / row.ours:.0%}",
        )
    Console(width=160).print(table)


def residual_sweep(model: HookedModel, clean: torch.Tensor, corrupted: torch.Tensor, name: str, rate: float) -> Row:
    """Every layer and prefix position: the clean stream put into the corrupted run."""
    start, work = time.perf_counter(), Work()
    source, run = (clean_run(model, rows, first=N_PREFIX) for rows in (clean, corrupted))
    position = torch.arange(N_PREFIX)
    row, n_scored = torch.zeros_like(position), 0
    for layer in range(model.cfg.n_layers):
        put = activation(source, "resid_pre", layer)[0, :N_PREFIX, None]
        n_scored += int((put != activation(run, "resid_pre", layer)[0, :N_PREFIX, None]).any(-1).sum())
        replay(run, site_edits(run, "resid_pre", layer, row, position, put), work=work)
    ours = time.perf_counter() - start
    cells = pd.DataFrame([(layer, pos) for layer in range(model.cfg.n_layers) for pos in range(N_PREFIX)])
    theirs = peer_seconds(model, clean, corrupted, cells.set_axis(["layer", "pos"], axis=1), "resid_pre")
    return Row(name, ours, "TransformerLens loop", theirs, floor(model, work, n_scored) / rate)


def head_sweep(model: HookedModel, clean: torch.Tensor, corrupted: torch.Tensor, rate: float) -> Row:
    """Every layer, head and prefix position: 7,200 cells of z; one layer in three is run and all are counted."""
    source, run = (clean_run(model, rows, first=N_PREFIX) for rows in (clean, corrupted))
    n_heads, work, layers = model.cfg.n_heads, Work(), range(1, model.cfg.n_layers, 3)
    head, position = (
        one.flatten() for one in torch.meshgrid(torch.arange(n_heads), torch.arange(N_PREFIX), indexing="ij")
    )
    row, start = torch.zeros_like(head), time.perf_counter()
    for layer in layers:
        z = source.layers[layer].z[0, :N_PREFIX].unflatten(-1, (n_heads, -1)).transpose(0, 1)
        replay(run, head_edits(run, layer, head, row, position, z.flatten(0, 1)[:, None]), work=work)
    share = model.cfg.n_layers / len(layers)
    ours = (time.perf_counter() - start) * share
    cells = pd.DataFrame(
        [(layer, int(p), int(h)) for layer in range(model.cfg.n_layers) for p, h in zip(position, head, strict=True)]
    )
    theirs = peer_seconds(model, clean, corrupted, cells.set_axis(["layer", "pos", "head"], axis=1), "z")
    return Row(
        "z by head and position, 7,200 cells (a third run)",
        ours,
        "TransformerLens loop",
        theirs,
        floor(model, work, len(layers) * len(head)) * share / rate,
    )


def ablation_sweep(model: HookedModel, tokens: torch.Tensor, rate: float) -> Row:
    """Every head alone to zero, 4 paragraphs, against a loop of hooks with scores of the continuation alone."""
    paragraphs = Paragraphs(tokens, N_PREFIX)
    start = time.perf_counter()
    silence_heads(model, paragraphs)
    ours = time.perf_counter() - start
    start, sample = time.perf_counter(), [(layer, 3) for layer in range(model.cfg.n_layers)]
    for place in sample:
        with ablated(model, heads=[place]):
            list(score_tokens(model, tokens, first=N_PREFIX, batch_size=len(tokens)))
    theirs = (time.perf_counter() - start) / len(sample) * model.cfg.n_layers * model.cfg.n_heads
    n, n_layers, n_heads = len(tokens), model.cfg.n_layers, model.cfg.n_heads
    mlp_alone = n_layers * 2 / 3  # its own layer's MLP is 16 of a block's 24 d_model^2
    work = Work(block_positions=int(n * n_heads * LENGTH * (n_layers * (n_layers - 1) / 2 + mlp_alone)))
    return Row(
        "144 heads to zero, 4 paragraphs",
        ours,
        "loop of hooks, memhooks' own scores",
        theirs,
        floor(model, work, n * n_heads * n_layers) / rate,
    )


def peer_seconds(
    model: HookedModel, clean: torch.Tensor, corrupted: torch.Tensor, cells: pd.DataFrame, site: str
) -> float:
    """TransformerLens's own loop over a random sample of the cells, extrapolated to all."""
    _, cache = model.run_with_cache(clean, names_filter=lambda name: name.endswith(f"hook_{site}"))
    setter = patching.layer_pos_patch_setter if site == "resid_pre" else head_position_setter
    sample = cells.sample(SAMPLE, random_state=0).reset_index(drop=True)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        logs = logits.log_softmax(-1)[:, N_PREFIX - 1 : -1]
        return -logs.gather(-1, corrupted[:, N_PREFIX:, None]).mean()

    start = time.perf_counter()
    with torch.no_grad():
        patching.generic_activation_patch(model, corrupted, cache, metric, setter, site, index_df=sample)
    return (time.perf_counter() - start) / SAMPLE * len(cells)


def head_position_setter(corrupted: torch.Tensor, index: list[int], clean: torch.Tensor) -> torch.Tensor:
    """Layer, position, head: what TransformerLens does for z by position."""
    _, position, head = index
    corrupted[:, position, head] = clean[:, position, head]
    return corrupted


def floor(model: HookedModel, work: Work, n_rows: int) -> float:
    """Multiplications and additions of the blocks that ran and of the scored tokens of these rows."""
    d_model = model.cfg.d_model
    return work.block_positions * 24 * d_model**2 + n_rows * (LENGTH - N_PREFIX) * 2 * d_model * model.cfg.d_vocab


def matrix_rate() -> float:
    """FLOP/s of a matrix product of the MLP's shape."""
    one, other = torch.randn(2048, 768), torch.randn(768, 3072)
    one @ other
    start = time.perf_counter()
    for _ in range(30):
        one @ other
    return 30 * 2 * 2048 * 768 * 3072 / (time.perf_counter() - start)


def random_model() -> HookedModel:
    """GPT-Neo 125M's shape with random weights."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        num_layers=12,
        hidden_size=768,
        num_heads=12,
        vocab_size=50257,
        attention_types=[[["global", "local"], 6]],
        max_position_embeddings=256,
    )
    return load_model(GPTNeoForCausalLM(config).eval())


if __name__ == "__main__":
    main()
