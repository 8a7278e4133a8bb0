"""Stores with a ledger, and somebody who changes them by hand, for the tests."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from deliveries import decision, event, journal
from lineside.clock import SystemClock
from lineside.contracts import Clock
from lineside.deliver import chain
from lineside.deliver.identity import device_key
from lineside.deliver.journal import Journal
from lineside.deliver.ledger import Ledger
from lineside.deliver.report import Report
from lineside.deliver.tables import RUN
from lineside.deliver.verify import verify
from lineside.records import Note, Record


def signed_journal(folder: Path, every_s: float = 3600.0, clock: Clock | None = None, **options: Any) -> Journal:
    """A started journal with a ledger; stop it."""
    clock = clock or SystemClock()
    ledger = Ledger(folder / "identity", "box-1", clock, every_s)
    return journal(folder, clock=clock, ledger=ledger, **{"durable": False, **options})


PAGES = ("page_count", "freelist_count", "page_size")


@contextmanager
def writing(folder: Path, **options: Any) -> Iterator[Journal]:
    opened = signed_journal(folder, **options)
    try:
        yield opened
    finally:
        opened.stop(10)


def records(first: int, count: int) -> Iterator[Record]:
    """Accepts, rejects, an event and a recipe, of two stations."""
    for number in range(first, first + count):
        station = ("gate", "door")[number % 2]
        if number % 17 == 5:
            yield event(number, station)
        elif number % 23 == 7:
            fields = {"digest": "sha256:00", "recipe": {}, "cause": "x" * 500}
            yield Note(f"r{number}", "recipe", station, fields, number, 10**18)
        else:
            yield decision(number, station, verdict="reject" if number % 5 == 0 else "accept", late=number % 7 == 0)


def prune(opened: Journal, delivered: Iterable[tuple[int, int]], share: float) -> None:
    """Let the journal prune until about this share of the store is left, or no more may go; waits."""
    cursor = opened.cursor("mqtt")
    assert opened.flush(10)
    cursor.refresh()
    for first, last in delivered:
        for row_id in range(first, last + 1):
            cursor.deliver(row_id)
    opened._pruner.slice_rows = 32
    opened._cap_bytes = int(size_bytes(opened.path) * share)
    deadline = time.monotonic() + 20
    for _ in range(2):  # it may be looking at this moment, with the cap of before
        opened._pruned_at = float("-inf")  # look at the size with the next commit, and not within a second
        assert opened.flush(10)
        while opened._pruned_at == float("-inf") or opened._over_cap:
            assert time.monotonic() < deadline, opened.status()
            time.sleep(0.005)
    opened._cap_bytes = 1 << 40
    assert opened.flush(10)
    cursor.close()


def size_bytes(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        pages, free, page = (db.execute(f"PRAGMA {what}").fetchone()[0] for what in PAGES)
    return int((pages - free) * page)


def look(folder: Path, **options: Any) -> Report:
    """Verify a folder's store with its own key."""
    return verify(folder / "journal.db", [device_key(folder / "identity").public], **options)


def copy(folder: Path, into: Path) -> Path:
    """A copy of a store that nobody writes, in one file."""
    shutil.copytree(folder, into)
    with closing(sqlite3.connect(into / "journal.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return into


@contextmanager
def by_hand(folder: Path) -> Iterator[sqlite3.Connection]:
    """Somebody with sqlite3 at the store."""
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        yield db
        db.commit()


def rechain(db: sqlite3.Connection) -> None:
    """Make the whole chain fit again, as somebody would who has read docs/ledger.md."""
    fields = "id, run, station, seq, kind, late, keep, made_ns, made_wall_ns, body"
    rows = [((row[0], 0), row) for row in db.execute(f"SELECT {fields} FROM row").fetchall()]
    runs = [((run[6], run[0]), run) for run in db.execute(f"SELECT {', '.join(RUN)} FROM run").fetchall()]
    spans = [((last, 0), value) for last, value in db.execute("SELECT last, chain FROM pruned").fetchall()]
    value = b""
    for _, entry in sorted([*rows, *runs, *spans], key=lambda entry: entry[0]):
        if isinstance(entry, bytes):
            value = entry
        elif len(entry) == len(RUN):
            value = chain.after_run(value or chain.genesis(entry[1]), dict(zip(RUN, entry, strict=True)))
            db.execute("UPDATE run SET chain = ? WHERE id = ?", (value, entry[0]))
        else:
            value = chain.after_row(value, *entry)
            db.execute("UPDATE row SET chain = ? WHERE id = ?", (value, entry[0]))
