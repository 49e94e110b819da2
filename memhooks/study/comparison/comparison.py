"""The comparison of all methods: tune each with eight settings, judge it on other paragraphs.

1. Every setting of a method unlearns half of the tuning paragraphs, one at a time; the better half of the settings
   goes on to the other half; the setting with the fewest misses is chosen.
2. The large forget set is tuned on all tuning paragraphs at once.
3. The chosen settings are judged on paragraphs that tuned nothing, which share several seeds out.
Trials are files: a killed comparison goes on where it was. Workers have one thread each, so two cores run two trials.
"""

import json
import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memhooks.errors import InputError
from memhooks.model.export import check_writable
from memhooks.model.labelled import versions
from memhooks.model.provenance import model_hash
from memhooks.progress import tracked
from memhooks.study.comparison.methods import METHODS, N_EPOCHS, N_RETAIN, Method
from memhooks.study.comparison.sets import Bench, Sizes
from memhooks.study.comparison.trials import GOALS, Trial, misses
from memhooks.writing import load_row, save_row, whole_file

Row = dict[str, Any]


@dataclass
class Comparison:
    """All methods on the organism; `run` yields rows as trials end.

    Attributes:
        folder: where trials, configuration and tables go.
        sizes: how much of everything.
        methods: which of `METHODS`.
        seed: of all draws.
        n_workers: processes of one thread each.
    """

    folder: Path
    sizes: Sizes = field(default_factory=Sizes)
    methods: Sequence[Method] = METHODS
    seed: int = 0
    n_workers: int = 2

    def run(self) -> list[Row]:
        """Run what is missing; returns the rows of the judged trials.

        Raises:
            InputError: the folder cannot be written to, or holds another comparison.
        """
        self._open()
        context = multiprocessing.get_context("spawn")  # forked torch threads deadlock
        start = (self.sizes, self.seed)
        with ProcessPoolExecutor(self.n_workers, context, initializer=_start_worker, initargs=start) as pool:
            runner = _Runner(self.folder / "trials", pool)
            chosen = {(name, 1): best for name, best in self._tuned(runner).items()}
            chosen |= {(name, self.sizes.n_together): best for name, best in self._tuned_together(runner).items()}
            with whole_file(self.folder / "chosen.json") as partial:
                partial.write_text(json.dumps([[*key, setting] for key, setting in chosen.items()]))
            return runner(self._judged(chosen), "judging")

    def rows(self) -> list[Row]:
        """All rows there are so far, tuning included."""
        return [json.loads(path.read_text()) for path in sorted((self.folder / "trials").glob("*.json"))]

    def _tuned(self, runner: "_Runner") -> dict[str, int]:
        """The setting of each method with the fewest misses: all on one half, the better half on the other."""
        half = self.sizes.n_tuned // 2
        left = {method.name: list(range(len(method.settings))) for method in self.methods}
        for number, targets in enumerate((range(half), range(half, self.sizes.n_tuned))):
            runner(_tuning(left, 1, targets), "tuning, one paragraph at a time")
            for name, settings in left.items():
                rows = runner.of(_tuning({name: settings}, 1, range(targets.stop)))
                order = sorted(settings, key=lambda setting: _mean_misses(rows, setting))
                left[name] = order[: 1 if number else max(1, len(order) // 2)]
        return {name: settings[0] for name, settings in left.items()}

    def _tuned_together(self, runner: "_Runner") -> dict[str, int]:
        """The same for many paragraphs at once: all tuning paragraphs are one forget set."""
        settings = {method.name: list(range(len(method.settings))) for method in self.methods}
        rows = runner(_tuning(settings, self.sizes.n_tuned, [0]), "tuning, many at once")
        return {
            name: min(own, key=lambda setting: _mean_misses([row for row in rows if row["method"] == name], setting))
            for name, own in settings.items()
        }

    def _judged(self, chosen: Mapping[tuple[str, int], int]) -> list[Trial]:
        trials = []
        for number in range(self.sizes.n_judged):  # all methods meet the same paragraph with the same seed
            trials += [
                Trial("judge", name, setting, 1, number, number % self.sizes.n_seeds)
                for (name, size), setting in chosen.items()
                if size == 1
            ]
        for seed in range(self.sizes.n_seeds):
            trials += [
                Trial("judge", name, setting, size, seed, seed) for (name, size), setting in chosen.items() if size > 1
            ]
        return trials

    def _open(self) -> None:
        check_writable(self.folder / "trials")
        bench = Bench(self.sizes, self.seed)
        config = {
            "sizes": asdict(self.sizes),
            "seed": self.seed,
            "goals": GOALS,
            "constants": {"N_RETAIN": N_RETAIN, "N_EPOCHS": N_EPOCHS},
            "methods": {method.name: [dict(setting) for setting in method.settings] for method in self.methods},
            "models": {"organism": model_hash(bench.model), "organism-twin": model_hash(bench.twin)},
            "versions": versions(),
        }
        path = self.folder / "comparison.json"
        if path.exists() and json.loads(path.read_text()) != config:
            raise InputError(
                f"{self.folder} holds a comparison with other settings or versions; give another folder, or delete it"
            )
        with whole_file(path) as partial:
            partial.write_text(json.dumps(config, indent=2))


class _Runner:
    """Runs the trials whose rows are not on disk yet, in the pool's processes."""

    def __init__(self, folder: Path, pool: ProcessPoolExecutor) -> None:
        self._folder, self._pool = folder, pool

    def __call__(self, trials: Sequence[Trial], what: str) -> list[Row]:
        missing = [trial for trial in trials if load_row(self._folder, trial.key) is None]
        ended = {self._pool.submit(_run_trial, trial): trial for trial in missing}
        for done in tracked(as_completed(ended), what, total=len(ended)):
            save_row(self._folder, ended[done].key, done.result())
        return self.of(trials)

    def of(self, trials: Sequence[Trial]) -> list[Row]:
        """The rows of trials that were run."""
        return [row for trial in trials if (row := load_row(self._folder, trial.key)) is not None]


def _tuning(settings: Mapping[str, Sequence[int]], size: int, numbers: Iterable[int]) -> list[Trial]:
    return [
        Trial("tune", name, setting, size, number, 0)
        for number in numbers
        for name, own in settings.items()
        for setting in own
    ]


def _mean_misses(rows: Sequence[Row], setting: int) -> float:
    return float(np.mean([misses(row) for row in rows if row["setting"] == setting]))


_BENCH: list[Bench] = []
"""A worker's own models and paragraphs."""


def _start_worker(sizes: Sizes, seed: int) -> None:
    torch.set_num_threads(1)
    _BENCH.append(Bench(sizes, seed))


def _run_trial(trial: Trial) -> Row:
    return trial.run(_BENCH[0])
