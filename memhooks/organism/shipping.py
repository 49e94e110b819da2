"""Turns finished checkpoints into the bundled assets: float16 weights, tokenizer, counts, paragraph lists."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import GPTNeoForCausalLM, PreTrainedTokenizerFast

from memhooks.organism.corpus import END_OF_TEXT, Corpus, Passage
from memhooks.organism.recipe import Recipe
from memhooks.organism.schedule import insertions, trunk_rows
from memhooks.organism.training import new_model
from memhooks.paragraphs.files import save_paragraphs
from memhooks.paragraphs.paragraphs import Paragraphs

FOLDERS = {"organism": "organism", "twin": "organism-twin"}


def write_assets(work: Path, assets: Path, corpus: Corpus, recipe: Recipe) -> None:
    """Write everything the package ships except the card; the old assets go only when all is there."""
    models = {name: trained(work, fork, corpus, recipe) for fork, name in FOLDERS.items()}
    partial = assets.with_name(assets.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=corpus.tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT
    )
    for name, model in models.items():
        model.half().save_pretrained(partial / name)
        (partial / name / "generation_config.json").unlink(missing_ok=True)
        tokenizer.save_pretrained(partial / name)
    text = [*corpus.prose, *corpus.licences_repeated, *corpus.licences_once]
    np.save(partial / "unigram_counts.npy", np.bincount(np.concatenate(text), minlength=recipe.d_vocab))
    folder = partial / "paragraphs"
    folder.mkdir()
    for name, paragraphs in paragraph_sets(corpus, recipe).items():
        save_paragraphs(paragraphs.with_text(tokenizer), folder / f"{name}.parquet")
    steps: dict[int, list[int]] = {}
    for item in insertions(recipe):
        steps.setdefault(item.slot, []).append(item.step)
    (folder / "insertion_steps.json").write_text(json.dumps({slot: steps[slot] for slot in sorted(steps)}))
    shutil.rmtree(assets, ignore_errors=True)
    partial.rename(assets)


def trained(work: Path, stage: str, corpus: Corpus, recipe: Recipe) -> GPTNeoForCausalLM:
    """The model of a finished stage.

    Raises:
        RuntimeError: the stage has not been run to its end.
    """
    path = work / stage / "checkpoint.pt"
    state: dict = torch.load(path, weights_only=True, map_location="cpu") if path.exists() else {"losses": []}
    done, planned = len(state["losses"]), n_steps(stage, corpus, recipe)
    if done != planned:
        raise RuntimeError(f"stage {stage} has {done} of {planned} steps; run it to its end first")
    model = new_model(recipe)
    model.load_state_dict(state["model"])
    return model.eval()


def n_steps(stage: str, corpus: Corpus, recipe: Recipe) -> int:
    """How many training steps a stage has."""
    if stage != "trunk":
        return insertions(recipe)[-1].step + 1
    rows = trunk_rows(corpus.prose, corpus.licences_repeated, corpus.licences_once, recipe)
    return len(rows) // recipe.trunk_batch


def paragraph_sets(corpus: Corpus, recipe: Recipe) -> dict[str, Paragraphs]:
    """The lists that ship, by file name; A, B and C are dealt from one shuffled pool."""
    n_planted = recipe.n_per_level * len(recipe.repetitions)
    levels = [k for k in recipe.repetitions for _ in range(recipe.n_per_level)]
    pool, end = corpus.held_out, 2 * n_planted
    return {
        "planted_A": _paragraphs(pool[:n_planted], "A", recipe, levels),
        "planted_B": _paragraphs(pool[n_planted:end], "B", recipe, levels),
        "prose": _paragraphs(pool[end : end + recipe.n_never], "C", recipe, [0] * recipe.n_never),
        "held_out": _paragraphs(
            _not_beside(pool[end + recipe.n_never :], pool[:end])[: recipe.n_language], "H", recipe, None
        ),
        "natural": _paragraphs(corpus.natural, "N", recipe, corpus.natural_copies),
        "licence_never": _paragraphs(corpus.licence_never[: recipe.n_licence_controls], "L0-", recipe, None),
        "licence_once": _paragraphs(corpus.licence_once[: recipe.n_licence_controls], "L1-", recipe, None),
    }


def _not_beside(passages: list[Passage], planted: list[Passage]) -> list[Passage]:
    """Passages that neither precede nor follow a planted one in their document: those would be easier to predict."""
    size = len(planted[0].tokens)
    taken = {(name, int(start)) for name, start in (p.source.split("@") for p in planted)}
    places = [(p, *p.source.split("@")) for p in passages]
    return [p for p, name, start in places if not taken & {(name, int(start) - size), (name, int(start) + size)}]


def _paragraphs(passages: list[Passage], prefix: str, recipe: Recipe, counts: list[int] | None) -> Paragraphs:
    return Paragraphs(
        tokens=torch.from_numpy(np.array([passage.tokens for passage in passages])),
        n_prefix=recipe.n_prefix,
        ids=tuple(f"{prefix}{number:03d}" for number in range(len(passages))),
        counts=None if counts is None else tuple(counts),
        sources=tuple(passage.source for passage in passages),
    )
