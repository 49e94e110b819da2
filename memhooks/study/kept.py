"""Results that are computed once: each is on disk before it is used, so a killed run loses one of them at most."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, ParamSpec

import xarray as xr

from memhooks.errors import InputError
from memhooks.model.labelled import load_result, save_result
from memhooks.writing import whole_file

P = ParamSpec("P")
Results = dict[str, dict[str, xr.Dataset]]
"""Results by their name and by condition."""


class DamagedError(InputError):
    """A result on disk cannot be read."""


class Made(NamedTuple):
    """One result that is there now.

    Attributes:
        name: of the result, such as perturbation/memorized.
        seconds: that it took; 0 if it was on disk already.
        reused: whether it was.
    """

    name: str
    seconds: float
    reused: bool


@dataclass
class Kept:
    """The results of a run folder: `results/<name>/<condition>.nc`, each of which xarray opens alone.

    Attributes:
        folder: of the run.
        watch: is told of each result.
        before: is called before anything is computed, and may raise to end the run.
        results: all that were computed or read.
    """

    folder: Path
    watch: Callable[[Made], None] = field(default=lambda made: None)
    before: Callable[[], None] = field(default=lambda: None)
    results: Results = field(default_factory=dict)
    _about: str = ""  # the stage, and its results so far
    _names: list[str] = field(default_factory=list)
    _before: list[str] = field(default_factory=list)  # what an earlier try at it had

    def __call__(
        self, name: str, condition: str, compute: Callable[P, xr.Dataset], *args: P.args, **kwargs: P.kwargs
    ) -> xr.Dataset:
        """The result `compute(*args, **kwargs)`, from disk if it lies there.

        It is read back even where it was just computed: a run that goes on must see the very same.
        """
        path, start = self._path(name, condition), time.perf_counter()
        reused = path.exists()
        self._names.append(f"{name}/{condition}")
        if not reused:
            self.before()
            self._write_record(done=False)  # first: a result that no record names could not be dropped
            save_result(compute(*args, **kwargs), path)
        result = self._read(name, condition)
        self.watch(Made(self._names[-1], 0.0 if reused else time.perf_counter() - start, reused))
        return result

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Within it results belong to the stage; it is done once the block ends without an error."""
        self._names, self._before = [], self._record(stage)["results"]
        self._about = stage
        yield
        self._write_record(done=True)

    def finished(self, stage: str) -> bool:
        """Whether a stage is done; then all its results are read, in the order in which they were computed."""
        if not self.is_done(stage):
            return False
        for name in self._record(stage)["results"]:
            self._read(*name.split("/"))
            self.watch(Made(name, 0.0, reused=True))
        return True

    def is_done(self, stage: str) -> bool:
        """Whether a stage was finished and every result of it still lies there."""
        record = self._record(stage)
        return record["done"] and all(self._path(*name.split("/")).exists() for name in record["results"])

    def forget(self) -> None:
        """Leave out what the stage had so far, as it cannot be finished; the files stay, for another try."""
        for name, condition in (one.split("/") for one in self._names):
            self.results.get(name, {}).pop(condition, None)
            if not self.results.get(name, True):
                del self.results[name]

    def drop(self, stage: str) -> None:
        """Delete a stage's results, to have them computed again."""
        for name in self._record(stage)["results"]:
            self._path(*name.split("/")).unlink(missing_ok=True)
        self._record_path(stage).unlink(missing_ok=True)  # last: killed in between, the record still names the rest

    def _record(self, stage: str) -> dict:
        path = self._record_path(stage)
        return json.loads(path.read_text()) if path.exists() else {"done": False, "results": []}

    def _write_record(self, *, done: bool) -> None:
        path = self._record_path(self._about)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            names = self._names if done else list(dict.fromkeys([*self._names, *self._before]))
            partial.write_text(json.dumps({"done": done, "results": names}))

    def _record_path(self, stage: str) -> Path:
        return self.folder / "stages" / f"{stage}.json"

    def _path(self, name: str, condition: str) -> Path:
        return self.folder / "results" / name / f"{condition}.nc"

    def _read(self, name: str, condition: str) -> xr.Dataset:
        path = self._path(name, condition)
        try:
            result = load_result(path)
        except InputError as error:
            raise DamagedError(f"{error}: delete this file, and the run goes on from there") from error
        self.results.setdefault(name, {})[condition] = result
        return result
