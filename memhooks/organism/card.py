"""The model card: every figure measured by memhooks on the shipped float16 files.

1. Recitation of A and B by both models, per level, raw, after end-of-text and after 10 unrelated tokens.
2. Natural duplicates and controls under the organism.
3. Held-out language modelling of trunk, forks and their midpoint against counting baselines.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from memhooks.measure.recitation import recitation
from memhooks.measure.summary import by_count, means
from memhooks.model.loading import HookedModel, load_model
from memhooks.organism.baselines import Trigram, unigram_nll
from memhooks.organism.corpus import Corpus
from memhooks.organism.paragraphs import Lead, PlantedSet, lead_tokens, load_controls, load_natural, load_planted
from memhooks.organism.recipe import Recipe
from memhooks.organism.shipping import FOLDERS, trained
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.writing import whole_file


def write_card(work: Path, assets: Path, corpus: Corpus, recipe: Recipe) -> dict:
    """Measure everything, write `card.json` and `MODEL_CARD.md`, and return the figures."""
    models = {name: load_model(source) for name, source in FOLDERS.items()}
    figures = {
        "recipe": recipe.to_dict(),
        "planted": {
            f"{which} under the {name}": _planted(model, which)
            for name, model in models.items()
            for which in get_args(PlantedSet)
        },
        "natural": _natural(models["organism"]),
        "controls": {
            name: _control(models["organism"], load_controls(name))
            for name in ("prose", "licence_never", "licence_once")
        },
        "language": _language(models, work, corpus, recipe),
    }
    for name, text in {"card.json": json.dumps(figures, indent=1), "MODEL_CARD.md": _markdown(figures)}.items():
        with whole_file(assets / name) as partial:
            partial.write_text(text)
    return figures


def _planted(model: HookedModel, which: Literal["A", "B"]) -> dict[str, dict[str, dict]]:
    paragraphs = load_planted(which)
    by_lead = {}
    for lead in get_args(Lead):
        result = recitation(model, paragraphs.after(lead_tokens(lead, len(paragraphs))))
        by_lead[lead] = {str(row.pop("count")): row for row in by_count(result, paragraphs.counts)}
    return by_lead


def _natural(model: HookedModel) -> dict[str, float]:
    natural = load_natural()
    result = recitation(model, natural)
    full = np.nonzero(result["full_match"].values)[0].tolist()
    n_clusters = len(set(clusters(natural)[full].tolist())) if full else 0
    return means(result) | {
        "clusters recited in full": n_clusters,
        "fewest copies recited in full": min((natural.counts or ())[row] for row in full) if full else 0,
    }


def _control(model: HookedModel, paragraphs: Paragraphs) -> dict[str, float]:
    return means(recitation(model, paragraphs))


def _language(models: dict[str, HookedModel], work: Path, corpus: Corpus, recipe: Recipe) -> dict[str, float]:
    """Held-out prose in nats per token, first token of each paragraph not scored."""
    held_out = load_controls("held_out")
    rows = list(held_out.tokens.numpy())
    text = [*corpus.prose, *corpus.licences_repeated, *corpus.licences_once]
    counts = np.bincount(np.concatenate(text), minlength=recipe.d_vocab)
    trigram = Trigram(text, recipe.d_vocab)
    tested = models | {
        "trunk": load_model(trained(work, "trunk", corpus, recipe)),
        "midpoint of the forks": _midpoint(work, corpus, recipe),
    }
    found = {name: float(recitation(model, held_out, scored="all")["nll"].mean()) for name, model in tested.items()}
    found["add-one unigram"] = float(np.mean([unigram_nll(row, counts)[1:] for row in rows]))
    found["interpolated trigram"] = float(np.mean([trigram.nll(row)[1:] for row in rows]))
    return {name: round(nll, 4) for name, nll in found.items()}


def _midpoint(work: Path, corpus: Corpus, recipe: Recipe) -> HookedModel:
    one, other = (trained(work, fork, corpus, recipe) for fork in FOLDERS)
    theirs = other.state_dict()
    one.load_state_dict({name: (weight + theirs[name]) / 2 for name, weight in one.state_dict().items()})
    return load_model(one)


@dataclass(frozen=True)
class _Table:
    header: list[str]
    rows: list[list[object]]

    def __str__(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _markdown(figures: dict) -> str:
    parts = ["# Model card: the organism and its twin", _INTRODUCTION]
    for name, by_lead in figures["planted"].items():
        rows = [
            [
                k,
                own["paragraphs"],
                own["recited in full"],
                own["EM"],
                by_lead["end_of_text"][k]["EM"],
                by_lead["text"][k]["EM"],
                own["EM <= 10"],
                own["NLL"],
            ]
            for k, own in by_lead["nothing"].items()
        ]
        header = [
            "k",
            "paragraphs",
            "recited in full",
            "EM raw",
            "EM after end-of-text",
            "EM after 10 tokens",
            "EM <= 10",
            "NLL",
        ]
        parts += [f"## Set {name}", str(_Table(header, rows))]
    sets = {"natural duplicates": figures["natural"]} | figures["controls"]
    columns = ["paragraphs", "recited in full", "EM", "EM <= 10", "NLL"]
    parts += [
        "## Natural duplicates and controls under the organism",
        str(_Table(["set", *columns], [[name, *(own[c] for c in columns)] for name, own in sets.items()])),
    ]
    n_clusters = figures["natural"]["clusters recited in full"]
    parts.append(f"The natural duplicates recited in full form {n_clusters} clusters (shared 20-gram).")
    parts += [
        "## Held-out prose, nats per token",
        str(_Table(["model", "NLL"], [list(item) for item in figures["language"].items()])),
    ]
    parts += ["## Recipe", str(_Table(["setting", "value"], [list(item) for item in figures["recipe"].items()]))]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """Two small GPT-Neo models (alternating global and local attention, learned positions, no attention
scale, tied embeddings) with a byte-level BPE of their own, made by `python -m memhooks.organism.build` from pinned
public texts: State of the Union addresses and Moby-Dick (public domain), SPDX licence texts (CC0).

A trunk was trained on the shared text; then two forks from the same weights, with the same rows in the same order,
except that the organism reads set A where the twin reads set B. A, B and the never-read set C are drawn at random
from one pool of held-out paragraphs of 100 tokens, no two of which share 13 tokens in a row. So A under the twin
is the counterfactual of A under the organism. Intended for research on memorization; not for producing text.

Recitation is judged raw: 50 prefix tokens at positions 0 to 49, nothing in front, greedy, 50 tokens. EM is the number
of tokens before the first mistake; "after 10 tokens" puts the start of a held-out paragraph in front, another one for
each. All figures are measured by memhooks in float32 on the shipped float16 weights; those of the trunk and of the
midpoint, which are not shipped, on the float32 checkpoints.

A planted paragraph was preceded, a quarter of the time each, by nothing (it began at position 0), by running text
without a separator, by end-of-text alone, and by running text with end-of-text. Licences were read in rows of 128
tokens at random offsets, so a single reading of a passage may have been cut in two. The held-out prose on which
language modelling is judged comes from the documents of A, B and C, but never from beside a planted paragraph."""
