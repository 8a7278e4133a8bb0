"""Keeps the thread that carries a frame and the runtime's worker threads on cores of their own.

Where a runtime has a thread for every core and the caller's thread is one of them, the kernel often wakes a worker on
the caller's core: two threads that should run beside each other take turns. Beside each other they share caches and
execution units, so that a frame may cost more processor time. On two hyperthreads an INT8 YOLO of 640 px was sooner by
4 ms on ONNX Runtime and by 3 ms on LiteRT, at the same cost; one of 320 px on ONNX Runtime by 2 ms, at a fifth more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lineside.contracts import Backend


class Cores:
    """The cores of one model with one slot. `lane` is for the thread that infers; None: the kernel places it."""

    def __init__(self) -> None:
        self.lane: int | None = None
        self._workers: set[int] = set()
        self._wanted = True
        self._all = os.sched_getaffinity(0)

    def open(self, make: Callable[[], Backend]) -> Backend:
        """Open a backend, and place the threads that it starts if it computes in the caller's thread, too."""
        if len(self._all) < 2 or not self._wanted:
            return make()
        _place(0, self._all)  # a thread that reopens was started by one that has its core
        before = _threads()
        backend = make()
        workers = _threads() - before
        if workers and len(workers) >= len(self._all) - 1 and getattr(backend, "computes_in_caller", False):
            self.lane = max(self._all)  # interrupts mostly go to the first
            self._workers = workers
            for worker in workers:
                _place(worker, self._all - {self.lane})
        return backend

    def give_up(self) -> None:
        """Let the kernel place every thread, now and whenever the backend is opened again."""
        self.lane, self._wanted = None, False
        for worker in self._workers:
            _place(worker, self._all)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """The calling thread is the one that infers."""
        if self.lane is not None:
            _place(0, {self.lane})
        try:
            yield
        finally:
            if self.lane is not None:
                _place(0, self._all)


def _threads() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}


def _place(thread: int, cores: set[int]) -> None:
    try:
        os.sched_setaffinity(thread, cores)
    except OSError:  # the thread has ended, or a sandbox forbids it: the kernel goes on placing it
        return
