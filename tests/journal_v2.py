"""The journal's schema as version 2 of lineside made, read and wrote it: its statements, unchanged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

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
INSERT = "INSERT INTO row (id, run, station, seq, kind, late, made_ns, made_wall_ns, body) VALUES "
INSERT += "(?, ?, ?, ?, ?, ?, ?, ?, ?)"
ROWS = "SELECT row.id, station, epoch, seq, kind, boot, made_ns, made_wall_ns, late, body "
ROWS += "FROM row JOIN run ON run.id = row.run WHERE row.id BETWEEN ? AND ? ORDER BY row.id LIMIT ?"


def run(path: Path, bodies: Iterable[bytes] = (), prune: Iterable[int] = (), station: str = "gate") -> list[int]:
    """One run of a version-2 daemon: opens, prunes, writes rows, stops clean. The seqs that it then reads."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        db.execute("BEGIN IMMEDIATE")
        if version < 2:
            for statement in SCHEMA.split(";"):
                db.execute(statement)
            db.execute("PRAGMA user_version = 2")
        noted = db.execute("SELECT row_id FROM noted").fetchone()
        last_seq = dict(db.execute("SELECT name, last_seq FROM station"))
        since = "SELECT station, max(seq) FROM row WHERE id > ? GROUP BY station"
        last_seq.update(db.execute(since, noted or (0,)))
        last = db.execute("SELECT epoch FROM run ORDER BY id DESC LIMIT 1").fetchone()
        values = (last[0] if last else "old-epoch", "a-boot", 1, 10**18, None)
        begin = "INSERT INTO run (epoch, boot, durable, started_wall_ns, previous) VALUES (?, ?, ?, ?, ?)"
        made = db.execute(begin, values)
        (last_id,) = db.execute("SELECT coalesce(max(id), 0) FROM row").fetchone()
        db.execute("COMMIT")
        db.executemany("DELETE FROM row WHERE id = ?", [(row,) for row in prune])
        for body in bodies:
            last_id, seq = last_id + 1, last_seq.get(station, 0) + 1
            last_seq[station] = seq
            db.execute(INSERT, (last_id, made.lastrowid, station, seq, "decision", False, 1, 10**18, body))
        db.execute("DELETE FROM station")
        db.executemany("INSERT INTO station (name, last_seq) VALUES (?, ?)", last_seq.items())
        db.execute("INSERT OR REPLACE INTO noted (one, row_id) VALUES (1, ?)", (last_id,))
        db.execute("UPDATE run SET clean = 1 WHERE id = ?", (made.lastrowid,))
        return [row[3] for row in db.execute(ROWS, (1, last_id, -1))]
