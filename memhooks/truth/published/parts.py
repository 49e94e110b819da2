"""What a quantity is made of: parts that are measured once and kept, and numbers that are made of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from memhooks.truth.published.setting import Setting

Found = Mapping[str, Mapping]
"""What each part measured, by its name; numbers and lists, as JSON has them."""


@dataclass(frozen=True)
class Part:
    """One piece of work, small enough to be lost when a run is killed.

    Attributes:
        name: of its file.
        measure: does it.
        seconds: about how long GPT-Neo 125M takes, on one core.
        gigabytes: about how much memory GPT-Neo 125M takes, where it is much; else 0.
    """

    name: str
    measure: Callable[[], Mapping]
    seconds: float = 1.0
    gigabytes: float = 0.0


@dataclass(frozen=True)
class Measured:
    """What stands beside a published number.

    Attributes:
        values: as many as were published.
        low: lower end of the 95 % interval of a single number.
        high: upper end.
        beside: controls and variants by name.
        note: what has to be known about it.
        n: rows, trials or pairs that were measured; 0 where it is of a whole file.
    """

    values: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    beside: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    n: int = 0


@dataclass(frozen=True)
class Quantity:
    """One kind of number: its parts, and how rows are made of them.

    Attributes:
        keys: of the targets that it can measure.
        parts: `function(setting, keys) -> parts`; `keys` are those of the targets whose files are there.
        rows: `function(setting, found) -> measured by target key`; only of parts that are there.
    """

    keys: tuple[str, ...]
    parts: Callable[[Setting, frozenset[str]], list[Part]]
    rows: Callable[[Setting, Found], dict[str, Measured]]
