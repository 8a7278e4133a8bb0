"""One executor per device: gives out its slots first come, first served, and reopens a device that failed.

Stands between `before` and `after` of pipeline.py. A slot is a place for one request in flight with buffers of its
own, so as many frames as there are slots run at once. Waiters are served in the order they came: since a station
never has more than its own few frames waiting, cameras that share a device get equal turns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lineside.contracts import Backend, Clock, Status
from lineside.errors import ConfigError, DeviceError
from lineside.records import Image, Tensor, Window


class Executor:
    """Runs models on one device. `open_backend` is called again, with backoff, after the device has failed."""

    def __init__(
        self,
        open_backend: Callable[[], Backend],
        *,
        slots: int,
        clock: Clock,
        reopen_min_s: float = 1.0,
        reopen_max_s: float = 30.0,
    ) -> None:
        self._open_backend = open_backend
        self._clock = clock
        self._reopen_s = (reopen_min_s, reopen_max_s)
        self._lock = threading.Lock()
        self._free = deque(range(slots))
        self._waiting: deque[_Waiter] = deque()
        self._backend: Backend | None = open_backend()
        self._last = self._backend
        self._closed = threading.Event()
        self._fault = ""
        self._broken: Exception | None = None
        self._failures = 0
        self._reopened = 0
        self.slots = slots

    @property
    def backend(self) -> Backend:
        """The backend as last opened; it may be down."""
        assert self._last is not None
        return self._last

    @contextmanager
    def slot(self) -> Iterator[int]:
        """Hold one slot; its tensors are valid while it is held."""
        number = self._acquire()
        try:
            yield number
        finally:
            self._release(number)

    def infer(self, pixels: Image, slot: int, window: Window | None = None) -> tuple[Tensor, ...]:
        """Run the model. Raises DeviceError at once while the device is down; reopening goes on behind it.

        A fault of a driver, neither DeviceError nor ConfigError, ends reopening and is raised here, in a worker.
        """
        backend = self._backend
        if self._broken is not None:
            raise self._broken
        if backend is None:
            raise DeviceError(f"device is down ({self._fault}); lineside keeps reopening it")
        try:
            return backend.infer(pixels, slot, window)
        except DeviceError as error:
            self._failed(backend, str(error))
            raise

    def status(self) -> Status:
        return {
            "device": self.backend.device,
            "up": self._backend is not None,
            "slots": self.slots,
            "waiting": len(self._waiting),
            "failures": self._failures,
            "reopened": self._reopened,
            "last_error": self._fault,
        }

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def _acquire(self) -> int:
        with self._lock:
            if self._free:
                return self._free.popleft()
            waiter = _Waiter()
            self._waiting.append(waiter)
        waiter.ready.wait()  # ends: every holder releases its slot when its infer returns
        return waiter.slot

    def _release(self, number: int) -> None:
        with self._lock:
            if not self._waiting:
                self._free.append(number)
                return
            waiter = self._waiting.popleft()
        waiter.slot = number
        waiter.ready.set()

    def _failed(self, backend: Backend, fault: str) -> None:
        with self._lock:
            if self._backend is not backend:
                return  # another slot saw it first
            self._backend = None
            self._failures += 1
            self._fault = fault
        threading.Thread(target=self._reopen, args=(backend,), name="reopen-device", daemon=True).start()

    def _reopen(self, failed: Backend) -> None:
        wait_s, most_s = self._reopen_s
        while not self._closed.wait(wait_s):
            failed.close()
            try:
                backend = self._open_backend()
            except (DeviceError, ConfigError) as error:
                self._fault = str(error)
                wait_s = min(wait_s * 2, most_s)
                continue
            except Exception as error:  # this thread ends here; a worker hears of it, and a restart may cure it
                self._broken = error
                return
            with self._lock:
                if not self._closed.is_set():
                    self._backend = self._last = backend
                    self._reopened += 1
                    return
            backend.close()


class _Waiter:
    def __init__(self) -> None:
        self.ready = threading.Event()
        self.slot = -1
