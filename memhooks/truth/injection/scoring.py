"""All trials of a plan, resumable: each is a file, and a killed scoring goes on where it was."""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from memhooks.errors import InputError
from memhooks.model.export import check_writable
from memhooks.model.labelled import versions
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.progress import tracked
from memhooks.truth.injection.bench import NATURAL, Bench
from memhooks.truth.injection.regions import FRACTION, REGIONS
from memhooks.truth.injection.trial import Row, Trial, load_row, save_row, trials
from memhooks.truth.injection.writing import EARLY, SOLVED
from memhooks.writing import whole_file


@dataclass
class Scoring:
    """Every localizer on every injection of a plan.

    Attributes:
        folder: where trials and their configuration go.
        load: makes the bench; each process calls it once, so with several it must be picklable.
        n_workers: processes of one thread each; one runs in this process.
    """

    folder: Path
    load: Callable[[], Bench]
    n_workers: int = 1

    def run(self) -> list[Row]:
        """Run what is missing; returns all rows in the plan's order.

        Raises:
            InputError: the folder cannot be written to, holds other trials, or a trial's file is damaged.
        """
        if self.n_workers < 1:
            raise InputError(f"n_workers must be at least 1, got {self.n_workers}")
        check_writable(self.folder / "trials")
        bench = self.load()
        self._open(bench)
        wanted = trials(bench.plan)
        missing = [one for one in wanted if load_row(self._trials, one) is None]
        for trial, row in tracked(self._ran(bench, missing), "injections", total=len(missing)):
            save_row(self._trials, trial, row)
        return [row for one in wanted if (row := load_row(self._trials, one)) is not None]

    @property
    def _trials(self) -> Path:
        return self.folder / "trials"

    def _ran(self, bench: Bench, missing: Sequence[Trial]) -> Iterator[tuple[Trial, Row]]:
        if self.n_workers == 1 or len(missing) < 2:
            for trial in missing:
                yield trial, trial.run(bench)
            return
        context = multiprocessing.get_context("spawn")  # forked torch threads deadlock
        with ProcessPoolExecutor(self.n_workers, context, initializer=_start_worker, initargs=(self.load,)) as pool:
            ended = {pool.submit(_run_trial, trial): trial for trial in missing}
            for done in as_completed(ended):
                yield ended[done], done.result()

    def _open(self, bench: Bench) -> None:
        config = json.loads(json.dumps(configuration(bench)))
        path = self.folder / "score_localizers.json"
        if path.exists() and json.loads(path.read_text()) != config:
            raise InputError(
                f"{self.folder} holds a scoring with other settings, texts or versions; give another folder, or "
                "delete it"
            )
        with whole_file(path) as partial:
            partial.write_text(json.dumps(config, indent=2))


def configuration(bench: Bench) -> dict[str, object]:
    """What rows depend on: rows of another configuration are never mixed with these."""
    texts = {"targets": bench.targets, "decoys": bench.decoys, "retain": bench.retain, "language": bench.language}
    texts["others"] = bench.others
    if bench.natural is not None:
        texts["natural"] = bench.natural
    return {
        "plan": asdict(bench.plan),
        "localizers": [name for name, _ in bench.asked(NATURAL, 0)],
        "regions": {name: [one.lr, one.outsized, one.about] for name, one in REGIONS.items()},
        "constants": {"FRACTION": FRACTION, "EARLY": EARLY, "SOLVED": SOLVED},
        "model": model_hash(bench.model),
        "texts": {name: tensor_hash(one.tokens) for name, one in texts.items()},
        "versions": versions(),
    }


_BENCH: list[Bench] = []
"""A worker's own model and texts."""


def _start_worker(load: Callable[[], Bench]) -> None:
    torch.set_num_threads(1)
    _BENCH[:] = [load()]


def _run_trial(trial: Trial) -> Row:
    return trial.run(_BENCH[0])
