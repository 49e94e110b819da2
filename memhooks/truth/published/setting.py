"""What a run measures with: the model, the text, how much of it, and whether it may be compared at all."""

from dataclasses import dataclass

from memhooks.errors import InputError
from memhooks.model.labelled import versions
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.published.files import Held

PUBLISHED_ROWS = 50
"""Rows of each bin whose gradients are published."""
PUBLISHED_TRIALS, PUBLISHED_ATTENDED, PUBLISHED_MEMORIZED = 20, 1000, 442
"""Paragraphs that are unlearned, whose attention is summed, and that are memorized."""
SHAPE = (12, 12, 768, 50257)
"""Layers, heads, width and vocabulary of GPT-Neo 125M."""


@dataclass(frozen=True)
class Setting:
    """Everything that a measurement depends on.

    Attributes:
        model: processed (folded), as the published gradients are; None for rows that need no weights.
        held: the text.
        rows: of each bin; 20 times as many are drawn for attention.
        seed: of all draws.
        stand_in: the weights are random: nothing is compared.
        n_trials: paragraphs that are unlearned; by default 2 for 5 rows, which is the published 20 for 50.
    """

    model: HookedModel | None
    held: Held
    rows: int = PUBLISHED_ROWS
    seed: int = 0
    stand_in: bool = False
    n_trials: int | None = None

    def __post_init__(self) -> None:
        """Check how much is asked for.

        Raises:
            InputError: no rows.
        """
        if self.rows < 1:
            raise InputError(f"rows must be at least 1, got {self.rows}")

    @property
    def loaded(self) -> HookedModel:
        """The model.

        Raises:
            InputError: there is none.
        """
        if self.model is None:
            raise InputError("this row needs a model, and none was given")
        return self.model

    @property
    def trials(self) -> int:
        """Paragraphs that are unlearned, one at a time; published: 20."""
        return max(1, round(0.4 * self.rows)) if self.n_trials is None else self.n_trials

    @property
    def attended(self) -> int:
        """Paragraphs whose attention is summed; published: 1,000."""
        return 20 * self.rows

    @property
    def not_comparable(self) -> str:
        """Why no row of this run can be compared, or ""; of the published shape row 21 shows whose weights they are."""
        if self.stand_in:
            return "stand-in"
        return "" if self.model is None or self.published_shape else "another model"

    @property
    def published_shape(self) -> bool:
        """Whether layers, heads, width and vocabulary are those of GPT-Neo 125M."""
        cfg = self.loaded.cfg
        return (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_vocab) == SHAPE

    def rows_of(self, name: str) -> Paragraphs:
        """The first rows of a bin in stored order, as published."""
        return self.held.sets[name].select(slice(0, self.rows))

    def drawn(self, name: str, n: int) -> Paragraphs:
        """So many rows of a bin, drawn by the seed."""
        return self.held.sets[name].sample(n, seed=self.seed)

    def configuration(self) -> dict[str, object]:
        """What must be the same for a run to be gone on with."""
        return {
            "model_hash": "none" if self.model is None else model_hash(self.model),
            "files": dict(self.held.hashes),
            "substitute": self.held.substitute,
            "tokens": self._token_hashes(),
            "versions": versions(),
            "rows": self.rows,
            "trials": self.trials,
            "seed": self.seed,
            "stand_in": int(self.stand_in),
        }

    def _token_hashes(self) -> dict[str, str]:
        """Of every set, with the substitute, and of the pairs."""
        found = {name: tensor_hash(rows.tokens) for name, rows in self.held.sets.items()}
        if (pairs := self.held.pairs) is not None:
            found |= {"clean": tensor_hash(pairs.clean.tokens), "perturbed": tensor_hash(pairs.perturbed.tokens)}
        return found
