"""The box's clock: monotonic for logic, wall time and its sync state for people and messages."""

from __future__ import annotations

import ctypes
import time
from functools import cache


class SystemClock:
    """contracts.Clock of the machine."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    wall_ns = staticmethod(time.time_ns)

    def synchronized(self) -> bool:
        """Whether the kernel says that an NTP or PTP daemon keeps the wall clock (adjtimex(2): not TIME_ERROR)."""
        return _adjtimex() != _TIME_ERROR


_TIME_ERROR = 5  # <sys/timex.h>


class _Timex(ctypes.Structure):
    # modes = 0 asks without setting; the rest of struct timex is only room for the answer (208 bytes on 64-bit Linux)
    _fields_ = (("modes", ctypes.c_uint), ("room", ctypes.c_char * 252))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _adjtimex() -> int:
    answer = _Timex()
    try:
        return int(_libc().adjtimex(ctypes.byref(answer)))
    except (OSError, AttributeError):
        return _TIME_ERROR
