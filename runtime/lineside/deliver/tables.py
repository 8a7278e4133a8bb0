"""The journal's SQLite file: its tables and every statement over them. One Store writes; any number of readers.

The schema only grows: columns and tables are added with defaults and none changes its meaning, so version N-1 of
lineside reads and writes what version N left behind.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias

from lineside.contracts import Committed
from lineside.deliver import chain, seals
from lineside.deliver.seals import Pruning, Spare

SCHEMA_VERSION = 3
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
# columns that version 3 added. Version 2 leaves them NULL: its rows have no place in the chain
ADDED = (
    ("row", "keep", "INTEGER"),  # 0 goes first when the store is full: see Draft
    ("row", "chain", "BLOB"),  # chain.after_row
    ("run", "after_row", "INTEGER"),  # the newest row when it began
    ("run", "was_clean", "INTEGER"),  # of the run before it
    ("run", "breaks", "TEXT"),  # JSON: what has no place in the chain, which begins anew here
    ("run", "chain", "BLOB"),  # chain.after_run
)
RUN = ("id", "epoch", "boot", "durable", "started_wall_ns", "previous", "after_row", "was_clean", "breaks")
NOTE_ROWS = 5000  # how many rows an opening has to look through for the seqs at most
INSERT = "INSERT INTO row (id, run, station, seq, kind, late, keep, made_ns, made_wall_ns, body, chain) VALUES "
INSERT += "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_COLUMNS = "row.id, station, epoch, seq, kind, boot, made_ns, made_wall_ns, late, body"


Sealed: TypeAlias = tuple[int, bytes]  # number and document of a checkpoint
Signs: TypeAlias = "Callable[[Store, Pruning], Sealed | None]"


class Draft(NamedTuple):  # made for every record: a frozen dataclass takes five times as long to make
    """A record that is encoded and waits for its seq."""

    station: str
    kind: str
    late: bool  # decided late
    made_ns: int
    made_wall_ns: int
    body: bytes
    keep: int = 1  # 0 accepts and events, 1 what was found, 2 recipes, audits and gaps
    committed: Committed | None = None  # is told


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
            self._upgrade()
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
        (last_id,) = run("SELECT max(id) FROM row").fetchone()
        self.last_id: int = last_id or 0  # pruning leaves the newest row, so that no id is used twice
        self.pruning = seals.pruning(self._connection)
        self._begin_run(wall_ns, durable, last[3] if last else None)
        self._note()
        run("COMMIT")
        self._durable = durable
        if not durable:
            run("PRAGMA synchronous = NORMAL")

    def _upgrade(self) -> None:
        for statement in (SCHEMA + seals.SCHEMA).split(";"):
            self._connection.execute(statement)
        for table, column, kind in ADDED:
            if column not in {row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")}:
                self._connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _begin_run(self, wall_ns: int, durable: bool, was_clean: int | None) -> None:
        before, breaks = self._chain_so_far()
        (newest,) = self._connection.execute("SELECT max(id) FROM run").fetchone()
        self.run: int = (newest or 0) + 1
        previous = json.dumps(self.previous) if self.previous else None
        values = (self.run, self.epoch, self.boot, int(durable), wall_ns, previous, self.last_id, was_clean, breaks)
        self.chain = chain.after_run(before or chain.genesis(self.epoch), dict(zip(RUN, values, strict=True)))
        places = ", ".join("?" * (len(RUN) + 1))
        self._connection.execute(f"INSERT INTO run ({', '.join(RUN)}, chain) VALUES ({places})", (*values, self.chain))

    def _chain_so_far(self) -> tuple[bytes | None, str | None]:
        """The chain's newest value, or what the new run must declare: entries that an older version wrote."""
        newest = self._connection.execute("SELECT chain, after_row FROM run ORDER BY id DESC LIMIT 1").fetchone()
        if newest is None:
            return None, None
        value, after_row = newest
        if value is not None and self.last_id > after_row:
            (value,) = self._connection.execute("SELECT chain FROM row WHERE id = ?", (self.last_id,)).fetchone()
        if value is not None:
            return value, None
        whole = self._connection.execute("SELECT max(id) FROM run WHERE chain IS NOT NULL").fetchone()[0]
        query = "SELECT id, chain FROM row WHERE chain IS NOT NULL ORDER BY id DESC LIMIT 1"
        row = self._connection.execute(query).fetchone() if whole else None
        declared = {"after_run": whole or 0, "after_row": row[0] if row else 0, "to_row": self.last_id}
        return None, json.dumps({**declared, "chain": row[1].hex() if row else None})

    def commit(self, drafts: Sequence[Draft], delivered: Mapping[str, Mapping[int, int | None]]) -> list[Row]:
        """Write records, giving each the next seq of its station, and what the sinks delivered, in one transaction."""
        last_seq = dict(self.last_seq)
        rows: list[Row] = []
        values: list[tuple[object, ...]] = []
        value = self.chain
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
            place = (rows[-1].id, self.run, draft.station, seq, draft.kind, int(draft.late), draft.keep)
            place_and_body = (*place, draft.made_ns, draft.made_wall_ns, draft.body)
            value = chain.after_row(value, *place_and_body)
            values.append((*place_and_body, value))
        changed = {sink: changes for sink, changes in delivered.items() if changes}
        if len(rows) == 1 and not changed:
            self._connection.execute(INSERT, values[0])  # a transaction by itself: two statements less
        else:
            with self._transaction():
                self._connection.executemany(INSERT, values)
                for sink, changes in changed.items():
                    self._deliver(sink, changes)
        self.last_seq, self.chain = last_seq, value
        self.last_id += len(rows)
        return rows

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

    def prune(self, spare: Sequence[Spare], undelivered: int, sign: Signs | None) -> Sealed | None:
        """Take rows (ascending ids) out; the checkpoint that says so, if `sign` has one, is in the same transaction.

        The rows were delivered, or a gap record says that they were not.
        """
        with self._synced(), self._transaction():
            pruning = seals.prune(self._connection, spare, undelivered)
            sealed = sign(self, pruning) if sign else None
            if sealed:
                seals.keep(self._connection, *sealed)
            self._note()  # of a pruned row nothing else may be left
        self.pruning = pruning
        return sealed

    def seal(self, number: int, document: bytes) -> None:
        """Write a checkpoint."""
        with self._synced(), self._transaction():
            seals.keep(self._connection, number, document)

    @contextmanager
    def _synced(self) -> Iterator[None]:
        """A commit in it fsyncs all that came before, whatever `durable` says: a checkpoint leaves the box."""
        self._connection.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            if not self._durable:
                self._connection.execute("PRAGMA synchronous = NORMAL")

    def newest_checkpoint(self) -> bytes | None:
        return seals.newest(self._connection)

    def chain_of(self, run: int, row_id: int) -> bytes | None:
        """The chain's value when this was the newest row, in that run; None when neither is there."""
        began = self._connection.execute("SELECT chain FROM run WHERE id = ? AND after_row = ?", (run, row_id))
        row = self._connection.execute("SELECT chain FROM row WHERE id = ?", (row_id,))
        found = began.fetchone() or row.fetchone()
        return found[0] if found else None

    def rows(self, first: int, last: int) -> list[Row]:
        return read_rows(self._connection, first, last, -1)

    def count(self) -> int:
        """Rows; reads an index whole."""
        return int(self._connection.execute("SELECT count(*) FROM row").fetchone()[0])

    def look(self, first: int, last: int, limit: int) -> list[tuple[Spare, int]]:
        """The oldest rows with first <= id <= last, each with what Draft calls `keep`."""
        query = "SELECT id, run, station, seq, chain, coalesce(keep, 1) FROM row WHERE id BETWEEN ? AND ? "
        found = self._connection.execute(query + "ORDER BY id LIMIT ?", (first, last, limit))
        return [(Spare(*values[:5]), values[5]) for values in found]

    def size_bytes(self) -> int:
        """Bytes in use in the main file."""
        pages, free, page = (
            self._connection.execute(f"PRAGMA {what}").fetchone()[0]
            for what in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page)

    def restart_wal(self) -> None:
        """Checkpoint to the end and let the log start over: for a log that a busy line lets grow for too long."""
        self._connection.execute("PRAGMA busy_timeout = 50")  # a long reader, such as a verification, must not stop us
        self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        self._connection.execute("PRAGMA busy_timeout = 5000")

    def close(self, clean: bool) -> None:
        """Close; `clean` says that everything is on disk."""
        try:
            if clean:
                self._connection.execute("PRAGMA synchronous = FULL")
                with self._transaction():
                    self._note()
                    self._connection.execute("UPDATE run SET clean = 1 WHERE id = ?", (self.run,))
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


def read_seqs(connection: sqlite3.Connection, station: str, epoch: str, first: int, last: int, limit: int) -> list[Row]:
    """A station's rows of one epoch with first <= seq <= last, lowest first, at most `limit`."""
    query = (
        f"SELECT {_COLUMNS} FROM row JOIN run ON run.id = row.run "
        "WHERE station = ? AND seq BETWEEN ? AND ? AND epoch = ? ORDER BY seq LIMIT ?"
    )
    return [_row(values) for values in connection.execute(query, (station, first, last, epoch, limit))]


def next_seq(connection: sqlite3.Connection, station: str, first: int) -> int | None:
    """The lowest seq from `first` on that any row of the station has, whatever its epoch."""
    found = connection.execute("SELECT min(seq) FROM row WHERE station = ? AND seq >= ?", (station, first)).fetchone()
    seq: int | None = found[0]
    return seq


def ended_epochs(connection: sqlite3.Connection, epoch: str) -> tuple[dict[str, int], bool]:
    """(the last seqs of an epoch that ended, as far as they are known; whether its rows are in this store)."""
    last_seq: dict[str, int] = {}
    for (text,) in connection.execute("SELECT DISTINCT previous FROM run WHERE previous IS NOT NULL"):
        previous = json.loads(text)
        if previous["epoch"] == epoch:
            last_seq = previous["last_seq"]
    is_here = connection.execute("SELECT 1 FROM run WHERE epoch = ? LIMIT 1", (epoch,)).fetchone() is not None
    return last_seq, is_here


def newest(connection: sqlite3.Connection, station: str, kind: str, limit: int) -> list[bytes]:
    """The bodies of a station's newest rows that are of this kind, oldest first, of its last `limit` rows."""
    query = "SELECT kind, body FROM row WHERE station = ? ORDER BY seq DESC LIMIT ?"
    return [body for of, body in connection.execute(query, (station, limit)) if of == kind][::-1]


def read_delivered(connection: sqlite3.Connection, sink: str) -> list[tuple[int, int]]:
    query = "SELECT first, last FROM delivered WHERE sink = ? ORDER BY first"
    return connection.execute(query, (sink,)).fetchall()


def new_epoch(wall_ns: int) -> str:
    """A name for the life of one store: when it began, by the box's clock, and chance."""
    return f"{datetime.fromtimestamp(max(wall_ns, 0) // 10**9, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def _row(values: tuple[int, str, str, int, str, str, int, int, int, bytes]) -> Row:
    row_id, station, epoch, seq, kind, boot, made_ns, made_wall_ns, late, body = values
    return Row(row_id, station, epoch, seq, kind, boot, made_ns, made_wall_ns, bool(late), body)
