"""`lineside` with one thing broken on purpose, to show that the suite notices; or with more checkpoints.

    python tools/chaos/broken.py FAULT run lineside.toml

FAULT is a name of FAULTS. Each changes one step of the delivery in memory and then starts lineside as it is.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lineside.cli import main
from lineside.deliver import checkpoint, feed, journal, tables

CHECKPOINT_BYTES = 40_000


def cursor_before_the_reason_code() -> None:
    """What was sent counts as delivered."""
    send = feed.Feed._send

    def send_and_deliver(self: feed.Feed, row: tables.Row) -> bool:
        was_sent = send(self, row)
        self.cursor.deliver(row.id)
        return was_sent

    feed.Feed._send = send_and_deliver  # type: ignore[method-assign]


def publish_before_commit() -> None:
    """Rows are announced to the sinks, which publish them, and then committed."""
    announce, commit = journal.Journal._announce, tables.Store.commit
    opened: list[journal.Journal] = []
    start = journal.Journal.start

    def start_and_remember(self: journal.Journal) -> None:
        opened.append(self)
        start(self)

    def announce_and_commit(
        self: tables.Store,
        drafts: Sequence[tables.Draft],
        delivered: Mapping[str, Mapping[int, int | None]],
    ) -> list[tables.Row]:
        seqs, rows = dict(self.last_seq), []
        for number, draft in enumerate(drafts, 1):
            seqs[draft.station] = seqs.get(draft.station, 0) + 1
            given = (draft.station, self.epoch, seqs[draft.station], draft.kind, self.boot)
            rows.append(
                tables.Row(self.last_id + number, *given, draft.made_ns, draft.made_wall_ns, draft.late, draft.body)
            )
        announce(opened[0], rows)
        commit(self, drafts, delivered)
        return []  # they are announced already

    journal.Journal.start = start_and_remember  # type: ignore[method-assign]
    tables.Store.commit = announce_and_commit  # type: ignore[method-assign]


def synchronous_off() -> None:
    """SQLite asks for no fsync, whatever [journal] durable says."""
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql.startswith("PRAGMA synchronous"):
                sql = "PRAGMA synchronous = OFF"
            return super().execute(sql, *values)

    sqlite3.connect = lambda *words, **options: connect(*words, factory=Connection, **options)  # type: ignore[assignment]


def checkpoints() -> None:
    """Not broken: moves the log into the database often enough for a short run to show it."""
    checkpoint.EVERY_BYTES = CHECKPOINT_BYTES


def synchronous_off_with_checkpoints() -> None:
    synchronous_off()
    checkpoints()


FAULTS: dict[str, Callable[[], None]] = {
    "cursor-before-the-reason-code": cursor_before_the_reason_code,
    "publish-before-commit": publish_before_commit,
    "checkpoints": checkpoints,
    "synchronous-off": synchronous_off_with_checkpoints,
}


def program(fault: str) -> list[str]:
    """The command that stands for `lineside`."""
    return [sys.executable, __file__, fault]


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
