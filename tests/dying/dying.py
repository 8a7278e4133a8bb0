"""Backends that do not survive, or answer wrong, registered by an entry point as any package's would be."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from lineside.hal.fake import FakeBackend
from lineside.hal.ort import OrtBackend
from lineside.records import Image, Tensor, Window


class Illegal(FakeBackend):
    """As a wheel that was built for a newer processor."""

    packages = ("dying",)

    def __init__(self, *words: Any, **named: Any) -> None:
        os.kill(os.getpid(), signal.SIGILL)


class Killed(FakeBackend):
    """As where the system's memory ends."""

    packages = ("dying",)

    def __init__(self, *words: Any, **named: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Hanging(FakeBackend):
    """As a model with a loop that does not end."""

    packages = ("dying",)

    def __init__(self, *words: Any, **named: Any) -> None:
        time.sleep(3600)


class Constant(OrtBackend):
    """Fast and wrong: what it saw first it says of every picture."""

    packages = ("dying",)

    def infer(self, pixels: Image, slot: int = 0, window: Window | None = None) -> tuple[Tensor, ...]:
        if not hasattr(self, "_first"):
            answers = super().infer(pixels, slot, window)
            self._first = tuple(Tensor(one.name, one.raw.copy(), one.scale, one.zero_point) for one in answers)
        return self._first
