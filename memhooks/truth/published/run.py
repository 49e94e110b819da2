"""The whole table in a run folder: each part is measured once and kept, so that a killed run goes on.

1. The folder's `configuration.json` says of which model, files, rows and seed it is; another run is refused.
2. Each part is a small JSON file, written whole or not at all.
3. Rows are made of the parts, and judged.
"""

import json
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from memhooks.errors import InputError
from memhooks.progress import tracked
from memhooks.truth.published.attended import ATTENDED
from memhooks.truth.published.counted import COUNTED
from memhooks.truth.published.gradients import GRADIENTS
from memhooks.truth.published.likelihoods import LIKELIHOODS
from memhooks.truth.published.parts import Found, Measured, Part, Quantity
from memhooks.truth.published.perturbed import PERTURBED
from memhooks.truth.published.scales import SCALES
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.targets import NUMBERS, TARGETS, Target, target
from memhooks.truth.published.unlearned import UNLEARNED
from memhooks.truth.published.verdicts import FINGERPRINT, Row, judged
from memhooks.writing import whole_file

QUANTITIES: tuple[Quantity, ...] = (COUNTED, LIKELIHOODS, GRADIENTS, ATTENDED, PERTURBED, SCALES, UNLEARNED)
"""Likelihoods early, as they tell whether the weights are the published ones; then quick ones first."""
_WEIGHTS_125M = 12 * 768**2 * 12 + 50257 * 768 / 2  # unembedded are the 50 continuation tokens of 100


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        setting: what is measured with.
        folder: where parts are kept; None where no row needs the model, as these have no parts.
        numbers: rows of the table that are wanted.
    """

    setting: Setting
    folder: Path | None
    numbers: tuple[int, ...] = NUMBERS

    def __post_init__(self) -> None:
        """Check the rows, and that the folder is of this run.

        Raises:
            InputError: rows that the table does not have, or a folder of another run.
        """
        check_numbers(self.numbers)
        if self.folder is not None:
            _guard(self.folder, self.setting.configuration())

    @property
    def targets(self) -> list[Target]:
        """The wanted rows."""
        return [one for one in TARGETS if one.number in self.numbers]

    def parts(self) -> list[Part]:
        """All parts of rows whose files are there, done or not."""
        wanted = self.targets
        if any("model" in one.needs for one in wanted) and not self.setting.not_comparable:
            wanted = [*wanted, target(FINGERPRINT)]
        there = frozenset(one.key for one in wanted if not self.setting.held.lacks(one.needs))
        return [part for one in QUANTITIES for part in one.parts(self.setting, there & frozenset(one.keys))]

    def left(self) -> list[Part]:
        """The parts that are still to be measured."""
        return [part for part in self.parts() if self._read(part) is None]

    def seconds(self, parts: Collection[Part]) -> float:
        """About how long these parts take on one core: times of GPT-Neo 125M, by the size of the model."""
        return sum(part.seconds for part in parts) * self._size() if parts else 0.0

    def gigabytes(self, parts: Collection[Part]) -> float:
        """About how much memory the largest of these parts takes, likewise; 0 where it is little."""
        return max(part.gigabytes for part in parts) * self._size() if parts else 0.0

    def _size(self) -> float:
        cfg = self.setting.loaded.cfg
        return (cfg.n_layers * cfg.d_model**2 * 12 + cfg.d_vocab * cfg.d_model / 2) / _WEIGHTS_125M

    def measure(self) -> Iterator[tuple[str, float]]:
        """Measure what is left; gives each part's name and seconds."""
        for part in tracked(self.left(), "the published table"):
            start = time.perf_counter()
            found = dict(part.measure())
            seconds = time.perf_counter() - start
            self._write(part, found, seconds)
            yield part.name, seconds

    def found(self) -> Found:
        """What has been measured, by part."""
        done = {part.name: self._read(part) for part in self.parts()}
        return {name: one["found"] for name, one in done.items() if one is not None}

    def rows(self) -> list[Row]:
        """The table, of all that has been measured."""
        found = self.found()
        measured: dict[str, Measured] = {}
        for one in QUANTITIES:
            measured |= one.rows(self.setting, found)
        same = measured.get(FINGERPRINT)
        return [judged(one, measured.get(one.key), self.setting, fingerprint=same) for one in self.targets]

    def _path(self, part: Part) -> Path:
        """The part's file.

        Raises:
            InputError: there is no folder.
        """
        if self.folder is None:
            raise InputError("a run that measures with a model needs a folder, where its parts are kept")
        return self.folder / "parts" / f"{part.name}.json"

    def _read(self, part: Part) -> dict | None:
        if not self._path(part).is_file():
            return None
        try:
            return json.loads(self._path(part).read_text("utf8"))
        except ValueError:  # damaged by others: measured again
            return None

    def _write(self, part: Part, found: dict, seconds: float) -> None:
        path = self._path(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(json.dumps({"seconds": seconds, "found": found}), "utf8")


def check_numbers(numbers: Collection[int]) -> None:
    """Refuse rows that the table does not have.

    Raises:
        InputError: there are some.
    """
    unknown = sorted(set(numbers) - set(NUMBERS))
    if unknown or not numbers:
        raise InputError(
            f"rows of the table are {NUMBERS[0]} to {NUMBERS[-1]}, got {', '.join(map(str, unknown)) or 'none'}"
        )


def _guard(folder: Path, configuration: dict) -> None:
    """Write what the folder is of, or check that it is of this run.

    Raises:
        InputError: it is of another, or its file is damaged.
    """
    path = folder / "configuration.json"
    configuration = json.loads(json.dumps(configuration))
    if path.is_file():
        try:
            there = json.loads(path.read_text("utf8"))
        except ValueError as error:
            raise InputError(f"{path}: damaged; delete {folder} or give another --folder") from error
        differ = [key for key in configuration if there.get(key) != configuration[key]]
        if differ:
            raise InputError(
                f"{folder} holds another run: {', '.join(differ)} differ; delete it or give another --folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(configuration, indent=1), "utf8")
