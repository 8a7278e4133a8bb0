"""Concludes what lanes bring in the order in which it was taken: between a lane's model and the station's rules."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class InOrder(Generic[T]):
    """Concludes things in the order of their turns, each in the thread that brings the one that was waited for.

    Who comes too early leaves its thing here and goes on, as far as there is room: a slow frame delays the decisions
    after it, and no other work.
    """

    def __init__(self, conclude: Callable[[T], None], room: int) -> None:
        self._conclude = conclude
        self._room = room
        self._waiting: dict[int, T] = {}
        self._next = 0
        self._busy = False  # a thread concludes: it will find what others bring meanwhile
        self._over = False  # nothing is concluded any more
        self._closed = False
        self._moved = threading.Condition()

    def has_room(self, timeout_s: float) -> bool:
        """Wait until another thing may be taken; False after the time."""
        if len(self._waiting) < self._room:
            return True
        with self._moved:
            return self._moved.wait_for(lambda: len(self._waiting) < self._room, timeout_s)

    def bring(self, turn: int, thing: T) -> None:
        """Conclude this and all that follow it without a gap, or leave it to the thread that closes the gap.

        Raises what `conclude` raises; from then on nothing is concluded.
        """
        with self._moved:
            self._waiting[turn] = thing
            if self._busy:
                return
            self._busy = True
        while True:
            with self._moved:
                if self._over or self._next not in self._waiting:
                    self._busy = False
                    self._moved.notify_all()
                    return
                thing = self._waiting.pop(self._next)
                self._next += 1
                self._moved.notify()
            try:
                self._conclude(thing)
            except BaseException:
                with self._moved:
                    self._over, self._busy = True, False
                raise

    def close(self, timeout_s: float) -> bool:
        """Conclude nothing more. True for the first who asks, if within the time no thread concludes any longer."""
        with self._moved:
            if self._closed:
                return False
            self._closed = self._over = True
            return self._moved.wait_for(lambda: not self._busy, timeout_s)
