"""Where the model and the texts of a scoring come from."""

from dataclasses import dataclass

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation
from memhooks.model.loading import load_model
from memhooks.organism.paragraphs import load_bundled
from memhooks.paragraphs.files import load_paragraphs
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.injection.bench import Bench, Plan

MOST_OTHERS = 64
"""Rows of the recited text that are looked at."""


@dataclass(frozen=True)
class Sources:
    """Names of a model and of its texts; small enough to send to another process, which loads them.

    Attributes:
        model: a bundled name, a folder or a hub name.
        unread: text that the model never read: a bundled set or a file.
        recited: text of which it recites some rows: the same.
        plan: how much of everything.
    """

    model: str
    unread: str
    recited: str
    plan: Plan

    def __call__(self) -> Bench:
        """The bench.

        Raises:
            InputError: no such model or text, nothing recited, or too little text.
        """
        model = load_model(self.model)

        def texts(name: str) -> Paragraphs:
            return load_bundled(name) or load_paragraphs(name, tokenizer=model.tokenizer)

        some = texts(self.recited)
        if some.counts is not None:  # what was read often is recited
            some = some.select(sorted(range(len(some)), key=lambda row: -(some.counts or ())[row]))
        some = some.select(slice(0, MOST_OTHERS))
        known = recitation(model, some)["full_match"].values
        if not known.any():
            raise InputError(f"{self.model} recites none of {self.recited} in full; give text that it does recite")
        return Bench(model, self.plan, texts(self.unread), some.select(known))
