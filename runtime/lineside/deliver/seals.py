"""What the journal's file keeps for the ledger: signed checkpoints, and which rows were pruned. Statements only.

Pruned rows leave a span of ids behind with the chain's value before it, which holds what stands there, and at its end,
so that the chain goes on after the hole. A span never reaches over the beginning of a run, and a checkpoint signs the
set of all spans.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from lineside.deliver.chain import SpanSet

SCHEMA = """
CREATE TABLE IF NOT EXISTS pruned (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, run INTEGER NOT NULL, before BLOB, chain BLOB);
CREATE TABLE IF NOT EXISTS pruning (
    one INTEGER PRIMARY KEY CHECK (one = 1), rows INTEGER NOT NULL, undelivered INTEGER NOT NULL, spans BLOB NOT NULL,
    through INTEGER NOT NULL, chain BLOB);
CREATE TABLE IF NOT EXISTS checkpoint (number INTEGER PRIMARY KEY, document BLOB NOT NULL);
"""
KEPT = 1000  # checkpoints, about 1 MB; a later one covers all that an earlier one covered


class Spare(NamedTuple):
    """A row that may go."""

    id: int
    run: int
    station: str
    seq: int
    chain: bytes | None


@dataclass(frozen=True, slots=True)
class Pruning:
    """What has gone out of a store so far."""

    rows: int = 0
    undelivered: int = 0  # of them
    spans: bytes = b""  # SpanSet of the table
    through: int = 0  # every row up to this one is gone
    chain: bytes | None = None  # its value at `through`

    def digest(self) -> str:
        return SpanSet(self.spans).digest()


def pruning(connection: sqlite3.Connection) -> Pruning:
    found = connection.execute("SELECT rows, undelivered, spans, through, chain FROM pruning").fetchone()
    return Pruning(*found) if found else Pruning()


def prune(connection: sqlite3.Connection, spare: Sequence[Spare], undelivered: int) -> Pruning:
    """Take rows (ascending ids) out and write down that they are gone; in the caller's transaction."""
    before = pruning(connection)
    spans = SpanSet(before.spans)
    connection.executemany("DELETE FROM row WHERE id = ?", [(row.id,) for row in spare])
    for first, last in _stretches(spare):
        _add(connection, spans, first.id, last)
    through, chain = before.through, before.chain
    while found := connection.execute("SELECT last, chain FROM pruned WHERE first = ?", (through + 1,)).fetchone():
        through, chain = found
    now = Pruning(before.rows + len(spare), before.undelivered + undelivered, bytes(spans), through, chain)
    write = "INSERT OR REPLACE INTO pruning (one, rows, undelivered, spans, through, chain) VALUES (1, ?, ?, ?, ?, ?)"
    connection.execute(write, (now.rows, now.undelivered, now.spans, now.through, now.chain))
    return now


def _stretches(spare: Sequence[Spare]) -> Iterator[tuple[Spare, Spare]]:
    """Neighbours of one run, as (first, last)."""
    first = spare[0]
    for row, following in pairwise(spare):
        if following.id != row.id + 1 or following.run != row.run:
            yield first, row
            first = following
    yield first, spare[-1]


def _add(connection: sqlite3.Connection, spans: SpanSet, first: int, end: Spare) -> None:
    last, chain = end.id, end.chain
    query = "SELECT first, last, before, chain, run FROM pruned WHERE first "
    left = connection.execute(f"{query} < ? ORDER BY first DESC LIMIT 1", (first,)).fetchone()
    right = connection.execute(f"{query} = ?", (last + 1,)).fetchone()
    if left and left[1] == first - 1 and left[4] == end.run:
        spans.discard(*left[:4])
        connection.execute("DELETE FROM pruned WHERE first = ?", (left[0],))
        first, _, before = left[:3]
    else:
        before = _before(connection, first, end.run)
    if right and right[4] == end.run:
        spans.discard(*right[:4])
        connection.execute("DELETE FROM pruned WHERE first = ?", (right[0],))
        last, chain = right[1], right[3]
    spans.add(first, last, before, chain)
    write = "INSERT INTO pruned (first, last, run, before, chain) VALUES (?, ?, ?, ?, ?)"
    connection.execute(write, (first, last, end.run, before, chain))


def _before(connection: sqlite3.Connection, row_id: int, run: int) -> bytes | None:
    """The chain's value before a row: that of the row before it in its run, else of the run's beginning."""
    row = connection.execute("SELECT chain FROM row WHERE id = ? AND run = ?", (row_id - 1, run)).fetchone()
    found = row or connection.execute("SELECT chain FROM run WHERE id = ?", (run,)).fetchone()
    return found[0] if found else None


def newest(connection: sqlite3.Connection) -> bytes | None:
    """The document of the newest checkpoint."""
    found = connection.execute("SELECT document FROM checkpoint ORDER BY number DESC LIMIT 1").fetchone()
    return bytes(found[0]) if found else None


def documents(connection: sqlite3.Connection) -> Iterable[tuple[int, bytes]]:
    """(number, document) of every checkpoint that is kept, oldest first."""
    return connection.execute("SELECT number, document FROM checkpoint ORDER BY number")


def keep(connection: sqlite3.Connection, number: int, document: bytes) -> None:
    """Write a checkpoint, and let go of those that are old; in the caller's transaction."""
    connection.execute("INSERT OR REPLACE INTO checkpoint (number, document) VALUES (?, ?)", (number, document))
    connection.execute("DELETE FROM checkpoint WHERE number <= ?", (number - KEPT,))
