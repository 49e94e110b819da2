"""What a scan looks at and what it keeps."""

from dataclasses import dataclass, field

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel
from memhooks.scale.merging import check_similar
from memhooks.scale.rules import Rule


@dataclass(frozen=True)
class ScanSettings:
    """Settings that decide what a scan finds.

    Attributes:
        n_prefix: tokens given to the model.
        n_tokens: of a window, prefix and continuation.
        stride: tokens from one window's start to the next; each document's first window begins at its start.
        min_unique: least share of distinct tokens in a window, 0 to 1; others are dropped before the model reads them.
        rule: which windows are kept.
        column: of records, with text or tokens; found by itself if it is called text, content or tokens.
        end_of_text: id that ends documents in one-dimensional token files.
        batch_size: windows per pass.
        piece_mb: size of the pieces in which files are handed out, in millions of bytes.
        similar: share of common 5-grams (Jaccard) from which on a window is a near-duplicate of a better one; 1 merges
            exact copies alone.
    """

    n_prefix: int = 50
    n_tokens: int = 100
    stride: int = 50
    min_unique: float | int = 0.5
    rule: Rule = field(default_factory=Rule)
    column: str | None = None
    end_of_text: int | None = None
    batch_size: int = 32
    piece_mb: float | int = 1.0
    similar: float | int = 0.5

    def check(self, model: HookedModel) -> "ScanSettings":
        """These settings, if they make sense for this model.

        Raises:
            InputError: one is out of range, or a window does not fit the model's context.
        """
        if not 0 < self.n_prefix < self.n_tokens <= model.cfg.n_ctx:
            raise InputError(
                f"a window needs 0 < n_prefix < n_tokens <= {model.cfg.n_ctx} (the model's context), got "
                f"{self.n_prefix} and {self.n_tokens}"
            )
        if self.stride < 1 or self.batch_size < 1:
            raise InputError(f"stride and batch_size must be at least 1, got {self.stride} and {self.batch_size}")
        if not 0 <= self.min_unique <= 1:
            raise InputError(f"min_unique must lie in 0..1, got {self.min_unique}")
        check_similar(self.similar)
        self.rule.check(self.n_tokens - self.n_prefix, model.cfg.d_vocab)
        return self
