"""The journal's SQLite file: its tables and every statement over them. One Store writes; any number of readers.

The schema only grows: columns and tables are added with defaults and none changes its meaning, so version N-1 of
lineside reads and writes what version N left behind.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, boot TEXT NOT NULL, durable INTEGER NOT NULL,
    started_wall_ns INTEGER NOT NULL, clean INTEGER NOT NULL DEFAULT 0, previous TEXT);
CREATE TABLE IF NOT EXISTS row (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, station TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL,
    late INTEGER NOT NULL, made_ns INTEGER NOT NULL, made_wall_ns INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS row_of_station ON row (station, seq);
CREATE TABLE IF NOT EXISTS station (name TEXT PRIMARY KEY, last_seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS noted (one INTEGER PRIMARY KEY CHECK (one = 1), row_id INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS delivered (
    sink TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (sink, first)) WITHOUT ROWID;
"""
NOTE_ROWS = 5000  # how many rows an opening has to look through for the seqs at most
INSERT = "INSERT INTO row (id, run, station, seq, kind, late, made_ns, made_wall_ns, body) VALUES "
INSERT += "(?, ?, ?, ?, ?, ?, ?, ?, ?)"
_COLUMNS = "row.id, station, epoch, seq, kind, boot, made_ns, made_wall_ns, late, body"


class Draft(NamedTuple):  # made for every record: a frozen dataclass takes five times as long to make
    """A record that is encoded and waits for its seq."""

    station: str
    kind: str
    late: bool  # decided late
    made_ns: int
    made_wall_ns: int
    body: bytes


class Row(NamedTuple):
    """A committed record. `id` counts up over the whole store; `seq` per station and epoch."""

    id: int
    station: str
    epoch: str
    seq: int
    kind: str
    boot: str  # the boot of the machine in which `made_ns` means anything
    made_ns: int
    made_wall_ns: int
    late: bool
    body: bytes


class Store:
    """The one connection that writes. Every method may raise sqlite3.Error; a failed commit changed nothing."""

    def __init__(self, path: Path, boot: str, wall_ns: int, durable: bool, known: Mapping[str, object] | None) -> None:
        """Open or make the store. `known` is what the side file says of the last epoch, for a store that was lost."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.boot = boot
        self._connection = sqlite3.connect(path, timeout=5.0, isolation_level=None)
        try:
            self._open(wall_ns, durable, known)
        except BaseException:
            self._connection.close()
            raise

    def _open(self, wall_ns: int, durable: bool, known: Mapping[str, object] | None) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA wal_autocheckpoint = 0")  # the checkpoint thread does it: a commit must not wait for it
        run("PRAGMA synchronous = FULL")  # which run this is must be on disk whatever `durable` says
        (version,) = run("PRAGMA user_version").fetchone()
        run("BEGIN IMMEDIATE")
        if version < SCHEMA_VERSION:
            for statement in SCHEMA.split(";"):
                run(statement)
            run(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self.last_seq = self._read_last_seq()
        last = run("SELECT epoch, boot, durable, clean, previous FROM run ORDER BY id DESC LIMIT 1").fetchone()
        if last is None:
            self.epoch, self.previous = new_epoch(wall_ns), dict(known) if known else None
        elif last[1] != self.boot and not last[2] and not last[3]:
            # without fsync a power cut may have taken commits whose seq subscribers have seen: none may be used twice
            self.epoch, self.previous = new_epoch(wall_ns), {"epoch": last[0], "last_seq": self.last_seq}
            self.last_seq = {}
        else:
            self.epoch, self.previous = last[0], json.loads(last[4]) if last[4] else None
        previous = json.dumps(self.previous) if self.previous else None
        values = (self.epoch, self.boot, durable, wall_ns, previous)
        made = run("INSERT INTO run (epoch, boot, durable, started_wall_ns, previous) VALUES (?, ?, ?, ?, ?)", values)
        self._run = made.lastrowid
        (last_id,) = run("SELECT max(id) FROM row").fetchone()
        self.last_id: int = last_id or 0  # pruning leaves the newest row, so that no id is used twice
        self._note()
        run("COMMIT")
        if not durable:
            run("PRAGMA synchronous = NORMAL")

    def commit(self, drafts: Sequence[Draft], delivered: Mapping[str, Mapping[int, int | None]]) -> list[Row]:
        """Write records, giving each the next seq of its station, and what the sinks delivered, in one transaction."""
        last_seq = dict(self.last_seq)
        rows: list[Row] = []
        for draft in drafts:
            seq = last_seq[draft.station] = last_seq.get(draft.station, 0) + 1
            rows.append(
                Row(
                    self.last_id + len(rows) + 1,
                    draft.station,
                    self.epoch,
                    seq,
                    draft.kind,
                    self.boot,
                    draft.made_ns,
                    draft.made_wall_ns,
                    draft.late,
                    draft.body,
                )
            )
        changed = {sink: changes for sink, changes in delivered.items() if changes}
        if len(rows) == 1 and not changed:
            self._connection.execute(INSERT, self._values(rows[0]))  # a transaction by itself: two statements less
        else:
            with self._transaction():
                self._connection.executemany(INSERT, map(self._values, rows))
                for sink, changes in changed.items():
                    self._deliver(sink, changes)
        self.last_seq = last_seq
        self.last_id += len(rows)
        return rows

    def _values(self, row: Row) -> tuple[object, ...]:
        delivery = (row.kind, row.late, row.made_ns, row.made_wall_ns, row.body)
        return (row.id, self._run, row.station, row.seq, *delivery)

    def _read_last_seq(self) -> dict[str, int]:
        """The newest seq of each station: what was noted, and the rows since."""
        noted = self._connection.execute("SELECT row_id FROM noted").fetchone()
        last_seq: dict[str, int] = dict(self._connection.execute("SELECT name, last_seq FROM station"))
        since = "SELECT station, max(seq) FROM row WHERE id > ? GROUP BY station"
        last_seq.update(self._connection.execute(since, noted or (0,)))
        return last_seq

    def _note(self) -> None:
        """Write the seqs down, in a transaction that stands: not in each commit, it would cost a page more."""
        self._connection.execute("DELETE FROM station")
        self._connection.executemany("INSERT INTO station (name, last_seq) VALUES (?, ?)", self.last_seq.items())
        self._connection.execute("INSERT OR REPLACE INTO noted (one, row_id) VALUES (1, ?)", (self.last_id,))
        self._noted = self.last_id

    def note(self) -> None:
        """Write the seqs down if there are many rows since the last time."""
        if self.last_id - self._noted >= NOTE_ROWS:
            with self._transaction():
                self._note()

    def _deliver(self, sink: str, changes: Mapping[int, int | None]) -> None:
        gone = [(sink, first) for first, last in changes.items() if last is None]
        kept = [(sink, first, last) for first, last in changes.items() if last is not None]
        self._connection.executemany("DELETE FROM delivered WHERE sink = ? AND first = ?", gone)
        self._connection.executemany("INSERT OR REPLACE INTO delivered (sink, first, last) VALUES (?, ?, ?)", kept)

    def delete(self, ids: Sequence[int]) -> None:
        """Take rows out of the store (they were delivered, or a gap record says that they were not)."""
        with self._transaction():
            self._connection.executemany("DELETE FROM row WHERE id = ?", [(row_id,) for row_id in ids])
            self._note()  # of a pruned row nothing else may be left

    def rows(self, first: int, last: int) -> list[Row]:
        return read_rows(self._connection, first, last, -1)

    def oldest(self, first: int, last: int, limit: int) -> list[tuple[int, str, int]]:
        """(id, station, seq) of the oldest rows with first <= id <= last."""
        query = "SELECT id, station, seq FROM row WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        return self._connection.execute(query, (first, last, limit)).fetchall()

    def size_bytes(self) -> int:
        """Bytes in use in the main file."""
        pages, free, page = (
            self._connection.execute(f"PRAGMA {what}").fetchone()[0]
            for what in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page)

    def restart_wal(self) -> None:
        """Checkpoint to the end and let the log start over: for a log that a busy line lets grow for too long."""
        self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def close(self, clean: bool) -> None:
        """Close; `clean` says that everything is on disk."""
        try:
            if clean:
                self._connection.execute("PRAGMA synchronous = FULL")
                with self._transaction():
                    self._note()
                    self._connection.execute("UPDATE run SET clean = 1 WHERE id = ?", (self._run,))
        finally:
            self._connection.close()

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection)


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            try:
                self._connection.execute("COMMIT")
                return
            except sqlite3.Error:
                self._rollback()
                raise
        self._rollback()

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def reader(path: Path) -> sqlite3.Connection:
    """A connection for one thread that only reads. Raises sqlite3.Error."""
    connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=5.0, isolation_level=None)
    connection.execute("PRAGMA query_only = 1")
    return connection


def read_rows(connection: sqlite3.Connection, first: int, last: int, limit: int) -> list[Row]:
    """The rows with first <= id <= last, oldest first, at most `limit`."""
    query = (
        f"SELECT {_COLUMNS} FROM row JOIN run ON run.id = row.run WHERE row.id BETWEEN ? AND ? ORDER BY row.id LIMIT ?"
    )
    return [_row(values) for values in connection.execute(query, (first, last, limit))]


def first_since(connection: sqlite3.Connection, boot: str, made_ns: int) -> int | None:
    """The id from which on every row was made in this boot at or after `made_ns`; None when not even the newest was."""
    query = "SELECT row.id, boot, made_ns FROM row JOIN run ON run.id = row.run ORDER BY row.id DESC"
    first = None
    for row_id, row_boot, row_made_ns in connection.execute(query):  # steps back only as far as the line was live
        if row_boot != boot or row_made_ns < made_ns:
            break
        first = row_id
    return first


def read_delivered(connection: sqlite3.Connection, sink: str) -> list[tuple[int, int]]:
    query = "SELECT first, last FROM delivered WHERE sink = ? ORDER BY first"
    return connection.execute(query, (sink,)).fetchall()


def new_epoch(wall_ns: int) -> str:
    """A name for the life of one store: when it began, by the box's clock, and chance."""
    return f"{datetime.fromtimestamp(max(wall_ns, 0) // 10**9, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def _row(values: tuple[int, str, str, int, str, str, int, int, int, bytes]) -> Row:
    row_id, station, epoch, seq, kind, boot, made_ns, made_wall_ns, late, body = values
    return Row(row_id, station, epoch, seq, kind, boot, made_ns, made_wall_ns, bool(late), body)
