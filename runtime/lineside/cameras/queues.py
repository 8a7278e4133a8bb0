"""Between a capture thread and its pipeline: LatestFrame (size 1, overwrite) or PartQueue (bounded, loses nothing)."""

from __future__ import annotations

from collections import deque
from enum import Enum
from threading import Condition

from lineside.records import Frame


class End(Enum):
    """What `take` gives once the source has come to its end and everything before it was taken."""

    END = "end"


END = End.END


class LatestFrame:
    """The newest frame. `skipped` counts those that a newer one replaced before anybody took them."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._frame: Frame | None = None
        self._ended = False
        self.skipped = 0

    def put(self, frame: Frame, timeout_s: float = 0.0) -> bool:
        """Hand a frame over; there is always room."""
        with self._changed:
            if self._frame is not None:
                self.skipped += 1
            self._frame = frame
            self._changed.notify()
        return True

    def take(self, timeout_s: float) -> Frame | End | None:
        """The newest frame; None after `timeout_s` without one."""
        with self._changed:
            if self._frame is None and not self._ended:
                self._changed.wait(timeout_s)
            frame, self._frame = self._frame, None
            if frame is None and self._ended:
                return END
            return frame

    def end(self) -> None:
        """No frame will come any more; wakes whoever waits."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class PartQueue:
    """The next `room` frames in order; `put` waits while it is full."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._changed = Condition()
        self._frames: deque[Frame] = deque()
        self._ended = False

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame, timeout_s: float = 0.0) -> bool:
        """Hand a frame over; False if there was no room within `timeout_s`."""
        with self._changed:
            if len(self._frames) >= self._room and timeout_s > 0:
                self._changed.wait(timeout_s)  # a take notifies; so does nothing else while the putter waits
            if len(self._frames) >= self._room:
                return False
            self._frames.append(frame)
            self._changed.notify()
        return True

    def take(self, timeout_s: float) -> Frame | End | None:
        """The next frame; None after `timeout_s` without one."""
        with self._changed:
            if not self._frames and not self._ended:
                self._changed.wait(timeout_s)
            if self._frames:
                frame = self._frames.popleft()
                self._changed.notify()
                return frame
            return END if self._ended else None

    def end(self) -> None:
        """No frame will come any more; wakes whoever waits."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
