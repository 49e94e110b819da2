"""Who does the work: this process, several processes, or Ray. The results are the same.

Work is a function of one item. A worker is made once where it will run, so that models are never sent over; items
and results are small. No more items are under way than the workers need, which keeps memory flat.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any, Literal, get_args

from memhooks.errors import InputError

EngineName = Literal["local", "ray"]
Make = Callable[..., Callable[[Any], Any]]
"""Makes a worker, which is called with an item."""


@dataclass(frozen=True)
class Engine:
    """Where work is done.

    Attributes:
        name: `local`, or `ray`.
        workers: how many work at once.
        threads: CPU threads of each; the last digits of a result follow it.
        address: of a Ray cluster; None starts Ray on this machine for as long as the work lasts.
        gpus: of each Ray worker; may be a share.
    """

    name: EngineName = "local"
    workers: int = 1
    threads: int = 1
    address: str | None = None
    gpus: float | int = 0

    def __post_init__(self) -> None:
        """Refuse an engine that there is not.

        Raises:
            InputError: an unknown name, no workers or threads, or an address for the local engine.
        """
        if self.name not in get_args(EngineName):
            raise InputError(f"engine must be one of {', '.join(get_args(EngineName))}, got {self.name!r}")
        if self.workers < 1 or self.threads < 1:
            raise InputError(f"workers and threads must be at least 1, got {self.workers} and {self.threads}")
        if self.name == "local" and self.address is not None:
            raise InputError(f"an address belongs to --engine ray, got {self.address!r} with the local engine")

    def map(
        self, make: Make, arguments: Mapping[str, Any], items: Sequence[Any], *, in_threads: bool = False
    ) -> Iterator[Any]:
        """What `make(**arguments)` returns for each item, as it comes; the order is that of completion.

        Args:
            make: makes a worker; named at the top of a module, as it is sent by its name.
            arguments: of it, small.
            items: each is worked on once, or again if its worker was killed (Ray).
            in_threads: on this machine one worker may serve several threads, as its work leaves Python's lock free.

        Raises:
            InputError: Ray is asked for but not there, a local worker was killed, or the work's own error.
        """
        if not items:
            return
        if self.name == "ray":
            from memhooks.scale.ray_engine import map_on_ray

            yield from map_on_ray(self, make, arguments, items)
        elif self.workers == 1:
            yield from map(made(make, arguments, threads=self.threads), items)
        elif in_threads:
            with ThreadPoolExecutor(self.workers) as pool:
                yield from _under_way(pool, made(make, arguments, threads=self.threads), items, 2 * self.workers)
        else:
            yield from _in_processes(self, make, arguments, items)


def made(make: Make, arguments: Mapping[str, Any], *, threads: int) -> Callable[[Any], Any]:
    """A worker with so many threads."""
    import torch

    torch.set_num_threads(threads)
    return make(**arguments)


def _in_processes(engine: Engine, make: Make, arguments: Mapping[str, Any], items: Sequence[Any]) -> Iterator[Any]:
    """Work in processes of their own.

    Raises:
        InputError: one was killed.
    """
    begin = (make, dict(arguments), engine.threads)
    workers = min(engine.workers, len(items))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_become, initargs=begin) as pool:
        try:
            yield from _under_way(pool, _do, items, 2 * workers)
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed (out of memory?); what is done is kept: run again, with fewer --workers "
                "if memory was short"
            ) from error


def _under_way(pool: Executor, work: Callable[[Any], Any], items: Sequence[Any], most: int) -> Iterator[Any]:
    """Results as they come, with so many items under way at most."""
    rest = iter(items)
    waiting = {pool.submit(work, item) for item in islice(rest, most)}
    try:
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                waiting |= {pool.submit(work, item) for item in islice(rest, 1)}
                yield future.result()
    finally:
        for future in waiting:
            future.cancel()


_worker: Callable[[Any], Any]


def _become(make: Make, arguments: Mapping[str, Any], threads: int) -> None:
    global _worker  # the pool's own way to give a process something to keep
    os.environ["OMP_NUM_THREADS"] = str(threads)
    _worker = made(make, arguments, threads=threads)


def _do(item: Any) -> Any:  # noqa: ANN401 - whatever the work takes and gives
    return _worker(item)
