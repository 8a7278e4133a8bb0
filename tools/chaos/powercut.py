"""Power cuts. A run is recorded by world.c; then any instant of it is made what a disk may hold after a cut there.

A cut keeps all that was synced, and of the rest anything: each write of 512-byte sectors may be there or not, whatever
its order; a file may have grown without its content; of names made, changed and taken away since the folder was synced
the first few are kept. What was published by then (sent to the broker, read from the same record) must be in the
journal that lineside opens on what is left.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from chaos import broken, world
from chaos import line as lines
from chaos.receiver import digest
from chaos.verdict import Key
from lineside.clock import SystemClock
from lineside.deliver.journal import Journal
from lineside.errors import RemoteError
from peers import FAST, Broker, Lineside, until

OPEN, WRITE, TRUNCATE, SYNC, SYNC_FOLDER, RENAME, UNLINK, MKDIR, SEND, MAP = range(1, 11)
SECTOR_BYTES = 512
_HEAD = struct.Struct("=8q")
_MAGIC = 0x444C524F57454E4C
_PUBLISH, _CONNECT = 0x30, 0x10  # MQTT packet types
_STORE = ("journal.db", "journal.db-wal")  # other files may be mapped, as SQLite's -shm, and are left out after a cut
_VERIFY_EVERY = 10  # cuts: `lineside ledger verify` is a process of its own
Keep: TypeAlias = Literal["nothing", "everything", "some"]


@dataclass(frozen=True, slots=True)
class Op:
    """One record of world.c; `at` is where it begins in the record."""

    at: int
    op: int
    file: int
    offset: int
    path: str
    data: bytes
    result: int


@dataclass(frozen=True)
class Recorded:
    """A run: its operations, and the folder that they were done in."""

    folder: Path
    ops: list[Op]
    durable: bool


# --- recording ------------------------------------------------------------------------------------------------------


def record(folder: Path, fault: str, seed: int, durable: bool = True, seconds: float = 1.5) -> Recorded:
    """Run a line at 200 decisions/s under the recorder: kill -9, a clean stop, kill -9."""
    folder.mkdir(parents=True)
    dice = random.Random(seed)
    state, file = folder / "state", folder / "record"
    state.mkdir()  # as systemd makes it; that folder itself is not under test
    with Broker(folder / "broker", *FAST) as broker:
        body = lines.config(folder, broker.port, fps=200.0, durable=durable)
        program = broken.program(fault)
        line = Lineside(folder, body, program=program, environment=world.environment(state, record=file))
        try:
            for end in (line.kill, line.stop):
                _acked(line, round(200 * dice.uniform(0.6, 1.4) * seconds))
                end()
                line.start()
            _acked(line, round(200 * seconds))
        finally:
            line.kill()
    return Recorded(state, list(read(file)), durable)


def _acked(line: Lineside, count: int) -> None:
    def reached() -> bool:
        try:
            return int(line.status().get("mqtt", {}).get("acked", 0)) >= count
        except RemoteError:
            return not line.check_alive()

    until(reached, 60, f"{count} decisions are delivered")


def read(file: Path) -> Iterator[Op]:
    """The operations of a record, in their order; what a kill left half written at the end is left out."""
    raw = file.read_bytes()
    at = 0
    while at + _HEAD.size <= len(raw):
        magic, op, number, offset, length, path_length, result, _ = _HEAD.unpack_from(raw, at)
        if magic != _MAGIC:
            raise ValueError(f"{file}: no record at byte {at}")
        start = at + _HEAD.size
        stop = start + path_length + length
        if stop > len(raw):
            return
        path = raw[start : start + path_length].decode()
        yield Op(at, op, number, offset, path, raw[start + path_length : stop], result)
        at = stop


# --- a disk -----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class File:
    """What of a file is sure to be there, and what was done to it since."""

    content: bytearray = field(default_factory=bytearray)
    pending: list[Op] = field(default_factory=list)
    is_mapped: bool = False  # written through a mapping: what reaches the disk cannot be followed

    def sync(self, before: int) -> None:
        """All that was done before this place of the record is sure now."""
        sure = [op for op in self.pending if op.at < before]
        self.pending = [op for op in self.pending if op.at >= before]
        for op in sure:
            _apply(self.content, op)

    def after_cut(self, keep: Keep, dice: random.Random) -> bytes:
        content = bytearray(self.content)
        if keep == "nothing":
            return bytes(content)
        for op in self.pending:
            if keep == "everything":
                _apply(content, op)
            elif op.op == TRUNCATE:
                if dice.random() < 0.5:
                    _apply(content, op)
            else:
                _apply_some(content, op, dice)
        return bytes(content)


def _apply(content: bytearray, op: Op) -> None:
    if op.op == TRUNCATE:
        del content[op.offset :]
        content.extend(bytes(op.offset - len(content)))
    else:
        content.extend(bytes(max(0, op.offset + len(op.data) - len(content))))
        content[op.offset : op.offset + len(op.data)] = op.data


def _apply_some(content: bytearray, op: Op, dice: random.Random) -> None:
    """Each sector of a write by itself; the file may be as long as the write made it and hold anything there."""
    chance = dice.choice([0.0, 0.5, 0.9, 1.0])
    end = op.offset + len(op.data)
    if end > len(content) and dice.random() < 0.3:
        grown = end - len(content)
        content.extend(dice.choice([bytes(grown), dice.randbytes(grown)]))
    at = op.offset
    while at < end:
        stop = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if dice.random() < chance:
            content.extend(bytes(max(0, stop - len(content))))
            content[at:stop] = op.data[at - op.offset : stop - op.offset]
        at = stop


class Disk:
    """Follows the operations of a record up to some instant."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._files: dict[int, File] = {}  # by inode
        self._names: dict[str, File] = {}  # as the processes see them
        self._sure: dict[str, File] = {}  # as they are on disk for sure
        self._pending: list[Op] = []  # changes of names since
        self._made: dict[int, File] = {}  # place in the record of a name's making -> its file

    def do(self, op: Op) -> None:
        if op.op == OPEN:
            self._open(op)
        elif op.op in (WRITE, TRUNCATE):
            self._files[op.file].pending.append(op)
        elif op.op == SYNC:
            self._files[op.file].sync(op.offset)
        elif op.op == SYNC_FOLDER:
            for change in [change for change in self._pending if change.at < op.offset]:
                self._pending.remove(change)
                self._change(self._sure, change)
        elif op.op in (RENAME, UNLINK):
            self._change(self._names, op)
            self._pending.append(op)
        elif op.op == MAP:
            self._map(self._files[op.file])

    def after_cut(self, keep: Keep, dice: random.Random) -> dict[str, bytes]:
        """Name -> content, as a disk may have them."""
        names = dict(self._sure)
        count = {"nothing": 0, "everything": len(self._pending), "some": dice.randint(0, len(self._pending))}[keep]
        for change in self._pending[:count]:
            self._change(names, change)
        return {name: file.after_cut(keep, dice) for name, file in names.items() if not file.is_mapped}

    def _open(self, op: Op) -> None:
        if op.result == 2:  # a folder
            return
        if op.path not in self._names:
            self._files[op.file] = self._names[op.path] = self._made[op.at] = File()
            self._pending.append(op)
        self._files[op.file] = self._names[op.path]
        if op.result == 1:
            cut = Op(op.at, TRUNCATE, op.file, 0, "", b"", 0)
            self._files[op.file].pending.append(cut)

    def _change(self, names: dict[str, File], op: Op) -> None:
        if op.op == OPEN:
            names[op.path] = self._made[op.at]
        elif op.op == UNLINK:
            names.pop(op.path, None)
        elif op.path in names:
            names[op.data.decode()] = names.pop(op.path)

    def _map(self, file: File) -> None:
        file.is_mapped = True
        (name,) = [name for name, of in self._names.items() if of is file]
        if Path(name).name in _STORE:
            raise ValueError(f"{name}: is written through a mapping: what reaches the disk cannot be followed")


# --- what was published ---------------------------------------------------------------------------------------------


def published(ops: Sequence[Op]) -> Iterator[tuple[int, Key, str]]:
    """(index in `ops`, key, digest) of each record that was sent to the broker, as soon as all of it was."""
    streams: dict[int, bytearray] = {}
    for index, op in enumerate(ops):
        if op.op != SEND:
            continue
        if op.data[0] == _CONNECT:
            streams[op.file] = bytearray()
        stream = streams.setdefault(op.file, bytearray())
        stream += op.data
        while (packet := _packet(stream)) is not None:
            if packet[0] & 0xF0 == _PUBLISH and (body := _payload(packet)) and "seq" in body:
                yield index, (body["station"], body["epoch"], body["seq"]), digest(body)


def _packet(stream: bytearray) -> bytes | None:
    """Take a whole MQTT packet out of the stream: its first byte and what follows the length."""
    length = shift = 0
    for at, byte in enumerate(stream[1:5], 1):
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            whole = at + 1 + length
            if len(stream) < whole:
                return None
            packet = bytes(stream[:1] + stream[at + 1 : whole])
            del stream[:whole]
            return packet
    return None


def _payload(packet: bytes) -> dict[str, Any] | None:
    """The JSON of an MQTT 5 PUBLISH with QoS 1 (topic, packet id, properties, payload)."""
    topic_length = int.from_bytes(packet[1:3], "big")
    at = 3 + topic_length + 2
    properties = packet[at]  # never over 127 bytes of them
    found = json.loads(packet[at + 1 + properties :] or b"null")
    return found if isinstance(found, dict) else None


# --- cutting ----------------------------------------------------------------------------------------------------------


@dataclass
class Cuts:
    """What was found after many cuts of one recording."""

    cuts: int = 0
    published: int = 0  # checks: each record that was published before a cut, once for each cut
    missing: int = 0  # published, and not in the journal afterwards
    reused: int = 0  # seqs that stand for another record afterwards
    not_told: int = 0  # a new epoch that does not say which one was before it, or up to which seq
    set_aside: int = 0  # stores that could not be opened and began anew
    wrong: list[str] = field(default_factory=list)
    took_s: float = 0.0

    def report(self) -> dict[str, Any]:
        return {"ok": not self.wrong, **vars(self), "took_s": round(self.took_s, 1)}


def cut_often(recorded: Recorded, folder: Path, cuts: int, seed: int) -> Cuts:
    """So many cuts at random instants, half of them right behind a publication; what is left is opened and judged."""
    began_s = time.monotonic()
    dice = random.Random(seed)
    sent = list(published(recorded.ops))
    places = [
        dice.choice(sent)[0] + 1 if dice.random() < 0.5 else dice.randrange(len(recorded.ops)) for _ in range(cuts)
    ]
    result = Cuts()
    disk, done = Disk(recorded.folder), 0
    for place in sorted(places):
        for op in recorded.ops[done:place]:
            disk.do(op)
        done = place
        keep: Keep = dice.choice(["nothing", "everything", "some", "some"])
        names = disk.after_cut(keep, dice)
        known = {key: text for index, key, text in sent if index < place}
        words = _open_and_judge(result, names, folder, known, recorded)
        result.wrong += [
            f"cut after operation {place} of {len(recorded.ops)}, keeping {keep}: {text}" for text in words
        ]
    result.took_s = time.monotonic() - began_s
    return result


def _open_and_judge(
    result: Cuts, names: dict[str, bytes], folder: Path, known: dict[Key, str], recorded: Recorded
) -> list[str]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in names.items():
        (folder / Path(name).name).write_bytes(content)
    journal = Journal(folder / "journal.db", SystemClock(), boot="after the cut")
    journal.start()
    opened = journal.flush(20)
    epoch, last_seq, previous = journal.epoch, journal.last_seq(), journal.previous()
    status = journal.status()
    journal.stop()
    if not opened or epoch is None:
        return [f"the journal does not open ({status['last_error']})"]
    try:
        made = lines.journalled(folder / "journal.db")
    except sqlite3.DatabaseError as error:
        return [f"the journal opens and cannot be read ({error})"]
    missing = sorted(key for key in known if key not in made)
    reused = sorted(key for key, text in known.items() if key in made and made[key].digest != text)
    behind = [key for key in known if key[1] == epoch and key[2] > last_seq.get(key[0], 0)]
    result.cuts += 1
    result.published += len(known)
    result.missing += len(missing)
    result.reused += len(reused) + len(behind)
    result.set_aside += bool(status["set_aside"])
    words = []
    if missing and recorded.durable:
        words.append(f"{len(missing)} published records are not there, the first {missing[0]}")
    if reused or behind:
        words.append(f"{len(reused)} seqs stand for other records and {len(behind)} will")
    if known and not any(key[1] == epoch for key in known) and not _is_told(previous, known):
        result.not_told += 1
        words.append(f"epoch {epoch} begins without a word of the one before: {previous}")
    if result.cuts % _VERIFY_EVERY:
        return words
    return words + lines.ledger_faults(folder / "journal.db", recorded.folder / "identity" / "device.pub")


def _is_told(previous: dict[str, object] | None, known: dict[Key, str]) -> bool:
    return previous is not None and previous["epoch"] in {key[1] for key in known} and "last_seq" in previous
