"""The last frames of one station in memory, with what the model saw of each and what its logic knew before it.

Holds references: a picture is never written again once a camera has handed it over (tests/contracts/test_camera.py),
so a ring costs memory and no copy. What is evicted serves the next picture.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from lineside.records import Decision, Event, Finding, Frame

Answer: TypeAlias = tuple[Finding, ...] | str  # what the model saw, or why it gave no answer
State: TypeAlias = Mapping[str, object]  # as lineside.plain packs it


@dataclass(frozen=True, slots=True)
class Entry:
    """One frame as the station met it."""

    frame: Frame
    seen: Answer
    state: State  # of trigger and event rules, before this frame


@dataclass(frozen=True, slots=True)
class Job:
    """Evidence that is asked for: written by the worker, later."""

    id: str  # of the decision or event; of a missed defect one of its own
    kind: str  # "decision", "event" or "missed"
    why: str  # "reject", "unknown", "escalated", "sample", "event", "missed"
    station: str
    entries: tuple[Entry, ...]  # oldest first
    frames_missing: int  # that belong to it too, and were no longer in the ring
    wall_ns: int
    record: Decision | Event | None = None
    at_end: bool = False  # the record came after the last frame: the source had ended
    note: str = ""  # an operator's


@dataclass(slots=True)
class Ring:
    """At most `room_bytes` of pictures, newest last; one newest frame stays whatever its size."""

    room_bytes: int
    _entries: deque[Entry] = field(init=False, default_factory=deque)
    _bytes: int = field(init=False, default=0)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def add(self, entry: Entry) -> None:
        with self._lock:
            self._entries.append(entry)
            self._bytes += bytes_of(entry.frame)
            while self._bytes > self.room_bytes and len(self._entries) > 1:
                self._bytes -= bytes_of(self._entries.popleft().frame)

    def since(self, number: int) -> tuple[Entry, ...]:
        """The frames from this number on, oldest first, as far as they are still here."""
        with self._lock:
            found = []
            for entry in reversed(self._entries):
                if entry.frame.number < number:
                    break
                found.append(entry)
        return tuple(reversed(found))

    def newest(self, count: int) -> tuple[Entry, ...]:
        """At most so many of the newest frames of one size, oldest first."""
        with self._lock:
            found: list[Entry] = []
            for entry in reversed(self._entries):
                if len(found) == count or (found and entry.frame.image.shape != found[0].frame.image.shape):
                    break
                found.append(entry)
        return tuple(reversed(found))

    def size(self) -> tuple[int, int]:
        """Frames and bytes."""
        return len(self._entries), self._bytes


def bytes_of(frame: Frame) -> int:
    """Memory that a frame keeps: of a region of interest, the whole picture that it was cut from."""
    whole = getattr(frame.image.base, "nbytes", None)
    return int(whole or frame.image.nbytes)
