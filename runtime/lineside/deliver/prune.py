"""Keeps the journal within its cap: delivered rows go first; an undelivered one goes only with a gap record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lineside.deliver import messages
from lineside.deliver.cursor import Cursor
from lineside.deliver.spans import common
from lineside.deliver.tables import Store

SLICE = 512  # rows in one transaction


@dataclass
class Pruned:
    """What one slice removed; `gaps` are bodies of gap records, by station."""

    delivered: int = 0
    undelivered: int = 0
    gaps: list[tuple[str, bytes]] = field(default_factory=list)


def prune(store: Store, cursors: Sequence[Cursor], generation: int, wall_ns: int) -> Pruned:
    """Remove one slice of the oldest rows; the newest row always stays. Raises sqlite3.Error."""
    if any(cursor.generation != generation for cursor in cursors):
        return Pruned()  # a sink has not yet said what it delivered
    newest = store.last_id - 1
    for first, last in common((cursor.spans() for cursor in cursors), newest):
        rows = store.oldest(first, last, SLICE)
        if rows:
            store.delete([row_id for row_id, _, _ in rows])
            return Pruned(delivered=len(rows))
    rows = store.oldest(1, newest, SLICE)
    if not rows:
        return Pruned()
    ids = [row_id for row_id, _, _ in rows]
    store.delete(ids)
    for cursor in cursors:
        cursor.give_up(ids)
    gaps = []
    for station in sorted({station for _, station, _ in rows}):
        seqs = [seq for _, of, seq in rows if of == station]
        body = messages.gap_body(len(seqs), "the journal was full", seqs[0], seqs[-1], wall_ns)
        gaps.append((station, body))
    return Pruned(undelivered=len(rows), gaps=gaps)
