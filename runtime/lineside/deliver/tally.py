"""What a subscriber does with (station, epoch, seq): tell what is new, what came twice and what is missing. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

from lineside.deliver.spans import Spans

Key: TypeAlias = tuple[str, str]  # station, epoch


class Tally:
    """Feed it every message, live and backfill, in whatever order they come."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._seen: dict[Key, Spans] = {}
        self._declared: dict[Key, Spans] = {}  # gone for good, says a gap message

    def is_new(self, message: Mapping[str, Any]) -> bool:
        """False for what has no seq, such as a status, and for what was seen before."""
        if "seq" not in message:
            self.counts[message["kind"]] += 1
            return False
        key, seq = (message["station"], message["epoch"]), message["seq"]
        seen = self._seen.setdefault(key, Spans())
        if seq in seen:
            self.counts["duplicates"] += 1
            return False
        seen.add(seq)
        self.counts[message["kind"]] += 1
        self.counts["backfill" if message["backfill"] else "live"] += 1
        if message["kind"] == "gap" and message["first_seq"] is not None:
            self._declared.setdefault(key, Spans()).add(message["first_seq"], message["last_seq"])
        return True

    def missing(self) -> dict[Key, list[tuple[int, int]]]:
        """Runs of seqs between the first and the last seen that never came, and that no gap message explains."""
        return {key: runs for key in self._seen if (runs := self._missing(key))}

    def _missing(self, key: Key) -> list[tuple[int, int]]:
        spans = list(self._seen[key])
        known = Spans([*spans, *self._declared.get(key, Spans())])
        runs: list[tuple[int, int]] = []
        start, stop = spans[0][0], spans[-1][1]
        while (hole := known.hole(start, stop)) is not None:
            runs.append(hole)
            start = hole[1] + 1
        return runs
