import pytest
import torch

from memhooks.errors import InputError
from memhooks.model.replay import batches as module
from memhooks.model.replay.batches import MOST, Batches, batches, bytes_per_row
from memhooks.model.replay.clean_run import clean_run
from memhooks.model.replay.edits import token_edits
from memhooks.model.replay.replay import replay
from memhooks.model.replay.work import Work


@pytest.fixture
def run(model):
    return clean_run(model, torch.randint(101, (3, 20), generator=torch.Generator().manual_seed(0)), first=10)


def full(size):
    """A function that has memory for so many rows."""
    done = []

    def function(rows):
        if len(rows) > size:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        done.append(rows)

    return done, function


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_rows_are_halved_until_they_fit_and_each_runs_once(size):
    done, function = full(size)
    limit = Batches(16)
    limit.run(torch.arange(21), function)
    assert torch.equal(torch.cat(done), torch.arange(21))
    assert limit.rows == {1: 1, 3: 2, 7: 4, 100: 16}[size]


def test_a_limit_once_lowered_stays_and_nothing_is_tried_twice():
    tried = []

    def function(rows):
        tried.append(len(rows))
        if len(rows) > 3:
            raise MemoryError

    limit = Batches(16)
    limit.run(torch.arange(64), function)
    assert limit.rows == 2
    assert [size for size in tried if size > 3] == [16, 8, 4]


def test_one_row_that_does_not_fit_is_an_error():
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        Batches(4).run(torch.arange(4), full(0)[1])


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def fails(rows):
        raise RuntimeError("shapes differ")

    limit = Batches(4)
    with pytest.raises(RuntimeError, match="shapes differ"):
        limit.run(torch.arange(4), fails)
    assert limit.rows == 4


def test_a_sweep_that_ran_out_of_memory_gives_the_same_and_says_so(run, monkeypatch):
    row = torch.arange(12) % 3
    edits = token_edits(run, row, torch.arange(12) % 9, torch.arange(12)[:, None])
    whole = replay(run, edits, batches=Batches(12))
    block, work = module.Batches.run, Work()

    def short_of_memory(self, rows, function):
        def limited(some):
            if len(some) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            function(some)

        block(self, rows, limited if function.__name__ == "run_rows" else function)

    monkeypatch.setattr(module.Batches, "run", short_of_memory)
    halved = replay(run, edits, batches=Batches(12), work=work)
    torch.testing.assert_close(halved.nll, whole.nll, rtol=1e-5, atol=1e-5)
    assert work.about()["rows_per_batch"] <= 2


def test_the_limit_comes_from_free_memory(run, monkeypatch):
    assert batches(run, 5).rows == 5
    assert batches(run, None).rows == MOST
    free = 2 * (3 * module.ROWS * module.SLICE * 4 + 7 * bytes_per_row(run))
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: type("M", (), {"available": free}))
    assert batches(run, None).rows == 7
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: type("M", (), {"available": 0}))
    assert batches(run, None).rows == 1


def test_fewer_than_one_row_is_refused(run):
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        batches(run, 0)
