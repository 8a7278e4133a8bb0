"""Drivers that stand in for the world in tests. They keep the contracts; nothing of lineside is patched."""

from __future__ import annotations


class FakeClock:
    """A Clock that moves only when told. `step_wall` is somebody setting the clock."""

    def __init__(self, start_ns: int = 1_000_000_000, wall_ns: int = 1_750_000_000_000_000_000) -> None:
        self._now_ns = start_ns
        self._wall_ns = wall_ns
        self.is_synchronized = True

    def monotonic_ns(self) -> int:
        return self._now_ns

    def wall_ns(self) -> int:
        return self._wall_ns

    def synchronized(self) -> bool:
        return self.is_synchronized

    def advance(self, seconds: float) -> None:
        step_ns = round(seconds * 1e9)
        self._now_ns += step_ns
        self._wall_ns += step_ns

    def step_wall(self, seconds: float) -> None:
        self._wall_ns += round(seconds * 1e9)
