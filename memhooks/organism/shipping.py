"""Turns finished checkpoints into the bundled assets: float16 weights, tokenizer, counts, paragraph lists."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import GPTNeoForCausalLM, PreTrainedTokenizerFast

from memhooks.organism.corpus import END_OF_TEXT, Corpus, Passage
from memhooks.organism.recipe import Recipe
from memhooks.organism.schedule import insertions
from memhooks.organism.training import new_model
from memhooks.paragraphs.files import save_paragraphs
from memhooks.paragraphs.paragraphs import Paragraphs

FOLDERS = {"organism": "organism", "twin": "organism-twin"}


def write_assets(work: Path, assets: Path, corpus: Corpus, recipe: Recipe) -> None:
    """Write everything the package ships except the card; existing assets are replaced."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=corpus.tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT
    )
    for fork, name in FOLDERS.items():
        folder = assets / name
        shutil.rmtree(folder, ignore_errors=True)
        trained(work, fork, recipe).half().save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        tokenizer.save_pretrained(folder)
    counts = np.bincount(
        np.concatenate([*corpus.prose, *corpus.licences_repeated, *corpus.licences_once]), minlength=recipe.d_vocab
    )
    np.save(assets / "unigram_counts.npy", counts.astype(np.int64))
    folder = assets / "paragraphs"
    folder.mkdir(parents=True, exist_ok=True)
    for name, paragraphs in paragraph_sets(corpus, recipe).items():
        save_paragraphs(paragraphs.with_text(tokenizer), folder / f"{name}.parquet")
    steps: dict[int, list[int]] = {}
    for item in insertions(recipe):
        steps.setdefault(item.slot, []).append(item.step)
    (folder / "insertion_steps.json").write_text(json.dumps({slot: steps[slot] for slot in sorted(steps)}))


def trained(work: Path, stage: str, recipe: Recipe) -> GPTNeoForCausalLM:
    """The model of a finished stage."""
    model = new_model(recipe)
    model.load_state_dict(torch.load(work / stage / "checkpoint.pt", weights_only=True)["model"])
    return model.eval()


def paragraph_sets(corpus: Corpus, recipe: Recipe) -> dict[str, Paragraphs]:
    """The lists that ship, by file name; A, B and C are dealt from one shuffled pool."""
    n_planted = recipe.n_per_level * len(recipe.repetitions)
    levels = [k for k in recipe.repetitions for _ in range(recipe.n_per_level)]
    pool, end = corpus.held_out, 2 * n_planted
    return {
        "planted_A": _paragraphs(pool[:n_planted], "A", recipe, levels),
        "planted_B": _paragraphs(pool[n_planted:end], "B", recipe, levels),
        "prose": _paragraphs(pool[end : end + recipe.n_never], "C", recipe, [0] * recipe.n_never),
        "held_out": _paragraphs(pool[end + recipe.n_never :][: recipe.n_language], "H", recipe, None),
        "natural": _paragraphs(corpus.natural, "N", recipe, corpus.natural_copies),
        "licence_never": _paragraphs(corpus.licence_never[: recipe.n_licence_controls], "L0-", recipe, None),
        "licence_once": _paragraphs(corpus.licence_once[: recipe.n_licence_controls], "L1-", recipe, None),
    }


def _paragraphs(passages: list[Passage], prefix: str, recipe: Recipe, counts: list[int] | None) -> Paragraphs:
    return Paragraphs(
        tokens=torch.from_numpy(np.array([passage.tokens for passage in passages])),
        n_prefix=recipe.n_prefix,
        ids=tuple(f"{prefix}{number:03d}" for number in range(len(passages))),
        counts=None if counts is None else tuple(counts),
        sources=tuple(passage.source for passage in passages),
    )
