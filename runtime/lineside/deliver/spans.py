"""A set of whole numbers kept as few closed intervals: which journal rows one sink has delivered."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Spans:
    """Sorted, disjoint, non-adjacent intervals. `changed` is what a copy on disk must learn: first -> last or None."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        self.total = 0  # numbers in the set
        self.changed: dict[int, int | None] = {}
        for first, last in spans:
            self.add(first, last)
        self.changed.clear()

    def add(self, first: int, last: int | None = None) -> None:
        """Put first..last into the set (one number when `last` is not given)."""
        last = first if last is None else last
        start = bisect_left(self._last, first - 1)  # the first interval that touches first..last
        stop = bisect_right(self._first, last + 1)  # one past the last that does
        for index in range(start, stop):
            self.total -= self._last[index] - self._first[index] + 1
            self.changed[self._first[index]] = None
        if start < stop:
            first, last = min(first, self._first[start]), max(last, self._last[stop - 1])
        self._first[start:stop], self._last[start:stop] = [first], [last]
        self.total += last - first + 1
        self.changed[first] = last

    def take_changes(self) -> dict[int, int | None]:
        """What changed since the last call."""
        changed, self.changed = self.changed, {}
        return changed

    def restore(self, changes: dict[int, int | None]) -> None:
        """Give back changes that could not be written."""
        self.changed = {**changes, **self.changed}

    def hole(self, start: int, stop: int) -> tuple[int, int] | None:
        """The first run of numbers in start..stop that are not in the set, as (first, last)."""
        index = bisect_left(self._last, start)
        if index < len(self._first) and self._first[index] <= start:
            start = self._last[index] + 1
            index += 1
        if index < len(self._first):
            stop = min(stop, self._first[index] - 1)
        return (start, stop) if start <= stop else None

    def __contains__(self, number: int) -> bool:
        index = bisect_left(self._last, number)
        return index < len(self._first) and self._first[index] <= number

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._first, self._last, strict=True))

    def __len__(self) -> int:
        return len(self._first)


def common(sets: Iterable[Spans], stop: int) -> Spans:
    """The numbers in 1..stop that are in every one of the sets (all of 1..stop when there is no set)."""
    both = Spans([(1, stop)] if stop > 0 else [])
    for spans in sets:
        both = _intersection(both, spans)
    return both


def _intersection(one: Spans, other: Spans) -> Spans:
    mine, theirs = list(one), list(other)
    shared: list[tuple[int, int]] = []
    i = j = 0
    while i < len(mine) and j < len(theirs):
        first, last = max(mine[i][0], theirs[j][0]), min(mine[i][1], theirs[j][1])
        if first <= last:
            shared.append((first, last))
        if mine[i][1] < theirs[j][1]:
            i += 1
        else:
            j += 1
    return Spans(shared)
