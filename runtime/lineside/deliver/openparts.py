"""Which parts of a station are open: from when it knows of one until its decision is committed or its miss counted.

The marks stand in a memory-mapped file of fixed slots beside the journal. A store into it costs a microsecond, waits
for no disk and no lock of Python's, and stays where a kill -9 leaves it; `sync` takes it to the disk now and then, for
a power cut. A file is written by one run only: the next start reads it (deliver/doubts.py) and begins another.

Version 1: a header of 4096 bytes (magic, length and CRC-32 of a JSON object, the object; in its last four bytes the
number of open parts that found no slot), then slots of 128 bytes: state (0 free, 1 open), CRC-32 of the rest, part
number (0: none yet), monotonic and wall time of its opening in ns, id in UTF-8, padded with zeros. Little-endian.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from lineside.contracts import Clock, Status
from lineside.deliver.messages import rfc3339
from lineside.records import Note

VERSION = 1
MAGIC = b"LSOPEN\r\n"
HEADER_BYTES = 4096
SLOT_BYTES = 128
SLOTS = 4096  # a minute and more of parts at 50 a second while the journal's disk refuses; 512 KiB
ID_BYTES = 64
SUFFIX = ".parts"
_HEAD = struct.Struct("<8sII")  # magic, bytes of JSON, their CRC-32
_UNMARKED = struct.Struct("<I")
_UNMARKED_AT = HEADER_BYTES - _UNMARKED.size
_CRC = struct.Struct("<I")
_MARK = struct.Struct(f"<Iqq{ID_BYTES}s")
_USED_BYTES = 1 + _CRC.size + _MARK.size
_FREE, _OPEN = 0, 1


class Mark(NamedTuple):
    """One open part. `number` is 0 while it has none."""

    id: str
    number: int
    opened_ns: int
    opened_wall_ns: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose marks they are. None: a damaged file does not say."""

    station: str
    run: str
    camera: str | None = None
    boot: str | None = None


class OpenParts:
    """The open parts of one station in this run, in memory until `keep` has a file for them. Any thread may call.

    `status` always adds up: triggers = decisions + misses + in_doubt + open. `uncommitted` are decided, and their
    marks stand until the journal has them.
    """

    def __init__(self, origin: Origin = Origin("", "")) -> None:
        self.origin = origin
        self._lock = threading.Lock()
        self._buffer: bytearray | mmap.mmap = bytearray(HEADER_BYTES + SLOTS * SLOT_BYTES)
        self._file: int | None = None
        self._path: Path | None = None
        self._open: dict[str, tuple[int, Mark]] = {}  # id -> slot (SLOTS and above: none), mark
        self._free: list[int] = []  # slots that were used before: the newest first, so that few pages are touched
        self._used = 0  # slots from here on were never used
        self._unmarked = 0
        self._triggers = self._decisions = self._misses = self._in_doubt = self._uncommitted = 0
        self._synced = -1  # how many triggers the disk knows of; not even the header yet

    @property
    def triggers(self) -> int:
        """How many parts were opened."""
        return self._triggers

    @property
    def is_kept(self) -> bool:
        """Whether the marks would outlive the process."""
        return self._file is not None

    def open(self, part_id: str, number: int, opened_ns: int, opened_wall_ns: int) -> None:
        """The station knows of a part from now on."""
        mark = Mark(part_id, number, opened_ns, opened_wall_ns)
        key = part_id.encode()
        packed = _MARK.pack(number, opened_ns, opened_wall_ns, key)
        packed = _CRC.pack(crc32(packed)) + packed
        with self._lock:
            self._triggers += 1
            slot = self._take_slot() if len(key) <= ID_BYTES else SLOTS
            self._open[part_id] = slot, mark
            if slot == SLOTS:
                self._count_unmarked(1)
                return
            start = HEADER_BYTES + slot * SLOT_BYTES
            self._buffer[start + 1 : start + _USED_BYTES] = packed
            self._buffer[start] = _OPEN  # last: whoever is killed before it leaves no half mark

    def decided(self, part_id: str) -> Callable[[], None] | None:
        """It has a decision; what is returned clears its mark and is called once that is committed. None: not kept."""
        with self._lock:
            slot = self._close(part_id)
            self._decisions += 1
            return self._clears(slot)

    def doubted(self, part_id: str) -> Callable[[], None] | None:
        """It is told as in doubt; as `decided`."""
        with self._lock:
            slot = self._close(part_id)
            self._in_doubt += 1
            return self._clears(slot)

    def missed(self, part_id: str) -> None:
        """The trigger gave it up and has counted it."""
        with self._lock:
            slot = self._close(part_id)
            self._misses += 1
            self._clear(slot)

    def undecided(self) -> tuple[Mark, ...]:
        """The open parts, in the order of their opening."""
        with self._lock:
            return tuple(mark for _, mark in self._open.values())

    def status(self) -> Status:
        with self._lock:
            return {
                "triggers": self._triggers,
                "decisions": self._decisions,
                "misses": self._misses,
                "in_doubt": self._in_doubt,
                "open": len(self._open),
                "uncommitted": self._uncommitted,
                "unmarked": self._unmarked,
                "kept": self.is_kept,
            }

    def keep(self, folder: Path) -> None:
        """Keep the marks in a new file from now on, those that are open too. Raises OSError.

        The file is locked for as long as this process lives.
        """
        path, size_bytes = path_of(folder, self.origin), HEADER_BYTES + SLOTS * SLOT_BYTES
        form = {"version": VERSION, "slots": SLOTS, "slot_bytes": SLOT_BYTES}
        text = json.dumps({**form, **asdict(self.origin)}).encode("ascii")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(file, 0, size_bytes)  # now: a store into a page that the disk has no room for kills
            mapped = mmap.mmap(file, size_bytes)
            mapped[: _HEAD.size + len(text)] = _HEAD.pack(MAGIC, len(text), crc32(text)) + text
            with self._lock:
                mapped[_UNMARKED_AT:] = self._buffer[_UNMARKED_AT:]
                os.replace(fresh, path)
                self._buffer, self._file, self._path = mapped, file, path
        except BaseException:
            os.close(file)
            raise

    def sync(self) -> None:
        """To the disk, if a part was opened since. Waits for it, in the caller's thread only. Raises OSError."""
        triggers, file = self._triggers, self._file
        if file is not None and triggers != self._synced:
            os.fdatasync(file)  # writes mapped pages too; mmap.flush would keep Python's lock meanwhile
            self._synced = triggers

    def leave(self) -> None:
        """The run ends: nothing is left of the file if no part is open. Raises OSError."""
        with self._lock:
            if self._path is not None and not (self._open or self._uncommitted or self._unmarked):
                self._path.unlink(missing_ok=True)

    # --- with the lock held

    def _close(self, part_id: str) -> int | None:
        """Its slot; None for a part that was never opened, which then shows in the counts."""
        slot, _ = self._open.pop(part_id, (None, None))
        return slot

    def _take_slot(self) -> int:
        """SLOTS: none is free."""
        if self._free:
            return self._free.pop()
        if self._used < SLOTS:
            self._used += 1
            return self._used - 1
        return SLOTS

    def _clears(self, slot: int | None) -> Callable[[], None] | None:
        if self._file is None:
            self._clear(slot)
            return None
        self._uncommitted += 1
        return partial(self._committed, slot)

    def _committed(self, slot: int | None) -> None:
        with self._lock:
            self._uncommitted -= 1
            self._clear(slot)

    def _clear(self, slot: int | None) -> None:
        if slot is None:
            return
        if slot == SLOTS:
            self._count_unmarked(-1)
            return
        self._buffer[HEADER_BYTES + slot * SLOT_BYTES] = _FREE
        self._free.append(slot)

    def _count_unmarked(self, more: int) -> None:
        self._unmarked += more
        self._buffer[_UNMARKED_AT:HEADER_BYTES] = _UNMARKED.pack(self._unmarked)


def in_doubt(origin: Origin, mark: Mark, cause: str, clock: Clock) -> Note:
    """For the journal: nobody decided about this part. The same part gives the same id in every try."""
    part = {"id": mark.id, "number": mark.number or None}
    return doubt_note(origin, f"in-doubt-{mark.id}", part, 1, rfc3339(mark.opened_wall_ns), cause, clock)


def doubt_note(
    origin: Origin, id_: str, part: object, parts: int | None, opened_at: str | None, cause: str, clock: Clock
) -> Note:
    """As `in_doubt`, also of parts that cannot be named."""
    fields = {
        "part": part,
        "parts": parts,
        "camera": origin.camera,
        "opened_at": opened_at,
        "cause": cause,
        "boot": origin.boot,
        "run": origin.run,
    }
    return Note(id_, "in_doubt", origin.station, fields, clock.monotonic_ns(), clock.wall_ns())


@dataclass(frozen=True, slots=True)
class Left:
    """What a run left in its file. `fault` says what of the file cannot be read; empty for a sound one."""

    origin: Origin
    marks: tuple[Mark, ...]
    unknown: int | None  # parts that were open and cannot be named; None: nobody can say how many
    fault: str


def path_of(folder: Path, origin: Origin) -> Path:
    return folder / f"{origin.station}~{origin.run}{SUFFIX}"


def read(path: Path) -> Left:
    """Read a file that an earlier run left, whatever has become of it. Raises OSError."""
    station, _, run = path.name.removesuffix(SUFFIX).partition("~")
    with path.open("rb") as file:
        return parse(file.read(HEADER_BYTES + SLOTS * SLOT_BYTES), Origin(station, run))


def parse(content: bytes, named: Origin) -> Left:
    """As `read`, of a file's content and what its name tells; never raises."""
    head, fault = _parse_head(content)
    if fault:
        return Left(named, (), None, fault)
    marks, broken = [], 0
    for start in range(HEADER_BYTES, len(content) - SLOT_BYTES + 1, SLOT_BYTES):
        if content[start] == _FREE:
            continue
        mark = _parse_mark(content[start : start + SLOT_BYTES])
        if mark is None:
            broken += 1
        else:
            marks.append(mark)
    faults = [f"{broken} marks cannot be read"] if broken else []
    if len(content) < HEADER_BYTES + SLOTS * SLOT_BYTES:
        faults.append(f"it was cut to {len(content)} bytes")
    (unmarked,) = _UNMARKED.unpack(content[_UNMARKED_AT:HEADER_BYTES])
    marks.sort(key=lambda mark: (mark.opened_ns, mark.number))
    unknown = None if len(faults) > bool(broken) else unmarked + broken
    origin = Origin(named.station, named.run, _text(head, "camera"), _text(head, "boot"))
    return Left(origin, tuple(marks), unknown, "; ".join(faults))


def _parse_head(content: bytes) -> tuple[Mapping[str, object], str]:
    if len(content) < HEADER_BYTES:
        return {}, f"it is cut to {len(content)} bytes"
    magic, length, crc = _HEAD.unpack_from(content)
    text = content[_HEAD.size : _HEAD.size + length]
    if magic != MAGIC or length > _UNMARKED_AT - _HEAD.size or crc32(text) != crc:
        return {}, "its header is damaged"
    head = json.loads(text)
    form = (head.get("version"), head.get("slots"), head.get("slot_bytes"))
    if form != (VERSION, SLOTS, SLOT_BYTES):
        return {}, f"its format (version, slots, bytes) is {form}, and this version reads {VERSION, SLOTS, SLOT_BYTES}"
    return head, ""


def _parse_mark(slot: bytes) -> Mark | None:
    (crc,) = _CRC.unpack_from(slot, 1)
    packed = slot[1 + _CRC.size : _USED_BYTES]
    if slot[0] != _OPEN or crc32(packed) != crc:
        return None
    number, opened_ns, opened_wall_ns, key = _MARK.unpack(packed)
    try:
        part_id = key.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return None
    return Mark(part_id, number, opened_ns, opened_wall_ns) if part_id else None


def _text(head: Mapping[str, object], name: str) -> str | None:
    value = head.get(name)
    return value if isinstance(value, str) else None
