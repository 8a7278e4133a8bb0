"""Which core a runtime's threads get: the carrying thread one, the workers the others, and only where that fits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from lineside.contracts import Backend
from lineside.hal.cores import Cores

ALL = os.sched_getaffinity(0)
pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="needs two cores")


class Runtime:
    """Starts workers when it is opened, as inference engines do."""

    def __init__(self, workers: int, in_caller: bool = True) -> None:
        self._count, self._in_caller = workers, in_caller
        self._end = threading.Event()
        self.workers: list[threading.Thread] = []

    def open(self) -> Backend:
        self.workers = [threading.Thread(target=self._end.wait, daemon=True) for _ in range(self._count)]
        for worker in self.workers:
            worker.start()
        return cast(Backend, SimpleNamespace(computes_in_caller=self._in_caller))

    def cores(self) -> list[set[int]]:
        return [os.sched_getaffinity(worker.native_id or 0) for worker in self.workers]

    def close(self) -> None:
        self._end.set()
        for worker in self.workers:
            worker.join(5)


@pytest.fixture
def runtimes() -> Iterator[list[Runtime]]:
    made: list[Runtime] = []
    yield made
    for runtime in made:
        runtime.close()
    os.sched_setaffinity(0, ALL)


def test_workers_keep_off_the_core_of_the_thread_that_infers(runtimes: list[Runtime]) -> None:
    runtimes.append(runtime := Runtime(len(ALL) - 1))
    cores = Cores()
    cores.open(runtime.open)
    assert cores.lane in ALL
    assert runtime.cores() == [ALL - {cores.lane}] * (len(ALL) - 1)
    with cores.taken():
        assert os.sched_getaffinity(0) == {cores.lane}
    assert os.sched_getaffinity(0) == ALL


def test_a_runtime_opened_again_by_a_thread_that_has_its_core_is_placed_anew(runtimes: list[Runtime]) -> None:
    first, second = Runtime(len(ALL) - 1), Runtime(len(ALL) - 1)
    runtimes += [first, second]
    cores = Cores()
    cores.open(first.open)
    with cores.taken():
        again = threading.Thread(target=cores.open, args=(second.open,))
        again.start()
        again.join(10)
    assert second.cores() == first.cores() == [ALL - {cores.lane}] * (len(ALL) - 1)


def test_given_up_it_places_no_thread_any_more(runtimes: list[Runtime]) -> None:
    first, second = Runtime(len(ALL) - 1), Runtime(len(ALL) - 1)
    runtimes += [first, second]
    cores = Cores()
    cores.open(first.open)
    cores.give_up()
    cores.open(second.open)
    assert [*first.cores(), *second.cores()] == [ALL] * (2 * len(ALL) - 2)
    with cores.taken():
        assert os.sched_getaffinity(0) == ALL


@pytest.mark.parametrize(
    ("workers", "in_caller"), [(0, True), (len(ALL), False)], ids=["one thread", "workers do it all"]
)
def test_elsewhere_the_kernel_places_every_thread(runtimes: list[Runtime], workers: int, in_caller: bool) -> None:
    runtimes.append(runtime := Runtime(workers, in_caller))
    cores = Cores()
    cores.open(runtime.open)
    assert cores.lane is None
    assert all(found == ALL for found in runtime.cores())
    with cores.taken():
        assert os.sched_getaffinity(0) == ALL
