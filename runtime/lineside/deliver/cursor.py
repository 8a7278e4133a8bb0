"""What one sink sees of the journal: rows to send, and which of them it has delivered. Used by its own thread."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from lineside.deliver.spans import Spans
from lineside.deliver.tables import Row, first_since, read_delivered, read_rows, reader
from lineside.errors import DeviceError

if TYPE_CHECKING:
    from lineside.deliver.journal import Journal


class Cursor:
    """The delivered set of one sink. It is kept as intervals, so that live rows may be acknowledged before a backlog.

    Reading methods raise DeviceError when the disk fails. `wake` is called in the journal's thread after each commit
    and must return at once. When the store is lost, `refresh` says so and the rows start at 1 again.
    """

    def __init__(self, journal: Journal, sink: str, wake: Callable[[], None]) -> None:
        self.sink = sink
        self.wake = wake
        self.generation = 0  # of the store that `_spans` speaks of; 0 before the first
        self._journal = journal
        self._connection: sqlite3.Connection | None = None
        self._spans = Spans()
        self._lock = threading.Lock()  # the sink adds to the spans while the journal writes their changes

    def refresh(self) -> bool:
        """Open the store, or the one that replaced it; True when everything that was known of rows is void."""
        generation = self._journal.generation
        if generation == self.generation:
            return False
        self.close()
        with self._reading() as connection:
            spans = Spans(read_delivered(connection, self.sink))
        with self._lock:
            self._spans, self.generation = spans, generation
        return True

    def first_live(self, live_max_age_ns: int) -> int:
        """The id from which on all rows are of this boot and younger than the live age."""
        since_ns = self._journal.clock.monotonic_ns() - live_max_age_ns
        with self._reading() as connection:
            first = first_since(connection, self._journal.boot, since_ns)
        return self._journal.last_id + 1 if first is None else first

    def last_id(self) -> int:
        return self._journal.last_id

    def rows(self, first: int, last: int, limit: int) -> list[Row]:
        """Committed rows with first <= id <= last, oldest first; the newest come from memory."""
        recent = self._journal.recent(first, last, limit)
        if recent is not None:
            return recent
        with self._reading() as connection:
            return read_rows(connection, first, last, limit)

    def backlog(self, start: int, stop: int, limit: int) -> tuple[list[Row], int]:
        """Undelivered rows with start <= id < stop, oldest first, and the id where to look next."""
        with self._lock:
            hole = self._spans.hole(start, stop - 1)
        if hole is None:
            return [], stop
        rows = self.rows(*hole, limit)
        if len(rows) == limit:
            return rows, rows[-1].id + 1
        self._forget_missing(hole, {row.id for row in rows})
        return rows, hole[1] + 1

    def is_delivered(self, row_id: int) -> bool:
        with self._lock:
            return row_id in self._spans

    def deliver(self, row_id: int) -> None:
        """A success reason code came for this row. Written with the journal's next commit, or soon."""
        with self._lock:
            self._spans.add(row_id)

    def pending(self) -> int:
        with self._lock:
            return max(self._journal.last_id - self._spans.total, 0) if self.generation else 0

    def oldest_pending_s(self) -> float | None:
        """Age of the oldest undelivered row; None without one, or when the clock cannot say."""
        rows, _ = self.backlog(1, self._journal.last_id + 1, 1) if self.pending() else ([], 0)
        age_ms = self.age_ms(rows[0]) if rows else None
        return None if age_ms is None else round(age_ms / 1000, 1)

    def is_of_this_boot(self, row: Row) -> bool:
        return row.boot == self._journal.boot

    def age_ms(self, row: Row) -> int | None:
        """Milliseconds since it was decided; None when the wall clock cannot say for an earlier boot."""
        return age_ms(self._journal, row)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- for the journal's thread

    def take_changes(self, generation: int) -> dict[int, int | None]:
        with self._lock:
            return self._spans.take_changes() if generation == self.generation else {}

    def restore(self, changes: dict[int, int | None], generation: int) -> None:
        with self._lock:
            if generation == self.generation:
                self._spans.restore(changes)

    def has_changes(self) -> bool:
        return bool(self._spans.changed)

    def spans(self) -> Spans:
        """A copy of the delivered set."""
        with self._lock:
            return Spans(self._spans)

    def give_up(self, ids: Iterable[int]) -> None:
        """Rows that are pruned undelivered, told by a gap record, are no longer waited for."""
        with self._lock:
            for row_id in ids:
                self._spans.add(row_id)

    def _forget_missing(self, hole: tuple[int, int], found: set[int]) -> None:
        if len(found) < hole[1] - hole[0] + 1:  # somebody took rows out of the file by hand
            self.give_up(row_id for row_id in range(hole[0], hole[1] + 1) if row_id not in found)

    def _reading(self) -> _Reading:
        if self._connection is None:
            try:
                self._connection = reader(self._journal.path)
            except sqlite3.Error as error:
                raise DeviceError(f"{self._journal.path}: cannot be read ({error})") from error
        return _Reading(self._connection, self._journal, self.generation)


def age_ms(journal: Journal, row: Row) -> int | None:
    """Milliseconds since it was decided; None when the wall clock cannot say for an earlier boot."""
    if row.boot == journal.boot:
        return max(journal.clock.monotonic_ns() - row.made_ns, 0) // 1_000_000
    age_ns = journal.clock.wall_ns() - row.made_wall_ns
    return age_ns // 1_000_000 if age_ns >= 0 else None


class _Reading:
    """Maps SQLite's errors, and tells the journal, which sets a corrupt store aside."""

    def __init__(self, connection: sqlite3.Connection, journal: Journal, generation: int) -> None:
        self._connection = connection
        self._journal = journal
        self._generation = generation

    def __enter__(self) -> sqlite3.Connection:
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            self._journal.reading_failed(error, self._generation)
            raise DeviceError(f"{self._journal.path}: cannot be read ({error})") from error
