"""Work on Ray Data: a pool of actors, each made once, to which items are streamed; killed actors are made anew."""

import logging
import os
import pickle
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from memhooks.errors import InputError
from memhooks.scale.engine import Make, made

if TYPE_CHECKING:
    from memhooks.scale.engine import Engine


def map_on_ray(engine: "Engine", make: Make, arguments: Mapping[str, Any], items: Sequence[Any]) -> Iterator[Any]:
    """What the work returns for each item, as it comes; an item whose actor was killed is worked on again.

    Raises:
        InputError: Ray is not installed, cannot be reached, or the work's own error.
    """
    try:
        import ray.data
    except ImportError as error:
        raise InputError("--engine ray needs Ray; run pip install 'memhooks[ray]', or use --engine local") from error
    with _connected(engine):
        rows = ray.data.from_items([{"item": at} for at in range(len(items))], override_num_blocks=max(1, len(items)))
        actor = {
            "make": make,
            "arguments": dict(arguments),
            "items": list(items),
            "threads": engine.threads,
            "folder": os.getcwd(),  # noqa: PTH109 - where relative paths start
        }
        results = rows.map_batches(
            _Actor,
            fn_constructor_kwargs=actor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(engine.workers, len(items))),
            num_cpus=engine.threads,
            num_gpus=engine.gpus or None,
        )
        for row in results.iter_rows():
            result, error = pickle.loads(row["result"])  # made by our own actor
            if error is not None:
                raise error
            yield result


class _Actor:
    """A worker inside Ray."""

    def __init__(self, **actor: Any) -> None:  # noqa: ANN401 - as above
        if os.path.isdir(actor["folder"]):  # noqa: PTH112
            os.chdir(actor["folder"])
        self._items = actor["items"]
        self._work = made(actor["make"], actor["arguments"], threads=actor["threads"])

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        return {"result": [pickle.dumps(self._tried(at)) for at in batch["item"].tolist()]}

    def _tried(self, at: int) -> tuple[Any, Exception | None]:
        """The result, or the work's own error, which Ray would wrap in a page of its own."""
        try:
            return self._work(self._items[at]), None
        except Exception as error:
            return None, error


@contextmanager
def _connected(engine: "Engine") -> Iterator[None]:
    """Ray, started if there was none, and then stopped again.

    Raises:
        InputError: no cluster answers at the address.
    """
    import ray.data

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    was_there = ray.is_initialized()
    if not was_there:
        _check_answers(engine.address)
        # One core more than the workers have: Ray Data itself runs small tasks.
        of_its_own = {} if engine.address else {"num_cpus": engine.workers * engine.threads + 1,
                                                "include_dashboard": False}  # fmt: skip
        try:
            ray.init(address=engine.address or "local", log_to_driver=False, logging_level=logging.ERROR, **of_its_own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"no Ray cluster answers at {engine.address}: start it, or leave --address out") from error
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    shown, level = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = shown
        log.setLevel(level)
        if not was_there:
            ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Refuse an address at which nothing listens, for which Ray itself would wait for minutes.

    Raises:
        InputError: nothing does.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # none, or `auto`
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise InputError(f"no Ray cluster answers at {address}: start it, or leave --address out") from error
