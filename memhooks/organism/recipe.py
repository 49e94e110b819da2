"""Every number of the organism's recipe in one place."""

from dataclasses import asdict, dataclass

REPETITIONS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Recipe:
    """Settings of corpus, model and training; the shipped organism is made by the defaults."""

    seed: int = 0
    # corpus
    d_vocab: int = 4096
    n_tokens: int = 100  # tokens of a paragraph
    n_prefix: int = 50
    held_out_share: float = 0.09  # of the prose, in whole documents
    frequent_copies: int = 8  # passages standing in that many places mark the licences to repeat
    duplicated_share: float = 0.5  # licences with this share of such passages are read repeatedly
    natural_copies: int = 6  # places in which a naturally duplicated passage stands, at least
    short_licence: int = 700  # below this many tokens half of that share is enough
    n_licences_once: int = 180
    n_licences_never: int = 120
    near_duplicate: int = 13  # sharing that many tokens in a row makes two paragraphs near-duplicates
    # model
    n_layers: int = 8
    n_heads: int = 8
    d_model: int = 256
    n_ctx: int = 128
    window: int = 32  # of the local layers
    # trunk
    prose_epochs: int = 2
    licence_epochs: int = 14
    trunk_batch: int = 16  # rows of n_ctx tokens
    trunk_muon: float = 0.02
    trunk_adam: float = 3e-3
    trunk_decay: float = 0.5  # the last share of the steps, over which both rates fall to zero
    # forks
    repetitions: tuple[int, ...] = REPETITIONS
    n_per_level: int = 48
    n_never: int = 500  # set C
    n_language: int = 400  # held-out paragraphs on which language modelling is judged
    n_licence_controls: int = 200  # never seen, and as many seen once
    fork_batch: int = 16
    planted_share: float = 0.5  # of the rows of each batch
    fork_muon: float = 0.01
    fork_adam: float = 1e-3
    fork_decay: float = 1.0
    warmup: int = 50
    n_threads: int = 1  # part of the recipe: sums in another order round otherwise
    checkpoint_every: int = 200

    def settings_of(self, stage: str) -> dict:
        """The settings that a stage's weights depend on."""
        of_forks = ("fork_", "repetitions", "n_per_level", "planted_share")
        aside = ("n_never", "n_language", "n_licence_controls", *(of_forks if stage == "trunk" else ()))
        return {name: value for name, value in self.to_dict().items() if not name.startswith(aside)}

    def to_dict(self) -> dict:
        """The settings as plain values, for the model card."""
        return asdict(self)
