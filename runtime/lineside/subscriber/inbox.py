"""What has come and what has not, in SQLite, in the transaction in which the handler does its own work."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from .spans import Spans

Key: TypeAlias = tuple[str, str]  # station, epoch
Message: TypeAlias = dict[str, Any]

SEQ_MAX = 2**53 - 1
HOLES = 256  # of one stream that are looked at: the next come when these are settled
SCHEMA = """
CREATE TABLE IF NOT EXISTS lineside_stream (
    station TEXT, epoch TEXT, base INTEGER NOT NULL, known INTEGER NOT NULL, passed INTEGER NOT NULL,
    PRIMARY KEY (station, epoch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lineside_settled (
    station TEXT, epoch TEXT, first INTEGER, last INTEGER NOT NULL, PRIMARY KEY (station, epoch, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lineside_held (
    station TEXT, epoch TEXT, seq INTEGER, body TEXT NOT NULL, PRIMARY KEY (station, epoch, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lineside_missing (
    station TEXT, epoch TEXT, first INTEGER, last INTEGER NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (station, epoch, first)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Missing:
    """Messages that will never come, and why: in the words of the box's gap message or of its answer."""

    station: str
    epoch: str
    first_seq: int
    last_seq: int
    reason: str


@dataclass
class _Stream:
    """One station in one epoch. Settled is what was taken and what is missing for good."""

    settled: Spans
    base: int  # the first seq that is ours
    known: int  # the highest seq that is known to exist
    passed: int  # in order: what is below is no longer waited for
    held: int  # in order: messages that wait for one before them
    missing: int = 0  # runs that are missing for good
    is_changed: bool = False

    def holes(self) -> Iterator[tuple[int, int]]:
        return self.settled.holes(self.base, self.known)

    def frontier(self) -> int:
        """In order: the first seq that is waited for."""
        start = max(self.base, self.passed)
        first, _ = next(self.settled.holes(start, max(self.known, start, self.settled.last()) + 1))
        return first


class Inbox:
    """Tells what is new, keeps what is early, names what is missing.

    Every method belongs into a transaction of `db`, `save` at its end; after a rollback call `forget`. With
    `from_start` a station that was never seen before is wanted from its first message on, else from now on.
    """

    def __init__(self, db: sqlite3.Connection, *, in_order: bool = False, from_start: bool = False) -> None:
        self._db = db
        self._in_order = in_order
        self._from_start = from_start
        self._streams: dict[Key, _Stream] = {}
        for statement in SCHEMA.split(";"):
            db.execute(statement)
        self.forget()

    def forget(self) -> None:
        """Go back to what is in the database."""
        self._streams.clear()
        read = self._db.execute
        for station, epoch, base, known, passed in read("SELECT * FROM lineside_stream").fetchall():
            where = "WHERE station = ? AND epoch = ?"
            settled = Spans(read(f"SELECT first, last FROM lineside_settled {where}", (station, epoch)))
            held, missing = (
                read(f"SELECT count(*) FROM {table} {where}", (station, epoch)).fetchone()[0]
                for table in ("lineside_held", "lineside_missing")
            )
            self._streams[station, epoch] = _Stream(settled, base, known, passed, held, missing)

    def save(self) -> None:
        """Write what changed; the transaction that is open carries it."""
        for key, stream in self._streams.items():
            changed, stream.settled.changed = stream.settled.changed, {}
            gone = [(*key, first) for first, last in changed.items() if last is None]
            kept = [(*key, first, last) for first, last in changed.items() if last is not None]
            self._db.executemany("DELETE FROM lineside_settled WHERE station = ? AND epoch = ? AND first = ?", gone)
            self._db.executemany("INSERT OR REPLACE INTO lineside_settled VALUES (?, ?, ?, ?)", kept)
            if changed or stream.is_changed:
                values = (*key, stream.base, stream.known, stream.passed)
                self._db.execute("INSERT OR REPLACE INTO lineside_stream VALUES (?, ?, ?, ?, ?)", values)
                stream.is_changed = False

    # --- what comes

    def take(self, message: Message) -> list[Message] | None:
        """What is to be handled now: nothing while it is early, maybe several; None for one that came before."""
        key, seq = (message["station"], message["epoch"]), message["seq"]
        stream = self._stream(key, seq)
        if seq in stream.settled:
            return [message] if self._was_missing(key, stream, seq) else None
        stream.known = max(stream.known, seq)
        ready = []
        if not self._in_order or seq < max(stream.base, stream.passed) or seq == stream.frontier():
            ready.append(message)
        else:
            values = (*key, seq, json.dumps(message))
            self._db.execute("INSERT OR REPLACE INTO lineside_held VALUES (?, ?, ?, ?)", values)
            stream.held += 1
        stream.settled.add(seq, seq)
        return ready + self._released(key, stream)

    def declared(self, message: Message) -> tuple[list[Missing], list[Message]]:
        """A gap message, taken: what it says will never come, and what need not wait for that any more."""
        if message["first_seq"] is None:
            return [], []  # they never had a seq
        key = (message["station"], message["epoch"])
        return self.gone(key, message["first_seq"], message["last_seq"], str(message["cause"]))

    def gone(self, key: Key, first: int, last: int, reason: str) -> tuple[list[Missing], list[Message]]:
        """first..last will never come; what of it was not taken is missing, what waited for it is to be handled."""
        stream = self._streams.get(key)
        if stream is None:
            return [], []
        first, last = max(first, stream.base), min(last, stream.known)
        found = [Missing(*key, *hole, reason) for hole in stream.settled.holes(first, last)]
        for hole in found:
            values = (*key, hole.first_seq, hole.last_seq, reason)
            self._db.execute("INSERT OR REPLACE INTO lineside_missing VALUES (?, ?, ?, ?, ?)", values)
            stream.settled.add(hole.first_seq, hole.last_seq)
            stream.missing += 1
        return found, self._released(key, stream)

    def heard(self, status: Mapping[str, Any]) -> None:
        """A box's status: how far its stations are, and how far they were in an epoch that ended."""
        before, ended = _progress(status.get("previous"))
        epoch, last_seq = _progress(status)
        for station, seq in last_seq.items():
            stream = self._stream((station, epoch), seq + 1)
            base = 1 if (station, before) in self._streams else stream.base  # it goes on from what we have followed
            known = max(stream.known, seq)
            if (base, known) != (stream.base, stream.known):
                stream.base, stream.known, stream.is_changed = base, known, True
        for station, seq in ended.items():
            if (station, before) in self._streams and seq > self._streams[station, before].known:
                self._streams[station, before].known = seq
                self._streams[station, before].is_changed = True

    def passed(self, key: Key) -> list[Message]:
        """In order: wait no longer for the first hole. If it is filled later, it is handled when it comes."""
        stream = self._streams[key]
        for _, last in islice(stream.settled.holes(max(stream.base, stream.passed), stream.known), 1):
            stream.passed, stream.is_changed = last + 1, True
        return self._released(key, stream)

    # --- what is missing

    def holes(self) -> dict[Key, list[tuple[int, int]]]:
        """Per stream, the lowest runs of seqs that neither came nor are missing for good."""
        found = {key: list(islice(stream.holes(), HOLES)) for key, stream in self._streams.items()}
        return {key: holes for key, holes in found.items() if holes}

    def missing(self) -> list[Missing]:
        """All that is missing for good."""
        return [Missing(*values) for values in self._db.execute("SELECT * FROM lineside_missing")]

    def held(self) -> int:
        """Messages that came early and wait for one before them."""
        return sum(stream.held for stream in self._streams.values())

    def waited_for(self) -> dict[Key, int]:
        """In order: per stream that holds messages back, the first seq that it waits for."""
        return {key: stream.frontier() for key, stream in self._streams.items() if stream.held}

    def _stream(self, key: Key, first: int) -> _Stream:
        stream = self._streams.get(key)
        if stream is None:
            base = 1 if self._from_start else first
            stream = self._streams[key] = _Stream(Spans(), base, base - 1, base, 0, is_changed=True)
        return stream

    def _missing(self, key: Key, seq: int) -> tuple[int, int, str] | None:
        """(first, last, reason) of the run of missing messages that this one is in."""
        where = "WHERE station = ? AND epoch = ? AND first <= ? ORDER BY first DESC LIMIT 1"
        run = self._db.execute(f"SELECT first, last, reason FROM lineside_missing {where}", (*key, seq)).fetchone()
        return run if run and run[1] >= seq else None

    def _was_missing(self, key: Key, stream: _Stream, seq: int) -> bool:
        """Take it out of the missing: the box had it no more, but the broker did."""
        run = self._missing(key, seq) if stream.missing else None
        if run is None:
            return False
        first, last, reason = run
        gone = "DELETE FROM lineside_missing WHERE station = ? AND epoch = ? AND first = ?"
        self._db.execute(gone, (*key, first))
        rest = [(*key, *part, reason) for part in ((first, seq - 1), (seq + 1, last)) if part[0] <= part[1]]
        self._db.executemany("INSERT INTO lineside_missing VALUES (?, ?, ?, ?, ?)", rest)
        stream.missing += len(rest) - 1
        return True

    def _released(self, key: Key, stream: _Stream) -> list[Message]:
        """What was held and need not wait any more, in order."""
        if not stream.held:
            return []
        values = (*key, stream.frontier())
        where = "FROM lineside_held WHERE station = ? AND epoch = ? AND seq < ?"
        bodies = self._db.execute(f"SELECT body {where} ORDER BY seq", values).fetchall()
        if bodies:
            self._db.execute(f"DELETE {where}", values)
            stream.held -= len(bodies)
        return [json.loads(body) for (body,) in bodies]


def _progress(status: object) -> tuple[str, dict[str, int]]:
    """(epoch, station -> seq) of a status or of its `previous`; nothing where it says nothing of use."""
    epoch, last_seq = (status.get("epoch"), status.get("last_seq")) if isinstance(status, dict) else (None, None)
    if not isinstance(epoch, str) or not isinstance(last_seq, dict):
        return "", {}
    return epoch, {station: seq for station, seq in last_seq.items() if is_seq(seq)}


def is_seq(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= SEQ_MAX


def is_message(message: object) -> bool:
    """Whether it has what the kit needs of a numbered message; a gap its range, too."""
    if not isinstance(message, dict):
        return False
    if not all(isinstance(message.get(name), str) and message[name] for name in ("kind", "station", "epoch")):
        return False
    if not is_seq(message.get("seq")) or message["seq"] == 0:
        return False
    if message["kind"] != "gap":
        return True
    first, last = message.get("first_seq"), message.get("last_seq")
    return "cause" in message and (first is None or (is_seq(first) and is_seq(last) and last >= first > 0))
