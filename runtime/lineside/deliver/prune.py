"""Keeps the journal within its cap. What may go first is declared here and in docs/ledger.md.

Delivered rows go before any that waits. Of them accepts and events go first, then what was found or is missing, oldest
first, and both spare the newest quarter of the store as long as they can; recipes, audits and gaps go last. Rows that
wait go oldest first, accepts and rejects alike, so that one gap record names them all; recipes, audits and gaps last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lineside.deliver import messages
from lineside.deliver.cursor import Cursor
from lineside.deliver.ledger import Ledger
from lineside.deliver.seals import Spare
from lineside.deliver.spans import Spans, common
from lineside.deliver.tables import Store

SLICE = 512  # rows in one transaction
LOOK = 2048  # rows looked at for them


@dataclass(frozen=True)
class Pick:
    """What one slice removes; `gaps` are bodies of gap records, by station."""

    rows: Sequence[Spare] = ()
    undelivered: int = 0
    gaps: Sequence[tuple[str, bytes]] = field(default=())


class Pass(NamedTuple):
    """One look through the store, from its oldest row on."""

    keep: int  # rows of this class
    spares_newest: bool  # not those of the newest quarter


PASSES = (Pass(0, True), Pass(1, True), Pass(0, False), Pass(1, False), Pass(2, False))


class Pruner:
    """Chooses slices of the rows of one store; remembers how far each pass has come, so that none reads rows twice."""

    def __init__(self, slice_rows: int = SLICE) -> None:
        self.slice_rows = slice_rows
        self._at = dict.fromkeys(PASSES, 1)
        self._waiting_at = 1
        self._skipped = False  # a row that waited; it may be delivered by now
        self._kept: int | None = None  # rows of the store, when it was at _kept_at
        self._kept_at = 0

    def begin(self) -> None:
        """The store has come to its cap."""
        if self._skipped:
            self._at, self._skipped = dict.fromkeys(PASSES, 1), False

    def pick(self, store: Store, cursors: Sequence[Cursor], generation: int, wall_ns: int) -> Pick | None:
        """The next slice; empty when more must be looked at, None when nothing may go. Raises sqlite3.Error.

        The newest row always stays.
        """
        if any(cursor.generation != generation for cursor in cursors):
            return None  # a sink has not yet said what it delivered
        newest = store.last_id - 1
        delivered = common((cursor.spans() for cursor in cursors), newest)
        for each in PASSES:
            stop = newest - self._kept_rows(store) // 4 if each.spares_newest else newest
            if self._at[each] <= stop:
                rows = self._delivered(store, delivered, each, stop)
                self._removed(len(rows))
                return Pick(rows)
        rows = self._waiting(store, newest) or [row for row, _ in store.look(1, newest, self.slice_rows)]
        if len(rows) <= 2 * len({row.station for row in rows}):
            return None  # the gap records that tell of them would take their place
        self._removed(len(rows))
        waiting = [row for row in rows if row.id not in delivered]
        return Pick(rows, len(waiting), _gaps(waiting, wall_ns))

    def _delivered(self, store: Store, delivered: Spans, each: Pass, stop: int) -> list[Spare]:
        looked = store.look(self._at[each], stop, LOOK)
        rows: list[Spare] = []
        for row, keep in looked:
            if keep == each.keep:
                if row.id in delivered:
                    rows.append(row)
                else:
                    self._skipped = True
            if len(rows) == self.slice_rows:
                break
        if len(rows) == self.slice_rows:
            self._at[each] = rows[-1].id + 1
        else:
            self._at[each] = looked[-1][0].id + 1 if len(looked) == LOOK else stop + 1
        return rows

    def _waiting(self, store: Store, newest: int) -> list[Spare]:
        """Any rows but recipes, audits and gaps, while there are any."""
        while self._waiting_at <= newest:
            looked = store.look(self._waiting_at, newest, LOOK)
            rows = [row for row, keep in looked if keep < 2][: self.slice_rows]
            if rows:
                return rows
            self._waiting_at = looked[-1][0].id + 1 if looked else newest + 1
        return []

    def _kept_rows(self, store: Store) -> int:
        if self._kept is None:
            self._kept, self._kept_at = store.count(), store.last_id
        return self._kept + store.last_id - self._kept_at

    def _removed(self, count: int) -> None:
        self._kept = (self._kept or 0) - count


def remove(pick: Pick, store: Store, cursors: Sequence[Cursor], ledger: Ledger | None) -> None:
    """Take a slice out, behind a checkpoint where one can be signed. Raises sqlite3.Error."""
    if not pick.rows:
        return
    sealed = store.prune(pick.rows, pick.undelivered, ledger.sign if ledger else None)
    if ledger is not None:
        ledger.written(store, sealed)
    if pick.undelivered:
        for cursor in cursors:
            cursor.give_up([row.id for row in pick.rows])


def _gaps(waiting: Sequence[Spare], wall_ns: int) -> list[tuple[str, bytes]]:
    gaps = []
    for station in sorted({row.station for row in waiting}):
        seqs = [row.seq for row in waiting if row.station == station]
        gaps.append((station, messages.gap_body(len(seqs), "the journal was full", seqs[0], seqs[-1], wall_ns)))
    return gaps
