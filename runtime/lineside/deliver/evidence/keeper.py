"""Keeps evidence within its room: so much of the disk free, so much used at most, and what goes first.

Oldest first within a class; samples of accepts before events, unknowns and escalations, rejects, and what an operator
labelled last, announced before it goes. Used by the worker's thread only.
"""

from __future__ import annotations

import bisect
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lineside.errors import DeviceError

ORDER = ("sample", "event", "unknown", "escalated", "reject", "missed")  # what goes first; the last is labelled
LABELLED = ORDER.index("missed")
LABELS = "labels"  # folder with a file <id>.json for each piece that an operator labelled


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """One folder: `<root>/<station>/<stamp>-<why>-<id>`."""

    rank: int
    stamp: str  # "20261121T101500.123456Z": sorts by time
    path: Path

    @property
    def id(self) -> str:
        return self.path.name.split("-", 2)[2]

    @property
    def why(self) -> str:
        return ORDER[self.rank]


def piece_of(path: Path) -> Piece | None:
    """None for a folder that is no evidence."""
    stamp, _, rest = path.name.partition("-")
    why, _, name = rest.partition("-")
    return Piece(ORDER.index(why), stamp, path) if why in ORDER and name and stamp.endswith("Z") else None


def labelled(root: Path) -> frozenset[str]:
    """Ids of pieces that an operator labelled. Raises OSError."""
    place = root / LABELS
    return frozenset(path.stem for path in place.iterdir() if path.suffix == ".json") if place.is_dir() else frozenset()


def pieces(root: Path) -> list[Piece]:
    """Every piece below a root, in the order in which they go. Raises OSError."""
    if not root.is_dir():
        return []
    stations = (place for place in root.iterdir() if place.is_dir() and not place.name.startswith("."))
    folders = (path for station in stations for path in station.iterdir())
    return sorted(piece for path in folders if (piece := piece_of(path)) is not None)


class Keeper:
    """`announce` is told of a labelled piece that will go, `removed` of what went."""

    def __init__(
        self,
        root: Path,
        *,
        cap_bytes: int,
        min_free_bytes: int,
        min_free_percent: float,
        grace_s: float,
        announce: Callable[[Piece, float], None],
        removed: Callable[[Piece], None],
    ) -> None:
        self._root = root
        self._cap_bytes, self._min_free_bytes, self._min_free_percent = cap_bytes, min_free_bytes, min_free_percent
        self._grace_s = grace_s
        self._announce, self._removed = announce, removed
        self._pieces: list[Piece] | None = None  # None: not looked at yet
        self._announced: dict[str, float] = {}  # id -> from when on it may go, on the monotonic clock
        self.used_bytes = 0
        self.counts: Counter[str] = Counter()  # removed, by class

    def look(self) -> None:
        """Find what is there from earlier runs. Raises OSError."""
        if self._pieces is not None:
            return
        found = pieces(self._root)
        # a picture that several pieces share is counted once: a share with each of its links
        self.used_bytes = sum(_shares(piece.path) for piece in found)
        self._pieces = found

    def add(self, path: Path, new_bytes: int) -> None:
        """A piece that was just written; `new_bytes` of it are not shared with an earlier one."""
        piece = piece_of(path)
        if piece is not None and self._pieces is not None:
            bisect.insort(self._pieces, piece)
            self.used_bytes += new_bytes

    def make_room(self, need_bytes: int) -> None:
        """Let go of what is in the way of `need_bytes` more. Raises DeviceError if none can be made, OSError."""
        self.look()
        assert self._pieces is not None
        while lack := self._lacks(need_bytes):
            piece = self._next()
            if piece is None:
                raise DeviceError(f"{self._root}: {lack}, and nothing is left that may go")
            self.used_bytes -= _only_here(piece.path)
            shutil.rmtree(piece.path)
            (self._root / LABELS / f"{piece.id}.json").unlink(missing_ok=True)
            self._pieces.remove(piece)
            self.counts[piece.why] += 1
            self._removed(piece)

    def count(self) -> int:
        return len(self._pieces or ())

    def _next(self) -> Piece | None:
        """What goes next; of labelled pieces the oldest, once its time is over since it was announced."""
        assert self._pieces is not None
        kept = labelled(self._root)
        piece = next((piece for piece in self._pieces if piece.rank < LABELLED and piece.id not in kept), None)
        if piece is not None or not self._pieces:
            return piece
        piece = min(self._pieces, key=lambda piece: piece.stamp)
        now = time.monotonic()
        if piece.id not in self._announced:
            self._announced[piece.id] = now + self._grace_s
            self._announce(piece, self._grace_s)
        return piece if now >= self._announced[piece.id] else None

    def _lacks(self, need_bytes: int) -> str:
        """Why there is no room; "" if there is."""
        if self.used_bytes + need_bytes > self._cap_bytes:
            return f"{self.used_bytes / 1e6:.0f} MB used of cap_mb = {self._cap_bytes / 1e6:.0f}"
        disk = os.statvfs(self._root)
        free = disk.f_bavail * disk.f_frsize
        floor = max(self._min_free_bytes, disk.f_blocks * disk.f_frsize * self._min_free_percent / 100)
        return f"{free / 1e6:.0f} MB free, {floor / 1e6:.0f} MB are to stay free" if free - need_bytes < floor else ""


def _shares(folder: Path) -> int:
    return sum(stat.st_blocks * 512 // stat.st_nlink for stat in map(os.lstat, folder.iterdir()))


def _only_here(folder: Path) -> int:
    return sum(stat.st_blocks * 512 for stat in map(os.lstat, folder.iterdir()) if stat.st_nlink == 1)
