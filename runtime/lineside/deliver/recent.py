"""The newest rows of the journal, in memory, for sinks that keep up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from lineside.deliver.tables import Row

ROWS = 512


class Recent:
    """Rows with consecutive ids; any thread may ask."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque(maxlen=ROWS)
        self._lock = threading.Lock()

    def add(self, rows: Sequence[Row]) -> None:
        with self._lock:
            self._rows.extend(rows)

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()

    def rows(self, first: int, last: int, limit: int) -> list[Row] | None:
        """Those with first <= id <= last, at most `limit`; None if `first` is older than what is kept."""
        with self._lock:
            if not self._rows or first < self._rows[0].id:
                return None
            start = first - self._rows[0].id
            stop = min(start + limit, last + 1 - self._rows[0].id, len(self._rows))
            return [self._rows[index] for index in range(start, stop)]
