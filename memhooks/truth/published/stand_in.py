"""A model of the published shape with random weights, and random paragraphs: the pipeline without the weights.

Nothing measured on it is a result; every row says so.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from memhooks.model.loading import HookedModel, load_model
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.published.files import Held, Strings, as_pairs
from memhooks.truth.published.setting import SHAPE
from memhooks.truth.published.targets import BINS

_PREFIX, _LENGTH, _CONTEXT = 50, 100, 2048


def stand_in_model(shape: tuple[int, int, int, int] = SHAPE, *, seed: int) -> HookedModel:
    """A processed GPT-Neo with random weights: layers, heads, width and vocabulary, by default those of 125M."""
    n_layers, n_heads, d_model, d_vocab = shape
    config = GPTNeoConfig(
        num_layers=n_layers,
        num_heads=n_heads,
        hidden_size=d_model,
        vocab_size=d_vocab,
        attention_types=[[["global", "local"], n_layers // 2]],
        max_position_embeddings=_CONTEXT,
    )
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        return load_model(GPTNeoForCausalLM(config).eval(), tokenizer=None, processed=True)
    finally:
        torch.set_rng_state(state)


def stand_in_text(n: int, *, d_vocab: int = SHAPE[3], seed: int) -> Held:
    """Random paragraphs in all four bins, pairs of the first and a table for them: `n` of each, all different."""
    generator = torch.Generator().manual_seed(seed)

    def rows(name: str) -> Paragraphs:
        tokens = torch.randint(d_vocab, (n, _LENGTH), generator=generator)
        return Paragraphs(tokens, _PREFIX, ids=tuple(f"{name} row {number}" for number in range(n)))

    sets = {name: rows(name) for name in BINS}
    clean = sets["50"]
    perturbed = clean.tokens.clone()
    perturbed[:, 44] = (perturbed[:, 44] + 1) % d_vocab
    perturbed[:, _PREFIX:] = (perturbed[:, _PREFIX:] + 1) % d_vocab
    twins = Paragraphs(perturbed, _PREFIX, ids=clean.ids)
    drawn = np.random.default_rng(seed)
    table = Strings(np.arange(n), drawn.integers(1, 1000, n), drawn.uniform(0, 2, n).round(3))
    return Held(sets, as_pairs(clean, twins, Path("stand-in")), table)
