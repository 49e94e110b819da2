"""Small studies for the tests: short pieces of the organism's own paragraphs, given as files of one's own."""

from dataclasses import replace

from memhooks.organism.paragraphs import load_controls, load_planted
from memhooks.paragraphs.files import save_paragraphs
from memhooks.study.settings import Settings

SMALL = {
    "n_planted": 24,
    "n_controls": 40,
    "n_perturbed": 3,
    "n_mapped": 1,
    "n_lens": 4,
    "n_ablated": 4,
    "n_cumulative": 1,
    "n_gradients": 4,
    "n_attention": 8,
    "n_injections": 1,
    "n_unlearned": 2,
    "n_retain": 2,
    "n_others": 3,
    "n_steps": 2,
    "n_viewed": 4,
    "threads": 1,
}


def short_files(folder):
    """Pieces of 24 + 8 tokens, which the organism recites or never read, as files that a user might have."""
    files = {}
    for name, rows in (("paragraphs", load_planted("A", at_least=128)), ("controls", load_controls("prose"))):
        some = rows.select(slice(0, 48))
        short = replace(some, tokens=some.tokens[:, :32], n_prefix=24, text=None, counts=None, sources=None)
        files[name] = folder / f"{name}.parquet"
        save_paragraphs(short, files[name])
    return {name: str(path) for name, path in files.items()}


def small_settings(files, **changes):
    """A study of the organism on such files, with its twin, in seconds."""
    return Settings(**(SMALL | files | {"model": "organism", "twin": "organism-twin"} | changes))
