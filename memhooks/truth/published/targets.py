"""The published numbers as data (Stoehr et al., 2024, arXiv:2403.19851), with what it takes to compare them.

Three kinds. A *deterministic* number follows from shipped files and the weights: it must agree to the rounding of
its published digits, plus a thousandth for other kernels. A *statistical* one depends on draws that were not
published: it must lie within the interval of ours, which must be narrow. A *scale* is read off a colour bar: only
its order of magnitude can be compared, or that ours is not below its last tick.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

Kind = Literal["deterministic", "statistical", "scale"]
MP, NMP, MIDDLE = "50", "0-10", ("30-49", "11-29")
BINS = (NMP, "11-29", "30-49", MP)
KERNELS = 1e-3
"""Relative difference that other kernels and library versions may make to a deterministic number."""
_BAR = "read off a colour bar: the order of magnitude alone"
_ROUNDING = "half of the last published digit, and a thousandth of the value for other kernels"


@dataclass(frozen=True)
class Target:
    """One published number, or one list of them.

    Attributes:
        key: such as `6.50`: the row of the table, and what of it.
        quantity: in words.
        published: the number; a list where there is one for each layer.
        unit: of the number.
        source: the figure or table.
        needs: what must be given to measure it: EM bins, `pairs`, `strings`, `model`.
        kind: how it can be compared.
        whole: what must be given beside that for a comparison; without it the measured number is of other text.
        tolerance: absolute, of deterministic numbers.
        why: the reason for the tolerance, or what stands against a comparison.
        bound: the published number is a lower bound: the last tick of a colour bar that goes on.
    """

    key: str
    quantity: str
    published: tuple[float, ...]
    unit: str
    source: str
    needs: tuple[str, ...]
    kind: Kind
    whole: tuple[str, ...] = ()
    tolerance: float = 0.0
    why: str = ""
    bound: bool = False

    @property
    def number(self) -> int:
        """The row of the table, from 1."""
        return int(self.key.split(".")[0])

    def within(self, measured: tuple[float, ...]) -> bool:
        """Whether every number is within the tolerance (and `KERNELS`, where it is not a count)."""
        relative = KERNELS if self.tolerance else 0.0
        return all(
            abs(ours - theirs) <= self.tolerance + relative * abs(theirs)
            for ours, theirs in zip(measured, self.published, strict=True)
        )


def target(key: str) -> Target:
    """The target of that key."""
    return next(one for one in TARGETS if one.key == key)


_exact = partial(Target, kind="deterministic")
_drawn = partial(Target, kind="statistical")
_scale = partial(Target, kind="scale", why=_BAR)


def _counts() -> list[Target]:
    made = partial(_exact, source="App. A.1", why="a count")
    return [
        made("1.all", "paragraphs", (13450.0,), "paragraphs", needs=("strings",)),
        made("1.MP", "memorized paragraphs", (442.0,), "paragraphs", needs=(MP,)),
        made("1.NMP", "non-memorized paragraphs", (12422.0,), "paragraphs", needs=(NMP,)),
        made("2", "copies of the most frequent", (40382.0,), "copies", needs=("strings",)),
        _exact("3", "distinct tokens of MP and NMP", (34562.0,), "tokens", "Sec. 6.2", needs=(MP, NMP), why="a count"),
    ]


def _perturbation() -> list[Target]:
    drop = partial(_drawn, unit="tokens", why="replacements and paragraphs are drawn anew")
    several = "one unnamed paragraph, and several have an email token there"
    return [
        drop("4.MP", "EM drop per replaced token, MP", (12.19,), source="Fig. 3", needs=(MP, "model")),
        drop("4.NMP", "EM drop per replaced token, NMP", (33.12,), source="Fig. 3", needs=(NMP, "model")),
        _drawn("5", "EM drop, one 'email' replaced", (45.0,), "tokens", "Sec. 4", needs=(MP, "model"), why=several),
    ]


def _gradients(of: str) -> list[Target]:
    total, spread, top, half_a_digit = _BY_BIN[of]
    made = partial(_exact, source="Fig. 9", needs=(of, "model"), why=_ROUNDING)
    return [
        made(f"6.{of}", f"gradient sum, EM {of}", (total,), _UNIT, tolerance=0.005),
        made(f"6.layers {of}", f"its layer sums, EM {of}", LAYER_SUMS[of], _UNIT, tolerance=0.005),
        made(f"7.{of}", f"gradient variance, EM {of}", (spread,), f"({_UNIT})^2", tolerance=half_a_digit),
        _scale(
            f"8.{of}", f"largest cell, EM {of}", (top,), _UNIT, "Fig. 9", needs=(of, "model"), bound=of in (MP, NMP)
        ),
    ]


def _unlearning(number: int, quantity: str, *published: float) -> list[Target]:
    needs = (MP, NMP, "model", "pairs") if quantity.startswith("edit") else (MP, NMP, "model")
    why = "20 paragraphs that were not named"
    return [
        _drawn(f"{number}.{of}", f"{quantity}: EM {of}", (value,), "tokens", "Fig. 5", needs=needs, why=why)
        for of, value in zip(("MP", "NMP"), published, strict=True)
    ]


def _attention() -> list[Target]:
    unnamed = "the coefficient is not named, the 1,000 paragraphs are drawn anew"
    made = partial(_drawn, unit="-1 to 1", source="Fig. 7", needs=(MP, "model"), whole=(NMP,), why=unnamed)
    own, pairs = (MP, "model"), ("pairs", "model")
    return [
        *(made(f"15.{name}", f"rank and summed attention, {name}", (-0.97,)) for name in COEFFICIENTS),
        _scale("16", "attention on one rank, 1,000 rows", (45.0,), "shares", "Fig. 7", needs=own, whole=(NMP,)),
        _scale("17", "gradient of values, layer 1", (0.0175,), "nats per unit", "Fig. 6", needs=own),
        _scale("18.L1", "largest attention, layer 1", (0.15,), "share", "Fig. 6", needs=own),
        _scale("18.L2", "largest attention, layer 2", (0.6,), "share", "Fig. 12", needs=own),
        _scale("19", "patching PMP into MP", (0.08,), "nats", "Fig. 11", needs=pairs),
        _scale("20", "patching MP into PMP", (0.6,), "nats", "Fig. 11", needs=pairs),
    ]


def _likelihoods() -> list[Target]:
    why = "half of the last published digit, and a ten thousandth for other kernels"
    made = partial(_exact, unit="nats per token", needs=(MP, "strings", "model"), tolerance=0.0006, why=why)
    examples = (0.426, 1.074, 0.387, 0.259, 0.276)
    return [
        made("21.examples", "NLL of five examples, 99 tokens", examples, source="Table 1"),
        made("21.all", "largest |NLL - the file's|", (0.0,), source="mem_strings.csv"),
    ]


COEFFICIENTS = ("pearson", "spearman", "kendall")
_UNIT = "nats per unit of weight"
_BY_BIN = {
    "0-10": (53.01, 3.26e-2, 1.5, 5e-5),
    "11-29": (27.14, 5.10e-3, 0.6, 5e-6),
    "30-49": (14.30, 9.33e-4, 0.20, 5e-7),
    "50": (9.71, 4.78e-4, 0.150, 5e-7),
}
"""Sum, variance, top of the colour bar, and half of the variance's last digit."""
LAYER_SUMS: dict[str, tuple[float, ...]] = {
    "0-10": (1.25, 3.84, 3.07, 2.48, 2.37, 2.53, 12.06, 6.76, 8.58, 3.27, 3.33, 3.47),
    "11-29": (0.99, 2.49, 2.05, 1.71, 1.88, 1.71, 4.35, 3.22, 4.27, 1.70, 1.50, 1.26),
    "30-49": (0.70, 1.97, 1.31, 1.38, 1.21, 1.10, 1.61, 1.33, 1.36, 0.95, 0.83, 0.56),
    "50": (0.56, 1.51, 1.01, 1.00, 0.96, 0.66, 1.10, 0.89, 0.72, 0.56, 0.47, 0.27),
}
"""Published layer sums of Fig. 9 by EM bin, layer 0 first."""
TARGETS: tuple[Target, ...] = (
    *_counts(),
    *_perturbation(),
    *sorted((one for of in BINS for one in _gradients(of)), key=lambda one: one.number),
    *_unlearning(9, "unlearn, all weights", 26.90, 45.11),
    *_unlearning(10, "unlearn, top 0.1 %", 26.75, 45.84),
    *_unlearning(11, "unlearn, random 0.1 %", 49.80, 44.86),
    *_unlearning(12, "edit, all weights", 25.65, 37.57),
    *_unlearning(13, "edit, top 0.1 %", 33.65, 38.67),
    *_unlearning(14, "edit, random 0.1 %", 49.80, 44.86),
    *_attention(),
    *_likelihoods(),
)
"""Every row of the table, in its order."""
NUMBERS = tuple(sorted({one.number for one in TARGETS}))
