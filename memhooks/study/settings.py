"""How much of everything a study measures, and of what: every setting with its meaning and its range."""

from dataclasses import dataclass, field, fields
from typing import TypeVar

from memhooks.errors import InputError

T = TypeVar("T")


def _setting(default: T, about: str, low: float | int = 1, high: float | int = 1e9) -> T:
    return field(default=default, metadata={"about": about, "low": low, "high": high})


@dataclass(frozen=True)
class Settings:
    """All settings of a study; the defaults are the quick study of a few minutes on two cores.

    The same names stand in `study.toml`, with `metadata["about"]` of each field beside them.

    Raises:
        InputError: a value of another type, or out of range.
    """

    model: str = _setting("organism", "organism, a Hugging Face folder, or a hub name such as EleutherAI/gpt-neo-125M")
    twin: str = _setting("", 'a model like it that never read the paragraphs; "" = organism-twin for set A, else none')
    paragraphs: str = _setting("", 'file of text that the model may recite; "" = set A of the organism')
    controls: str = _setting("", 'file of like text that it never read; "" = set C of the organism')
    counts: str = _setting("", 'token counts of the training text, .npy; "" = the organism\'s for set A, else none')
    seed: int = _setting(0, "of all draws", 0)
    threads: int = _setting(0, "CPU threads; 0 = as many as torch takes, written down as that number", 0, 4096)
    n_planted: int = _setting(384, "recitation: paragraphs that may be recited; all of set A")
    n_controls: int = _setting(200, "recitation: never-seen paragraphs")
    n_perturbed: int = _setting(16, "perturbation and patching: paragraphs per condition", 2)
    n_mapped: int = _setting(8, "of those, how many are patched at every prefix position")
    n_lens: int = _setting(32, "logit lens and attention sinks: paragraphs per condition", 2)
    n_ablated: int = _setting(12, "ablation: paragraphs per condition", 4)
    n_cumulative: int = _setting(3, "ablation: heads silenced together")
    n_gradients: int = _setting(32, "gradients: paragraphs per condition", 2)
    n_attention: int = _setting(100, "attention to rare tokens: paragraphs per condition", 4)
    n_swapped: int = _setting(8, "forks: paragraphs of each set under which parts are exchanged", 2)
    n_counted: int = _setting(128, "capacity: paragraphs of each set whose memorized bits are counted", 2)
    n_injections: int = _setting(2, "injections: paragraphs written into each kind of weights, to be found again")
    n_unlearned: int = _setting(4, "unlearning: paragraphs, one at a time")
    n_retain: int = _setting(12, "unlearning: recited paragraphs that hold the model, and as many never-seen ones")
    n_others: int = _setting(16, "unlearning: other recited paragraphs, never trained on, that should stay", 2)
    fraction: float = _setting(0.001, "unlearning: share of the weights that sparse unlearning may move", 1e-9, 1)
    n_steps: int = _setting(16, "unlearning: updates, at most")
    retain_weight: float = _setting(50.0, "unlearning: weight of the retain term", 0)
    lr_sparse: float = _setting(4e-3, "unlearning: Adam's step size for the top weights", 1e-9, 10)
    lr_random: float = _setting(1e-2, "unlearning: for as many random weights, which need larger steps", 1e-9, 10)
    lr_all: float = _setting(3e-5, "unlearning: for all weights", 1e-9, 10)
    n_viewed: int = _setting(60, "report: paragraphs of each set in the viewer", 1, 200)

    def __post_init__(self) -> None:
        for one in fields(self):
            _check(one.name, getattr(self, one.name), type(one.default), one.metadata["low"], one.metadata["high"])


FULL = {
    "n_controls": 500,
    "n_perturbed": 48,
    "n_mapped": 24,
    "n_lens": 96,
    "n_ablated": 48,
    "n_cumulative": 6,
    "n_gradients": 96,
    "n_attention": 300,
    "n_swapped": 24,
    "n_counted": 384,
    "n_injections": 8,
    "n_unlearned": 12,
    "n_others": 48,
}
"""What a full study, of up to an hour, has more of."""


def _check(name: str, value: object, kind: type, low: float | int, high: float | int) -> None:
    allowed = {str: "a text", int: "a whole number", float: "a number"}[kind]
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise InputError(f"setting {name} must be {allowed}; got {value!r}")
    if isinstance(value, int | float) and not low <= value <= high:
        raise InputError(f"setting {name} must be from {low:g} to {high:g}; got {value:g}")
