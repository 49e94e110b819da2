"""Work is done once per item, here, in processes and on Ray, also when a worker is killed."""

import inspect

import pytest

from memhooks.errors import InputError
from memhooks.scale.engine import Engine
from tests.scale.workers import doubler

ENGINES = [Engine(), Engine(workers=2), Engine("ray", workers=2)]


@pytest.mark.parametrize("engine", ENGINES, ids=["here", "processes", "ray"])
def test_every_item_is_worked_on_and_errors_are_the_works_own(engine):
    assert sorted(engine.map(doubler, {}, range(20))) == list(range(0, 40, 2))
    assert list(engine.map(doubler, {}, [])) == []
    with pytest.raises(InputError, match="cannot double 3"):
        list(engine.map(doubler, {"refused": 3}, range(6)))


def test_threads_share_one_worker():
    assert sorted(Engine(workers=3).map(doubler, {}, range(20), in_threads=True)) == list(range(0, 40, 2))


def test_ray_makes_a_killed_worker_anew(tmp_path):
    mark = tmp_path / "killed"
    arguments = {"killed_at": 5, "mark": str(mark)}
    assert sorted(Engine("ray", workers=2).map(doubler, arguments, range(12))) == list(range(0, 24, 2))
    assert mark.exists()


def test_a_killed_process_is_said(tmp_path):
    arguments = {"killed_at": 5, "mark": str(tmp_path / "killed")}
    with pytest.raises(InputError, match=r"a worker process was killed .* run again, with fewer --workers"):
        list(Engine(workers=2).map(doubler, arguments, range(12)))


def test_engines_that_there_are_not():
    for settings, message in [
        ({"name": "spark"}, "engine must be one of local, ray, got 'spark'"),
        ({"workers": 0}, "workers and threads must be at least 1"),
        ({"address": "auto"}, "an address belongs to --engine ray"),
    ]:
        with pytest.raises(InputError, match=message):
            inspect.unwrap(Engine.__init__)(object.__new__(Engine), **settings)  # without the check of types
    with pytest.raises(InputError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        list(Engine("ray", address="127.0.0.1:1").map(doubler, {}, [1]))
