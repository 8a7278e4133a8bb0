"""Run a function in a forked child: what it imports and allocates goes away with the child, only the result stays."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

from lineside.errors import DeviceError

P = ParamSpec("P")
T = TypeVar("T")


class Apart(Generic[T]):
    """Starts at once, beside the caller; `result` waits. For a process that has no other thread yet.

    With other threads about, a fork is unsafe: the function then runs here, in the constructor, as it does where the
    system has no room for another process. Result and exceptions are pickled on the way.
    """

    def __init__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        self._pid: int | None = None
        self._answer = b""
        if threading.active_count() > 1:
            self._answer = _call(lambda: function(*args, **kwargs))
            return
        self._from, to = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._from)
            os.close(to)
            self._answer = _call(lambda: function(*args, **kwargs))
            return
        if self._pid == 0:
            try:
                with open(to, "wb") as pipe:
                    pipe.write(_call(lambda: function(*args, **kwargs)))
            finally:
                os._exit(0)
        os.close(to)

    def result(self) -> T:
        """What the function returned; raises what it raised. DeviceError if the child was killed."""
        if self._pid is not None:
            with open(self._from, "rb") as pipe:
                self._answer = pipe.read()
            _, ended = os.waitpid(self._pid, 0)
            self._pid = None
            if not self._answer:
                raise DeviceError(
                    f"a child process of lineside ended without an answer (wait status {ended}): "
                    "where the system killed it, it says so: look for 'out of memory' in `journalctl -k`"
                )
        error, value = pickle.loads(self._answer)
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]


def _call(function: Callable[[], T]) -> bytes:
    """(exception or None, value), pickled."""
    try:
        return pickle.dumps((None, function()))
    except BaseException as error:  # a worker ends here: the caller's thread is the other one
        try:
            return pickle.dumps((error, None))
        except Exception:  # an exception that holds something open
            return pickle.dumps((RuntimeError(repr(error)), None))
