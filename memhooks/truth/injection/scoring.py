"""All trials of a plan, resumable: each is a file, and a killed scoring goes on where it was.

Every trial runs on one thread, in this process or in another: so its rounding and its seconds are the same in both.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from memhooks.errors import InputError
from memhooks.model.export import check_writable
from memhooks.model.labelled import versions
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.progress import tracked
from memhooks.truth.injection.bench import NATURAL, Bench
from memhooks.truth.injection.candidates import POWER
from memhooks.truth.injection.regions import FRACTION, REGIONS
from memhooks.truth.injection.trial import Row, Trial, trials
from memhooks.truth.injection.writing import EARLY, SOLVED
from memhooks.writing import load_row, save_row, whole_file


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

        Each row is saved when its trial ends. After an error or an interruption no further trial starts; those that
        run already end, and are saved.

        Raises:
            InputError: the folder cannot be written to, holds other trials, a file in it is damaged, or a process died.
        """
        if self.n_workers < 1:
            raise InputError(f"n_workers must be at least 1, got {self.n_workers}")
        check_writable(self.folder / "trials")
        with one_thread():
            bench = self.load()
            self._open(bench)
            wanted = trials(bench.plan)
            missing = [one for one in wanted if load_row(self._trials, one.key) is None]
            if self.n_workers == 1 or len(missing) < 2:
                for trial in tracked(missing, "injections"):
                    save_row(self._trials, trial.key, trial.run(bench))
            else:
                self._run_in_processes(missing)
        return [row for one in wanted if (row := load_row(self._trials, one.key)) is not None]

    @property
    def _trials(self) -> Path:
        return self.folder / "trials"

    def _run_in_processes(self, missing: Sequence[Trial]) -> None:
        """Run trials in other processes.

        Raises:
            InputError: a process died.
        """
        context = multiprocessing.get_context("spawn")  # forked torch threads deadlock
        with ProcessPoolExecutor(self.n_workers, context, initializer=_start_worker, initargs=(self.load,)) as pool:
            try:
                ended = [pool.submit(_run_trial, self._trials, trial) for trial in missing]
                for one in tracked(as_completed(ended), "injections", total=len(ended)):
                    one.result()
            except BrokenProcessPool as error:
                raise InputError(
                    f"a process that ran trials died, perhaps for want of memory; {self.folder} keeps what was "
                    "finished: run it again, with fewer processes"
                ) from error
            except BaseException:  # Ctrl-C, too, must not wait for all that is queued
                pool.shutdown(cancel_futures=True)
                raise

    def _open(self, bench: Bench) -> None:
        config = json.loads(json.dumps(configuration(bench)))
        path = self.folder / "score_localizers.json"
        if path.exists() and _read(path) != config:
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
        "constants": {"FRACTION": FRACTION, "EARLY": EARLY, "SOLVED": SOLVED, "POWER": POWER},
        "model": model_hash(bench.model),
        "texts": {name: tensor_hash(one.tokens) for name, one in texts.items()},
        "versions": versions(),
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """A block in which torch computes on one thread; afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read(path: Path) -> object:
    """The configuration of trials that were run before.

    Raises:
        InputError: it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(
            f"{path} is damaged, so nobody knows with which settings the trials beside it were run; give another "
            "folder, or delete this one"
        ) from error


_BENCH: list[Bench] = []
"""A worker's own model and texts."""


def _start_worker(load: Callable[[], Bench]) -> None:
    torch.set_num_threads(1)
    _BENCH[:] = [load()]


def _run_trial(folder: Path, trial: Trial) -> None:
    save_row(folder, trial.key, trial.run(_BENCH[0]))
