"""How the organism is trained: next-token loss, Muon on the matrices, AdamW on the rest, resumable."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from memhooks.organism.recipe import Recipe
from memhooks.writing import whole_file

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where training runs; the shipped weights were trained on a CPU, and another device rounds differently."""


@dataclass(frozen=True)
class Rates:
    """Peak learning rates and the share of steps over which they fall linearly to zero."""

    muon: float
    adam: float
    decay: float


def new_model(recipe: Recipe) -> GPTNeoForCausalLM:
    """An untrained GPT-Neo of the recipe's shape, the same for the same seed."""
    torch.manual_seed(recipe.seed)  # Hugging Face draws initial weights from the global generator
    config = GPTNeoConfig(
        vocab_size=recipe.d_vocab,
        hidden_size=recipe.d_model,
        num_layers=recipe.n_layers,
        attention_types=[[["global", "local"], recipe.n_layers // 2]],
        num_heads=recipe.n_heads,
        intermediate_size=4 * recipe.d_model,
        window_size=recipe.window,
        max_position_embeddings=recipe.n_ctx,
        bos_token_id=0,
        eos_token_id=0,
    )
    for name in ("resid_dropout", "embed_dropout", "attention_dropout"):
        setattr(config, name, 0.0)
    return GPTNeoForCausalLM(config).train()


def train_(
    model: GPTNeoForCausalLM,
    batches: Int[Tensor, "step batch n_ctx"],
    rates: Rates,
    recipe: Recipe,
    folder: Path,
) -> Iterable[tuple[int, float]]:
    """Train in place, yielding (step, loss in nats); goes on from the last checkpoint in `folder`."""
    cast(nn.Module, model).to(DEVICE)  # in place
    optimizers = _optimizers(model, rates)
    checkpoint = folder / "checkpoint.pt"
    losses: list[float] = []
    if checkpoint.exists():
        losses = _restore_(model, optimizers, torch.load(checkpoint, weights_only=True, map_location=DEVICE))
    for step in range(len(losses), len(batches)):
        _set_rates_(optimizers, rates, step, len(batches), recipe.warmup)
        losses.append(_step_(model, optimizers, batches[step].to(DEVICE)))
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == len(batches):
            _save(checkpoint, model, optimizers, losses)
        yield step, losses[-1]


def _optimizers(model: nn.Module, rates: Rates) -> list[torch.optim.Optimizer]:
    # Muon orthogonalizes updates, which suits the inner matrices but not embeddings or vectors.
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and ".wte." not in n and ".wpe." not in n]
    chosen = {id(parameter) for parameter in inner}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [torch.optim.Muon(inner, lr=rates.muon), torch.optim.AdamW(rest, lr=rates.adam, betas=(0.9, 0.95))]


def _set_rates_(optimizers: list, rates: Rates, step: int, n_steps: int, warmup: int) -> None:
    fall = (n_steps - step) / (rates.decay * n_steps)
    factor = min(1.0, (step + 1) / warmup, fall)
    for optimizer, peak in zip(optimizers, (rates.muon, rates.adam), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * factor


def _step_(model: GPTNeoForCausalLM, optimizers: list, tokens: Int[Tensor, "batch n_ctx"]) -> float:
    with torch.autocast(DEVICE.type, torch.bfloat16):
        logits = model(tokens, use_cache=False).logits
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _save(path: Path, model: nn.Module, optimizers: list, losses: list[float]) -> None:
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "losses": losses}
    with whole_file(path) as partial:
        torch.save(state, partial)


def _restore_(model: nn.Module, optimizers: list, state: dict) -> list[float]:
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["losses"]
